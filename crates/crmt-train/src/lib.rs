//! crmt-train
