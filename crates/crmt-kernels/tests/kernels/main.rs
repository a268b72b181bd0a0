//! Tests of the public operations: against PyTorch, naive references and finite differences, and
//! across numbers of threads.
mod common;
mod contracts;
mod gradients;
mod lipschitz;
mod network;
mod stack;
mod threads;
mod torch;
