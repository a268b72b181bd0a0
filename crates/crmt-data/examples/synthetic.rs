//! Writes the built-in set to a directory: `cargo run -p crmt-data --example synthetic -- DIR`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: synthetic DIR")?;
    let start = std::time::Instant::now();
    let data = crmt_data::synthetic(&crmt_data::SyntheticOptions::default())?;
    println!("generated in {:.2?}", start.elapsed());
    crmt_data::write_dataset(&data, &dir, true)?;
    println!("written to {dir}");
    Ok(())
}
