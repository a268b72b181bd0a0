//! crmt-kernels
