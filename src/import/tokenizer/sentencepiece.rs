//! `tokenizer.model`: sentencepiece's `ModelProto`. The few fields that matter are read directly
//! from the protobuf wire format (<https://protobuf.dev/programming-guides/encoding/>), which takes
//! less code than a generator.

use std::prelude::rust_2024::*;

use super::section::{Added, TokenizerSection};
use super::spaced;
use crate::import::ImportError;
use crate::text::section::{ADDED_SPECIAL, BYTE_FALLBACK, FOLD, FUSE_UNKNOWN, Prefix, STRIP};

/// sentencepiece's numbers for the kinds of pieces. GGUF uses the same.
pub(super) mod kind {
    pub(in super::super) const NORMAL: i32 = 1;
    pub(in super::super) const UNKNOWN: i32 = 2;
    pub(in super::super) const CONTROL: i32 = 3;
    pub(in super::super) const USER_DEFINED: i32 = 4;
    pub(in super::super) const BYTE: i32 = 6;
}

/// How text is read with a `tokenizer.model`.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Reading {
    /// As sentencepiece alone does: control tokens are never read from text and never shown in it;
    /// one space goes before the whole text.
    Plain,
    /// As transformers' Llama tokenizer does: control tokens are split off first; a space goes
    /// before each stretch of text.
    Legacy,
    /// As the same does with `legacy: false`: a space goes before a text that does not start with
    /// one.
    NotLegacy,
}

struct Piece<'p> {
    text: &'p str,
    score: f32,
    kind: i32,
}

/// The fields of a `tokenizer.model` that matter.
struct Model<'p> {
    pieces: Vec<Piece<'p>>,
    model_type: u64,
    suffix_whitespace: bool,
    bos: i32,
    eos: i32,
    unk_surface: &'p str,
    dummy_prefix: bool,
    removes_extra_whitespaces: bool,
    escapes_whitespaces: bool,
    has_charsmap: bool,
}

impl<'p> Model<'p> {
    fn read(model: &'p [u8]) -> Result<Self, ImportError> {
        // Fields that are left out have these values.
        let mut this = Model {
            pieces: vec![],
            model_type: 1,
            suffix_whitespace: false,
            bos: 1,
            eos: 2,
            unk_surface: " \u{2047} ",
            dummy_prefix: true,
            removes_extra_whitespaces: true,
            escapes_whitespaces: true,
            has_charsmap: false,
        };
        for field in Fields::new(model) {
            match field? {
                (1, Value::Bytes(piece)) => {
                    let number = this.pieces.len();
                    let piece = read_piece(piece).map_err(|error| {
                        ImportError::new(format!("piece {number}: {}", error.reason))
                    });
                    this.pieces.push(piece?);
                }
                (2, Value::Bytes(spec)) => this.read_trainer_spec(spec)?,
                (3, Value::Bytes(spec)) => this.read_normalizer_spec(spec)?,
                _ => {}
            }
        }
        Ok(this)
    }

    fn read_trainer_spec(&mut self, spec: &'p [u8]) -> Result<(), ImportError> {
        for field in Fields::new(spec) {
            match field? {
                (3, Value::Number(value)) => self.model_type = value,
                (24, Value::Number(value)) => self.suffix_whitespace = value != 0,
                (41, Value::Number(value)) => self.bos = value as i32,
                (42, Value::Number(value)) => self.eos = value as i32,
                (44, Value::Bytes(value)) => self.unk_surface = utf8(value, "unk_surface")?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer_spec(&mut self, spec: &[u8]) -> Result<(), ImportError> {
        for field in Fields::new(spec) {
            match field? {
                (2, Value::Bytes(value)) => self.has_charsmap = !value.is_empty(),
                (3, Value::Number(value)) => self.dummy_prefix = value != 0,
                (4, Value::Number(value)) => self.removes_extra_whitespaces = value != 0,
                (5, Value::Number(value)) => self.escapes_whitespaces = value != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks that the model is one that is supported.
    fn check(&self) -> Result<(), ImportError> {
        if self.pieces.is_empty() {
            return Err(ImportError::new("no pieces: not a sentencepiece model"));
        }
        let refused = match self.model_type {
            2 if self.has_charsmap => "a normaliser with a character map",
            2 if self.removes_extra_whitespaces => "`remove_extra_whitespaces`",
            2 if !self.escapes_whitespaces => "`escape_whitespaces` off",
            2 if self.suffix_whitespace => "`treat_whitespace_as_suffix`",
            2 => return Ok(()),
            1 => "model type unigram",
            3 => "model type word",
            4 => "model type char",
            _ => "an unknown model type",
        };
        Err(ImportError::new(format!(
            "sentencepiece: {refused} is not supported"
        )))
    }
}

/// The tokenizer of a `tokenizer.model`.
pub(super) fn read(model: &[u8], reading: Reading) -> Result<TokenizerSection, ImportError> {
    let model = Model::read(model)?;
    model.check()?;
    let known = model.pieces.len();
    let mut tokenizer = TokenizerSection::new();
    tokenizer.flags = FOLD | FUSE_UNKNOWN;
    if model.dummy_prefix {
        tokenizer.flags |= STRIP;
        tokenizer.prefix = match reading {
            Reading::Plain => Prefix::TextStart,
            Reading::Legacy => Prefix::Always,
            Reading::NotLegacy => Prefix::TextStartUnlessSpace,
        };
    }
    for (id, piece) in (0..).zip(&model.pieces) {
        let decoded = add_piece(&model, id, piece, reading, &mut tokenizer)?;
        tokenizer.set_piece(id.into(), decoded, known)?;
    }
    let scores: Vec<f32> = model.pieces.iter().map(|piece| piece.score).collect();
    tokenizer.merges_by_score(&scores)?;
    let valid = |id: i32| u32::try_from(id).ok().filter(|id| (*id as usize) < known);
    tokenizer.bos = valid(model.bos);
    tokenizer.before = tokenizer.bos.into_iter().collect();
    tokenizer.eos = valid(model.eos).into_iter().collect();
    Ok(tokenizer)
}

/// Adds a piece to what its kind calls for. Returns what it decodes to.
fn add_piece(
    model: &Model,
    id: u32,
    piece: &Piece,
    reading: Reading,
    tokenizer: &mut TokenizerSection,
) -> Result<Vec<u8>, ImportError> {
    let [raw, normalized] = &mut tokenizer.added;
    let control = Added {
        content: piece.text.into(),
        flags: ADDED_SPECIAL,
        id,
    };
    match piece.kind {
        kind::NORMAL => {
            tokenizer.encodable.insert(id);
        }
        kind::UNKNOWN => {
            tokenizer.unknown = Some(id);
            if reading == Reading::Plain {
                return Ok(model.unk_surface.into());
            }
            raw.push(control);
        }
        kind::CONTROL if reading == Reading::Plain => {
            tokenizer.special.insert(id);
            return Ok(vec![]);
        }
        kind::CONTROL => raw.push(control),
        kind::USER_DEFINED => normalized.push(Added {
            content: spaced(piece.text),
            flags: 0,
            id,
        }),
        kind::BYTE => {
            let byte = byte_piece(piece.text).ok_or_else(|| {
                let text = piece.text;
                ImportError::new(format!("piece {id}: `{text}` is not the name of a byte"))
            })?;
            tokenizer.flags |= BYTE_FALLBACK;
            tokenizer.byte_ids.entry(byte).or_insert(id);
            return Ok(vec![byte]);
        }
        // An unused piece can only be decoded.
        _ => {}
    }
    Ok(spaced(piece.text))
}

/// The byte that a piece like `<0x0A>` stands for.
pub(super) fn byte_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || digits.starts_with('+') {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn read_piece(bytes: &[u8]) -> Result<Piece<'_>, ImportError> {
    let mut piece = Piece {
        text: "",
        score: 0.0,
        kind: kind::NORMAL,
    };
    for field in Fields::new(bytes) {
        match field? {
            (1, Value::Bytes(text)) => piece.text = utf8(text, "text")?,
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Number(kind)) => piece.kind = i32::try_from(kind).unwrap_or(0),
            _ => {}
        }
    }
    if piece.text.is_empty() {
        return Err(ImportError::new("no text"));
    }
    Ok(piece)
}

fn utf8<'p>(bytes: &'p [u8], what: &str) -> Result<&'p str, ImportError> {
    core::str::from_utf8(bytes).map_err(|_| ImportError::new(format!("{what} is not UTF-8")))
}

enum Value<'p> {
    Number(u64),
    Fixed32(u32),
    Bytes(&'p [u8]),
    /// No field of these types matters here.
    Other,
}

/// The fields of a message: number and value, until the end or the first that is damaged.
struct Fields<'p> {
    bytes: &'p [u8],
    len: usize,
}

impl<'p> Fields<'p> {
    fn new(bytes: &'p [u8]) -> Self {
        Fields {
            bytes,
            len: bytes.len(),
        }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: u64) -> Option<&'p [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(usize::try_from(len).ok()?)?;
        self.bytes = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Value<'p>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'p> Iterator for Fields<'p> {
    type Item = Result<(u64, Value<'p>), ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let at = self.len - self.bytes.len();
        let field = self.field();
        if field.is_none() {
            self.bytes = &[];
        }
        let damaged = || {
            ImportError::new(format!(
                "sentencepiece: damaged protobuf field at byte {at} of a message of {}",
                self.len
            ))
        };
        Some(field.ok_or_else(damaged))
    }
}
