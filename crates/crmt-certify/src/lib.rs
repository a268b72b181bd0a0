//! crmt-certify
