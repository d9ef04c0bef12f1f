//! Continues a text with any model: an image, a Hugging Face folder, a GGUF or a llama2.c file.
//!
//! `cargo run --release --features std --example generate -- MODEL "Once upon a time"`

use std::error::Error;
use std::io::{Write, stdout};
use std::path::Path;

use pocketlm::host::{AlignedBytes, Threads, file::MappedFile};
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{MAGIC, Model};
use pocketlm::run::{Kv, Plan, Session};
use pocketlm::sample::Sampler;
use pocketlm::text::{Decoder, EncodeOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(prompt)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate MODEL PROMPT".into());
    };
    let path = Path::new(&path);

    // An image is mapped and used where it lies; anything else is packed in memory first.
    let is_image = path.is_file() && MappedFile::open(path)?.starts_with(&MAGIC);
    let (mapped, packed);
    let image: &[u8] = if is_image {
        mapped = MappedFile::open(path)?;
        &mapped
    } else {
        packed = import::pack_to_memory(
            &*import::open(path)?,
            &PackOptions::default(),
            &mut |_, _| {},
        )?;
        &packed
    };
    let model = Model::open(image)?;
    let tokenizer = model.tokenizer()?.ok_or("the model has no tokenizer")?;

    let mut ids = vec![0; prompt.len() + 8];
    let mut scratch = vec![0; tokenizer.scratch_len(prompt.len())];
    let count = tokenizer.encode(&prompt, EncodeOptions::default(), &mut scratch, &mut ids)?;
    ids.truncate(count);

    let plan = Plan::new(model.header())
        .context(count as u32 + 200)
        .batch(32)
        .kv(Kv::F16);
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    let threads = Threads::new(0)?;
    let mut session = Session::new(&model, &plan, &mut arena, &threads)?;
    let mut sampler = Sampler::new(42).temperature(0.7).top_p(0.9);
    let mut decoder = Decoder::new(&tokenizer).skip_special(true);

    print!("{prompt}");
    while session.len() + ids.len() <= session.context() {
        let id = sampler.sample(session.feed(&ids)?)?;
        if tokenizer.is_eos(id) {
            break;
        }
        print!("{}", decoder.push(id)?);
        stdout().flush()?;
        ids = vec![id];
    }
    println!("{}", decoder.finish());
    Ok(())
}
