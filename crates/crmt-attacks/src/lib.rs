//! crmt-attacks
