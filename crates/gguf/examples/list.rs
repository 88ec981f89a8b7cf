//! What is in a GGUF file: `cargo run --example list -- model.gguf`

use std::path::PathBuf;

use caravan_gguf::{Array, Header, Value};

#[allow(clippy::print_stdout, reason = "an example shows what it found")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        println!("give the path of a file that ends in .gguf");
        return Ok(());
    };
    let header = Header::open(&path)?;
    for (key, value) in header.metadata() {
        match value {
            Value::Array(Array::String(texts)) => println!("{key}: {} texts", texts.len()),
            Value::Array(array) => println!("{key}: {} values", array.len()),
            other => println!("{key}: {other:?}"),
        }
    }
    for (name, tensor) in header.tensors() {
        println!("{name} {:?} {}", tensor.shape, tensor.quant);
    }
    Ok(())
}
