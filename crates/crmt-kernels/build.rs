//! Compiles the CUDA kernels to PTX, with the feature `cuda` only.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    if let Err(error) = compile_kernels() {
        println!(
            "cargo::error=the CUDA kernels can't be compiled: {error}; is nvcc on the PATH? (docs/cuda.md)"
        );
    }
}

#[cfg(feature = "cuda")]
fn compile_kernels() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=src/cuda/kernels.cu");
    let compiled = cudaforge::KernelBuilder::new()
        .source_files(["src/cuda/kernels.cu"])
        .args(["-std=c++17", "-O3", "--expt-relaxed-constexpr"])
        .build_ptx()?;
    Ok(compiled.write(std::path::Path::new(&std::env::var("OUT_DIR")?).join("ptx.rs"))?)
}
