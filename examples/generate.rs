//! Continues a text with any model: an image, a Hugging Face folder, a GGUF or a llama2.c file.
//!
//! `cargo run --release --features std --example generate -- MODEL "Once upon a time"`

use std::error::Error;
use std::io::{Write, stdout};
use std::ops::ControlFlow;

use pocketlm::host::{GenerateOptions, Llm, SessionOptions};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(prompt)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate MODEL PROMPT".into());
    };
    let llm = Llm::open(path)?;
    let mut session = llm.session(&SessionOptions::default())?;
    let options = GenerateOptions {
        limit: 200,
        ..Default::default()
    };

    print!("{prompt}");
    session.generate(&prompt, &options, |text| {
        print!("{text}");
        _ = stdout().flush();
        ControlFlow::Continue(())
    })?;
    println!();
    Ok(())
}
