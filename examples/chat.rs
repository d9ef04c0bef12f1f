//! Chats with any model that has a chat template: an image, a Hugging Face folder or a GGUF file.
//!
//! `cargo run --release --features chat --example chat -- MODEL.gguf`

use std::error::Error;
use std::io::{Write, stdin, stdout};
use std::ops::ControlFlow;

use pocketlm::chat::Chat;
use pocketlm::host::{GenerateOptions, Llm, SessionOptions};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let path = std::env::args().nth(1).ok_or("usage: chat MODEL")?;
    let llm = Llm::open(path)?;
    let mut chat = Chat::new(llm.session(&SessionOptions::default())?)?;
    for line in stdin().lines() {
        chat.say(&line?, &GenerateOptions::default(), |text| {
            print!("{text}");
            _ = stdout().flush();
            ControlFlow::Continue(())
        })?;
        println!();
    }
    Ok(())
}
