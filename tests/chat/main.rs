//! Models, sessions and conversations that a program owns, and chat templates.

#![cfg(feature = "chat")]

mod gguf;
mod llm;
mod templates;
