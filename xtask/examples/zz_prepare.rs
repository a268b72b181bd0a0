//! scratch
#[path = "../src/prepare.rs"] mod prepare;
#[derive(clap::Parser)] struct C { #[command(flatten)] a: prepare::Args }
fn main() { use clap::Parser; if let Err(e) = prepare::run(C::parse().a) { eprintln!("error: {e:#}"); std::process::exit(1) } }
