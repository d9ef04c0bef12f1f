//! `--vocabulary`: which tokens a trimmed model keeps.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::host::file::read_text;
use pocketlm::import::tokenizer::{KeepTokens, Script};

use crate::output::{Outcome, failure, file_failure};
use crate::output_file::keep_from_stdout;

/// The option, for the commands that have it.
#[derive(Args)]
pub struct Trim {
    /// Keep only the tokens that are needed: of a text file, of scripts (script:latin,greek), or
    /// the most frequent ones (size:32000); may be repeated
    #[arg(long = "vocabulary", value_name = "TEXT|script:NAMES|size:N", value_parser = part)]
    parts: Vec<Part>,
}

/// One value of the option.
#[derive(Clone)]
struct Part {
    /// As the user gave it.
    typed: String,
    kept: Kept,
}

/// Which tokens are kept.
#[derive(Clone)]
enum Kept {
    Corpus(PathBuf),
    Scripts(Vec<Script>),
    Size(u32),
}

fn part(value: &str) -> Result<Part, String> {
    Ok(Part {
        typed: value.into(),
        kept: kept(value)?,
    })
}

fn kept(value: &str) -> Result<Kept, String> {
    if let Some(names) = value.strip_prefix("script:") {
        let scripts = names.split(',').map(|name| name.trim().parse());
        let scripts: Result<_, _> = scripts.collect();
        return scripts
            .map(Kept::Scripts)
            .map_err(|error: pocketlm::import::ImportError| error.to_string());
    }
    if let Some(size) = value.strip_prefix("size:") {
        let size = size.parse().ok().filter(|size| *size > 0);
        let expected = "after `size:` give the number of tokens to keep";
        return size.map(Kept::Size).ok_or(expected.into());
    }
    match value {
        "" => Err("give a text file, script:NAMES or size:N".into()),
        _ => Ok(Kept::Corpus(value.into())),
    }
}

impl Trim {
    /// The text files.
    pub fn corpora(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|part| match &part.kept {
            Kept::Corpus(path) => Some(path.as_path()),
            Kept::Scripts(_) | Kept::Size(_) => None,
        })
    }

    /// The option as the user gave it, for a command line.
    pub fn as_typed(&self) -> String {
        let option = |part: &Part| format!(" --vocabulary {}", part.typed);
        self.parts.iter().map(option).collect()
    }

    /// What the option asks for, with the texts read; `None` without the option.
    pub fn keep(&self) -> Outcome<Option<KeepTokens>> {
        if self.parts.is_empty() {
            return Ok(None);
        }
        let mut keep = KeepTokens::default();
        for part in &self.parts {
            match &part.kept {
                Kept::Corpus(path) => {
                    let text = text(path)?;
                    if text.trim().is_empty() {
                        return Err(file_failure(path, "holds no text"));
                    }
                    keep.corpora.push(text);
                }
                Kept::Scripts(scripts) => keep.scripts.extend(scripts.iter().cloned()),
                Kept::Size(size) if keep.size.is_some() => {
                    return Err(failure(format_args!(
                        "--vocabulary size:{size}: there can be only one size"
                    )));
                }
                Kept::Size(size) => keep.size = Some(*size),
            }
        }
        Ok(Some(keep))
    }
}

/// A text file, or stdin for `-`. The command must not be writing to it.
pub fn text(path: &Path) -> Outcome<String> {
    keep_from_stdout(path)?;
    if path.as_os_str() == "-" {
        let mut text = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut text);
        return read
            .map(|_| text)
            .map_err(|error| failure(format_args!("standard input: {error}")));
    }
    if path.is_file() {
        return Ok(read_text(path, u64::MAX - 1)?);
    }
    std::fs::read_to_string(path).map_err(|error| file_failure(path, error))
}
