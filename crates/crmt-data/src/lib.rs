//! crmt-data
