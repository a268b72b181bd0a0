//! crmt-fusion
