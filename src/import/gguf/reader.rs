//! Reads the header, metadata and tensor list of a GGUF file, and checks them against the file's
//! size.
//!
//! Version 3, little-endian (version 2 differs in nothing that matters here); `docs/gguf.md` of
//! ggml specifies it:
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 keys
//! keys    × { string key, u32 type, value }
//! tensors × { string name, u32 n, u64 dimension[n], u32 type, u64 offset }
//!         the innermost dimension first; offsets from the start of the tensor data
//! padding to `general.alignment`, then the tensor data, each tensor aligned likewise
//! string = u64 length, bytes
//! array = u32 type, u64 length, elements
//! bool = one byte, 0 or 1
//! ```
//! Only names are copied: a string or an array is kept as its range of bytes in the file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::prelude::rust_2024::*;

use crate::import::{Element, ImportError};

/// Metadata and tensor list must end before this many bytes; the largest vocabularies take some
/// 20 MB. The file's size is no bound, because holes count in it.
const HEADER_LIMIT: usize = 256 << 20;
/// Levels of arrays in arrays. Files have at most two.
const DEEPEST_ARRAY: usize = 8;
/// ggml's limit.
const MOST_DIMENSIONS: u32 = 4;
/// Bytes of the shortest key with its value: an empty string, a type and one byte.
const SHORTEST_KEY: usize = 8 + 4 + 1;
/// Bytes of the shortest tensor entry: an empty name and one dimension.
const SHORTEST_TENSOR: usize = 8 + 4 + 8 + 4 + 8;

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Type {
    fn from_code(code: u32) -> Option<Type> {
        Some(match code {
            0 => Type::U8,
            1 => Type::I8,
            2 => Type::U16,
            3 => Type::I16,
            4 => Type::U32,
            5 => Type::I32,
            6 => Type::F32,
            7 => Type::Bool,
            8 => Type::String,
            9 => Type::Array,
            10 => Type::U64,
            11 => Type::I64,
            12 => Type::F64,
            _ => return None,
        })
    }

    /// The bytes of a value, or the fewest it can have.
    fn bytes(self) -> usize {
        match self {
            Type::U8 | Type::I8 | Type::Bool => 1,
            Type::U16 | Type::I16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::U64 | Type::I64 | Type::F64 | Type::String => 8,
            Type::Array => 12,
        }
    }
}

/// A metadata value. Strings and arrays are ranges of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array(Array),
}

/// An array. Its elements have been read once, so all of them are within the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    pub(super) of: Type,
    pub(super) len: usize,
    pub(super) bytes: Range<usize>,
}

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) element: Element,
    /// Outermost dimension first, the reverse of the file's order: `[rows, columns]` of a matrix.
    pub(super) shape: Vec<usize>,
    /// The bytes in the file; exactly as many as the shape needs.
    pub(super) bytes: Range<usize>,
}

/// The metadata and the tensor list of a GGUF file.
#[derive(Debug)]
pub(super) struct GgufHeader {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, Stored>,
}

/// Reads the header of a whole file.
///
/// # Errors
/// Not GGUF; an unknown version; cut short; an impossible count, length, type, dimension or offset;
/// a key or a tensor that occurs twice; tensors that overlap.
pub(super) fn read(file: &[u8]) -> Result<GgufHeader, ImportError> {
    let mut at = Cursor {
        file: file.get(..HEADER_LIMIT).unwrap_or(file),
        at: 0,
    };
    let tensor_count = preamble(&mut at)?;
    let metadata = metadata(&mut at)?;
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 30 => *n as usize,
        Some(_) => return Err(ImportError::new("general.alignment is not a power of two")),
    };
    let entries = entries(&mut at, tensor_count)?;
    let Some(start) = at.at.checked_next_multiple_of(alignment) else {
        return Err(ImportError::new(format!(
            "general.alignment is {alignment}"
        )));
    };
    let tensors = place(entries, start, alignment, file.len())?;
    Ok(GgufHeader { metadata, tensors })
}

/// Magic and version; returns the number of tensors, which stands before that of the keys.
fn preamble(at: &mut Cursor<'_>) -> Result<usize, ImportError> {
    if at.file.get(..4) != Some(b"GGUF") {
        let reason = match at.file {
            [] => "an empty file",
            [b'g', b'g', b'j' | b'm' | b'f', ..]
            | [b't' | b'f' | b'l', b'j' | b'm', b'g', b'g', ..] => {
                "an old ggml file, from before GGUF"
            }
            _ => "not a GGUF file: it does not begin with \"GGUF\"",
        };
        return Err(ImportError::new(reason));
    }
    at.at = 4;
    let version = at.u32("the version")?;
    match version {
        2 | 3 => {}
        1 => {
            return Err(ImportError::new("GGUF version 1")
                .help("convert it anew: versions 2 and 3 are read"));
        }
        _ if version.swap_bytes() <= 3 && version != 0 => {
            return Err(
                ImportError::new("a big-endian GGUF file").help("convert it to little-endian")
            );
        }
        _ => {
            return Err(ImportError::new(format!("GGUF version {version}"))
                .help("versions 2 and 3 are read"));
        }
    }
    at.count("", "tensors", 0)
}

fn metadata(at: &mut Cursor<'_>) -> Result<BTreeMap<String, Value>, ImportError> {
    let count = at.count("", "keys", SHORTEST_KEY)?;
    let mut metadata = BTreeMap::new();
    for i in 0..count {
        let start = at.at;
        let key = at.name(&format!("key {i} of {count}"))?;
        let value = at.value(&key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(ImportError::new(format!(
                "key `{key}` occurs a second time, at byte {start}"
            )));
        }
    }
    Ok(metadata)
}

/// A tensor's name, type and shape, and its offset, which is not checked yet.
struct Entry {
    name: String,
    element: Element,
    shape: Vec<usize>,
    offset: u64,
    bytes: usize,
}

fn entries(at: &mut Cursor<'_>, count: usize) -> Result<Vec<Entry>, ImportError> {
    if count > at.left() / SHORTEST_TENSOR {
        return Err(ImportError::new(format!(
            "{count} tensors listed in the {} bytes from {} on",
            at.left(),
            at.at
        )));
    }
    let mut entries = Vec::with_capacity(count);
    for i in 0..count {
        let name = at.name(&format!("the name of tensor {i} of {count}"))?;
        entries.push(entry(at, name)?);
    }
    Ok(entries)
}

/// Reads what stands behind the name of a tensor.
fn entry(at: &mut Cursor<'_>, name: String) -> Result<Entry, ImportError> {
    let what = format!("tensor `{name}`");
    let refuse = |reason: String| Err(ImportError::new(format!("{what}: {reason}")));
    let dimensions = at.u32(&what)?;
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        return refuse(format!(
            "{dimensions} dimensions, at most {MOST_DIMENSIONS} are possible"
        ));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(at.u64(&what)?);
    }
    shape.reverse();
    let code = at.u32(&what)?;
    let offset = at.u64(&what)?;
    let Some(element) = element(code) else {
        return Err(ImportError::new(format!(
            "{what}: stored as {}, which is not supported",
            type_name(code)
        ))
        .help(
            "requantise it to one of F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K…Q6_K IQ4_NL \
             Q1_0 Q2_0",
        ));
    };
    let Some((bytes, shape)) = sizes(element, &shape) else {
        return refuse(format!(
            "a shape of {shape:?} in {element} blocks of {} cannot be",
            element.block_len()
        ));
    };
    Ok(Entry {
        name,
        element,
        shape,
        offset,
        bytes,
    })
}

/// Bytes and shape of a tensor, if no dimension is 0, the innermost is made of whole blocks and all
/// fits in memory.
fn sizes(element: Element, shape: &[u64]) -> Option<(usize, Vec<usize>)> {
    let shape = shape
        .iter()
        .map(|&n| usize::try_from(n).ok().filter(|&n| n > 0))
        .collect::<Option<Vec<_>>>()?;
    let row = element.bytes(*shape.last()?)?;
    let bytes = shape[..shape.len() - 1]
        .iter()
        .try_fold(row, |bytes, &n| bytes.checked_mul(n))?;
    Some((bytes, shape))
}

/// Turns offsets into ranges of the file, and rejects any that overlap. The offsets count from
/// `start` on; `file` is the file's size.
fn place(
    entries: Vec<Entry>,
    start: usize,
    alignment: usize,
    file: usize,
) -> Result<BTreeMap<String, Stored>, ImportError> {
    let mut tensors = BTreeMap::new();
    for entry in entries {
        let bytes = range(&entry, start, alignment, file)
            .map_err(|reason| ImportError::new(format!("tensor `{}`: {reason}", entry.name)))?;
        if tensors.contains_key(&entry.name) {
            let reason = format!("tensor `{}`: listed twice", entry.name);
            return Err(ImportError::new(reason));
        }
        let stored = Stored {
            element: entry.element,
            shape: entry.shape,
            bytes,
        };
        tensors.insert(entry.name, stored);
    }
    refuse_overlaps(&tensors)?;
    Ok(tensors)
}

/// The range of the file in which a tensor is.
///
/// # Errors
/// The reason why there can be none.
fn range(
    entry: &Entry,
    start: usize,
    alignment: usize,
    file: usize,
) -> Result<Range<usize>, String> {
    let offset = entry.offset;
    let bytes = entry.bytes;
    let begin = usize::try_from(offset)
        .ok()
        .filter(|offset| offset.is_multiple_of(alignment))
        .and_then(|offset| offset.checked_add(start))
        .ok_or_else(|| format!("offset {offset} is not aligned to {alignment} bytes"))?;
    let end = begin.checked_add(bytes).filter(|&end| end <= file);
    let end = end.ok_or_else(|| {
        format!("{bytes} bytes from byte {begin} on, but the file ends at {file}")
    })?;
    Ok(begin..end)
}

/// Rejects tensors that have bytes in common.
fn refuse_overlaps(tensors: &BTreeMap<String, Stored>) -> Result<(), ImportError> {
    let mut by_place: Vec<_> = tensors.iter().collect();
    by_place.sort_by_key(|(_, stored)| stored.bytes.start);
    for pair in by_place.windows(2) {
        let [(one, first), (other, second)] = pair else {
            continue;
        };
        let begin = second.bytes.start;
        if first.bytes.end <= begin {
            continue;
        }
        let reason = format!("tensors `{one}` and `{other}` overlap at byte {begin}");
        let error = ImportError::new(reason);
        return Err(if first.element == Element::Q2_0 {
            error.help(
                "Q2_0 is read in blocks of 64 weights, as llama.cpp writes it; some files of \
                 PrismML have blocks of 128",
            )
        } else {
            error
        });
    }
    Ok(())
}

/// The element type with this number in ggml, if it is supported.
fn element(code: u32) -> Option<Element> {
    Some(match code {
        0 => Element::F32,
        1 => Element::F16,
        2 => Element::Q4_0,
        3 => Element::Q4_1,
        6 => Element::Q5_0,
        7 => Element::Q5_1,
        8 => Element::Q8_0,
        10 => Element::Q2_K,
        11 => Element::Q3_K,
        12 => Element::Q4_K,
        13 => Element::Q5_K,
        14 => Element::Q6_K,
        20 => Element::IQ4_NL,
        30 => Element::BF16,
        41 => Element::Q1_0,
        42 => Element::Q2_0,
        _ => return None,
    })
}

/// ggml's name of an element type that is not supported.
fn type_name(code: u32) -> String {
    let known = match code {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("ggml type {code}"),
    };
    known.into()
}

/// A position in the file. Reading past the end is an error that says what was read, and where.
pub(super) struct Cursor<'f> {
    file: &'f [u8],
    at: usize,
}

impl<'f> Cursor<'f> {
    /// Reads the elements of an array anew.
    pub(super) fn over(file: &'f [u8], array: &Array) -> Self {
        Cursor {
            file,
            at: array.bytes.start,
        }
    }

    fn left(&self) -> usize {
        self.file.len() - self.at
    }

    fn take(&mut self, n: usize, what: &str) -> Result<&'f [u8], ImportError> {
        let Some((taken, _)) = self.file[self.at..].split_at_checked(n) else {
            let reason = format!(
                "{what}: {n} bytes from byte {} on, but the file ends at {}",
                self.at,
                self.file.len()
            );
            return Err(ImportError::new(reason));
        };
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ImportError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ImportError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, ImportError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things of at least `each` bytes. Rejects a count that does not fit in the rest of
    /// the file.
    fn count(&mut self, what: &str, things: &str, each: usize) -> Result<usize, ImportError> {
        let start = self.at;
        let count = self.u64(if what.is_empty() { things } else { what })?;
        let most = self.left().checked_div(each).unwrap_or(usize::MAX);
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => {
                let colon = if what.is_empty() { "" } else { ": " };
                let left = self.left();
                let reason = format!(
                    "{what}{colon}{count} {things} at byte {start}, with {left} bytes left in the \
                     file"
                );
                Err(ImportError::new(reason))
            }
        }
    }

    /// The bytes of a string.
    pub(super) fn string(&mut self, what: &str) -> Result<Range<usize>, ImportError> {
        let len = self.count(what, "bytes of text", 1)?;
        let start = self.at;
        self.take(len, what)?;
        Ok(start..start + len)
    }

    fn name(&mut self, what: &str) -> Result<String, ImportError> {
        let bytes = self.string(what)?;
        let start = bytes.start;
        match std::str::from_utf8(&self.file[bytes]) {
            Ok(name) if !name.is_empty() => Ok(name.into()),
            _ => Err(ImportError::new(format!(
                "{what}, at byte {start}: empty or not UTF-8"
            ))),
        }
    }

    fn kind(&mut self, what: &str) -> Result<Type, ImportError> {
        let start = self.at;
        let code = self.u32(what)?;
        Type::from_code(code).ok_or_else(|| {
            ImportError::new(format!(
                "{what}: value type {code}, at byte {start}, does not exist"
            ))
        })
    }

    fn value(&mut self, key: &str) -> Result<Value, ImportError> {
        let what = format!("key `{key}`");
        let kind = self.kind(&what)?;
        match kind {
            Type::String => Ok(Value::String(self.string(&what)?)),
            Type::Array => Ok(Value::Array(self.skip_array(&what)?)),
            _ => self.scalar(kind, &what),
        }
    }

    /// A number or a bool.
    pub(super) fn scalar(&mut self, kind: Type, what: &str) -> Result<Value, ImportError> {
        Ok(match kind {
            Type::U8 => Value::Unsigned(u8::from_le_bytes(self.array(what)?).into()),
            Type::U16 => Value::Unsigned(u16::from_le_bytes(self.array(what)?).into()),
            Type::U32 => Value::Unsigned(u32::from_le_bytes(self.array(what)?).into()),
            Type::U64 => Value::Unsigned(u64::from_le_bytes(self.array(what)?)),
            Type::I8 => Value::Signed(i8::from_le_bytes(self.array(what)?).into()),
            Type::I16 => Value::Signed(i16::from_le_bytes(self.array(what)?).into()),
            Type::I32 => Value::Signed(i32::from_le_bytes(self.array(what)?).into()),
            Type::I64 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            Type::F32 => Value::Float(f32::from_le_bytes(self.array(what)?).into()),
            Type::F64 => Value::Float(f64::from_le_bytes(self.array(what)?)),
            Type::Bool => match self.array(what)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [n] => {
                    return Err(ImportError::new(format!(
                        "{what}: {n} for a bool, at byte {}",
                        self.at - 1
                    )));
                }
            },
            Type::String | Type::Array => {
                return Err(ImportError::new(format!("{what}: not a single number")));
            }
        })
    }

    /// Skips an array and the arrays in it, in one loop. A short list holds the open levels.
    fn skip_array(&mut self, what: &str) -> Result<Array, ImportError> {
        let (of, len) = self.array_head(what)?;
        let start = self.at;
        let mut open = vec![(of, len)];
        while let Some((of, left)) = open.last_mut() {
            let of = *of;
            let count = *left;
            match of {
                _ if count == 0 => {
                    open.pop();
                }
                Type::Array => {
                    *left -= 1;
                    if open.len() == DEEPEST_ARRAY {
                        let reason = format!(
                            "{what}: arrays nested deeper than {DEEPEST_ARRAY}, at byte {}",
                            self.at
                        );
                        return Err(ImportError::new(reason));
                    }
                    open.push(self.array_head(what)?);
                }
                Type::String => {
                    *left -= 1;
                    self.string(what)?;
                }
                _ => {
                    *left = 0;
                    // This cannot overflow: `array_head` checked the count.
                    self.take(count * of.bytes(), what)?;
                }
            }
        }
        Ok(Array {
            of,
            len,
            bytes: start..self.at,
        })
    }

    fn array_head(&mut self, what: &str) -> Result<(Type, usize), ImportError> {
        let of = self.kind(what)?;
        let len = self.count(what, "elements", of.bytes())?;
        Ok((of, len))
    }
}
