#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
//! Llama-, Mistral-, Gemma- and Qwen-family language models from one `no_std` crate without a heap:
//! the same image, the same code and **the same bits** on a Cortex-M, a Raspberry Pi and a laptop.
//!
//! ```text
//!  checkpoint files                                         prompt
//!       │ import (std, once, on a host)                        │
//!       ▼                                                      ▼
//!  image bytes ──► flash, mmap, include_image!         text::Tokenizer
//!       │                                                      │ ids
//!       ▼                                                      ▼
//!  model::Model ─────────────► run::Session::feed(ids) ──► logits ──► sample::Sampler ─► id ─┐
//!  (borrowed, checked once)      │ in one arena                                             │
//!                                └──────────────────── the next feed ◄──────────────────────┘
//! ```
//!
//! * [`model`]: what an image holds, and the byte format. [`Model::open`](model::Model::open)
//!   checks all of it but the tokenizer, once.
//! * [`run`]: [`Plan`](run::Plan) says in a `const` what memory a session takes;
//!   [`Session`](run::Session) computes in it.
//! * [`text`]: [`Tokenizer`](text::Tokenizer) and [`Decoder`](text::Decoder).
//! * [`sample`]: [`Sampler`](sample::Sampler), from logits to the next token.
//! * [`grammar`]: [`Constraint`](grammar::Constraint), which tokens may come next: JSON of a
//!   schema, a regular expression, calls of tools.
//! * [`generate`]: [`Generation`](generate::Generation), the loop of feeding, sampling and
//!   decoding.
//! * `import` (feature `std`): checkpoints of many kinds to images. Everything that varies between
//!   formats ends there.
//! * `quantize` (feature `std`): packs matrices in few bits so that the model errs little.
//! * `host` (feature `std`): models and sessions that a program owns (`Llm`), files, threads, and a
//!   harness that holds images against golden cases.
//! * `chat` (feature `chat`): conversations, and the chat templates that checkpoints have.
//! * [`pocketlm_kernels`]: the arithmetic, and the contract that makes it the same everywhere.
//! * [`manual`]: getting started on a host, on a board and in C; types and memory, small types,
//!   grammars; architecture, the numeric contract, how to add a type, a kind of layer, a family or
//!   an instruction set; style and glossary.
//!
//! A whole program, without a heap ([`Error`] is all that can go wrong):
//!
//! ```
//! use pocketlm::generate::Generation;
//! use pocketlm::model::Model;
//! use pocketlm::run::{Plan, Session, Solo, StaticArena};
//! use pocketlm::sample::Sampler;
//! use pocketlm::text::{EncodeOptions, scratch_len};
//!
//! // The image is part of the program; what it needs is known before it runs.
//! const STORY: &[u8] = pocketlm::include_image!("bin/pocketlm/story/story.plm");
//! const PLAN: Plan = Plan::of(STORY).context(128).batch(4);
//! static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
//!
//! let model = Model::open(STORY)?;
//! let tokenizer = model.tokenizer()?;
//! let mut session = Session::new(&model, &PLAN, ARENA.take().expect("taken once"), &Solo)?;
//!
//! let prompt = "Once upon a time";
//! let (mut ids, mut scratch) = ([0; 16], [0; scratch_len(16)]);
//! let count = tokenizer.encode(prompt, EncodeOptions::default(), &mut scratch, &mut ids)?;
//!
//! let mut sampler = Sampler::greedy();
//! let mut text = String::new();
//! let mut generation =
//!     Generation::new(&mut session, &mut sampler, &tokenizer, &ids[..count]).limit(8);
//! while generation.end().is_none() {
//!     generation.next(|chunk| text.push_str(chunk))?;
//! }
//! assert_eq!(text, ", there was a little girl named Lily");
//! # Ok::<(), pocketlm::Error>(())
//! ```
//!
//! # Security
//!
#![doc = include_str!("security.md")]
//!
//! # Features
//!
//! None of the default features needs std.
//!
//! | feature | adds |
//! |---|---|
//! | `f32` `f16` `bf16` `q8` `q6` `q5` `q4` `nl4` `nl3` (default) | kernels for that type of weights, keys and values |
//! | `byte-level` (default) | tokenizers of byte-level BPE (GPT-2, Llama 3, SmolLM, Qwen) |
//! | `nfc` (default, with `byte-level`) | tokenizers that normalise text to NFC (Qwen) |
//! | `convolution` (default) | layers that are short convolutions (LFM2) |
//! | `grammar` (default) | text that obeys a [grammar](grammar) |
//! | `std` | `import` and `host`, and all types, tokenizers, `grammar`, `convolution`, `source`, `embedded-storage` |
//! | `chat` | `chat`: conversations with a model, and chat templates (and `std`) |
//! | `cli` | the command line |
//! | `source` | weights that are not memory-mapped ([`WeightSource`](model::WeightSource)) |
//! | `embedded-storage` | [`Snapshots`](run::Snapshots), [`FlashImage`](run::FlashImage) |
//! | `dsp` | kernels for Cortex-M4F, M7 and M33 |
//! | `mve` | kernels for Cortex-M55 and M85 (Helium) |
//! | `rvv` | kernels for RISC-V with the vector extension, version 1.0 |
//! | `defmt` | `defmt::Format` on the public types of the core, and a few log points |
//!
//! Types, tokenizers, grammars, convolutions, `source` and `embedded-storage` are features because
//! each takes flash. If an image needs one that is missing, it is refused with an error that names
//! it. `dsp`, `mve` and `rvv` are features because stable Rust does not show whether the processor
//! has these instructions.

#[cfg(feature = "std")]
#[macro_use]
extern crate std;

#[cfg(feature = "std")]
mod aligned;
#[cfg(feature = "chat")]
pub mod chat;
mod error;
pub mod generate;
#[cfg(feature = "grammar")]
pub mod grammar;
#[cfg(feature = "std")]
pub mod host;
#[cfg(feature = "std")]
pub mod import;
mod log;
pub mod manual;
pub mod model;
#[cfg(feature = "std")]
pub mod quantize;
pub mod run;
pub mod sample;
#[cfg(feature = "chat")]
mod template;
pub mod text;

pub use error::Error;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
