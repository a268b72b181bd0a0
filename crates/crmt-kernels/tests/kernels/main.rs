//! Tests of the public operations: against PyTorch, naive references and finite differences, and across
//! numbers of threads.
mod common;
mod contracts;
mod conv_stack;
mod gradients;
mod lipschitz;
mod stack;
mod threads;
mod torch;
