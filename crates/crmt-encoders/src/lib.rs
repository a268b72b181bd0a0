//! crmt-encoders
