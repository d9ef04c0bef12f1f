//! What is fuzzed: each target is a plain function of bytes, which must neither panic nor hang nor
//! touch memory that is not its own, whatever the bytes. libFuzzer calls them with the bytes it
//! makes up (`run`), and `cargo test` with those of the corpus (`tests/fuzz.rs`).

mod bytes;
mod checkpoints;
mod grammar;
mod image;
#[path = "../../common/random.rs"]
#[allow(dead_code)] // shared with the tests
mod random;
mod seeds;
mod sessions;
mod source;
mod template;
mod text;
mod variants;

pub use seeds::seeds;

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 18] = [
    // An image as it is, and with its checksums repaired: opened, 16 tokens, all kernels the same
    // bits.
    ("image", image::image),
    // Edits to the fields of small valid images, checksums repaired.
    ("edits", image::edits),
    // The same edits to images on a device, opened and run through a window, and scrubbed.
    ("source", source::source),
    // A sequence of calls to a session, checked against one that is fed the same tokens plainly.
    ("steps", sessions::steps),
    // A snapshot as it is, and with its checksums repaired: restored, and gone on with.
    ("snapshot", sessions::snapshot),
    // Checkpoints: opened, packed in memory, run.
    ("gguf", checkpoints::gguf),
    ("folder", checkpoints::folder_target),
    ("llama2c", checkpoints::llama2c),
    // Vocabularies: read, written as a section, used.
    ("tokenizer_json", text::tokenizer_json),
    ("tokenizer_model", text::tokenizer_model),
    // Patterns of pre-tokenizers: compiled, and text cut by them.
    ("pattern", text::pattern),
    // A tokenizer section: opened, used.
    ("section", text::section),
    // Text to ids and back.
    ("text", text::text),
    // A chat template: compiled, rendered with a conversation, cut into pieces.
    ("template", template::template),
    // Grammars: compiled and walked; opened with the checksum repaired, and walked; walked far.
    ("compile", grammar::compile),
    ("grammar", grammar::open),
    ("walk", grammar::walk_target),
    // Any logits, any settings.
    ("sampler", text::sampler),
];

/// The corpus of a target: inputs one after the other, each with its length before it (u32,
/// little-endian).
pub fn unpack(mut corpus: &[u8]) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    while let Some((length, rest)) = corpus.split_first_chunk() {
        let (input, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        inputs.push(input.to_vec());
        corpus = rest;
    }
    inputs
}

/// The other way round.
#[allow(dead_code)] // of `corpus` alone
pub fn pack(inputs: &[Vec<u8>]) -> Vec<u8> {
    inputs
        .iter()
        .flat_map(|input| [&(input.len() as u32).to_le_bytes()[..], input].concat())
        .collect()
}
