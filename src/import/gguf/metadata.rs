//! Typed access to metadata. If a key is there and its value does not fit, the error names the key.

use std::collections::BTreeMap;
use std::prelude::rust_2024::*;

use super::reader::{Array, Cursor, Type, Value};
use crate::import::ImportError;

/// The metadata of a file.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'f> {
    pub(super) file: &'f [u8],
    pub(super) values: &'f BTreeMap<String, Value>,
}

impl<'f> Metadata<'f> {
    /// The error that names a key, its value and what is expected.
    pub(super) fn refuse(&self, key: &str, expected: &str) -> ImportError {
        let found = match self.values.get(key) {
            None => "is missing".into(),
            Some(Value::Unsigned(n)) => format!("is {n}"),
            Some(Value::Signed(n)) => format!("is {n}"),
            Some(Value::Float(n)) => format!("is {n}"),
            Some(Value::Bool(b)) => format!("is {b}"),
            Some(Value::String(bytes)) => {
                let text: String = String::from_utf8_lossy(&self.file[bytes.clone()])
                    .chars()
                    .take(40)
                    .collect();
                format!("is {text:?}")
            }
            Some(Value::Array(array)) => format!("is an array of {}", array.len),
        };
        ImportError::new(format!("key `{key}` {found}, expected {expected}"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'f str>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(bytes)) => match std::str::from_utf8(&self.file[bytes.clone()]) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(ImportError::new(format!(
                    "key `{key}`: not UTF-8, at byte {}",
                    bytes.start
                ))),
            },
            Some(_) => Err(self.refuse(key, "a string")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.refuse(key, "true or false")),
        }
    }

    /// An integer from 0 to 2^32 - 1, of whichever integer type.
    pub(super) fn natural(&self, key: &str) -> Result<Option<u32>, ImportError> {
        let refuse = || self.refuse(key, "an integer that fits 32 bits");
        self.values
            .get(key)
            .map(|value| natural(value).ok_or_else(refuse))
            .transpose()
    }

    /// An integer from 1 on.
    pub(super) fn count(&self, key: &str) -> Result<Option<u32>, ImportError> {
        match self.natural(key)? {
            Some(0) => Err(self.refuse(key, "an integer above 0")),
            count => Ok(count),
        }
    }

    /// A count that newer files may list for each layer. It must be the same in all layers.
    pub(super) fn uniform(&self, key: &str) -> Result<Option<u32>, ImportError> {
        self.same(key, false)
    }

    /// The same, where a list may have zeros as well. `None` if it has nothing else.
    pub(super) fn uniform_or_zero(&self, key: &str) -> Result<Option<u32>, ImportError> {
        self.same(key, true)
    }

    fn same(&self, key: &str, but_zeros: bool) -> Result<Option<u32>, ImportError> {
        let Some(Value::Array(array)) = self.values.get(key) else {
            return self.count(key);
        };
        let counts = self.scalars(key, array)?;
        let mut counts = counts
            .map(|value| value.map(|value| natural(&value)))
            .filter(|count| !(but_zeros && matches!(count, Ok(Some(0)))))
            .peekable();
        if but_zeros && counts.peek().is_none() {
            return Ok(None);
        }
        let Some(Some(first)) = counts.next().transpose()? else {
            return Err(self.refuse(key, "integers above 0"));
        };
        for count in counts {
            if count? != Some(first) {
                let reason =
                    format!("key `{key}` differs from layer to layer, which is not supported");
                return Err(ImportError::new(reason));
            }
        }
        if first == 0 {
            Err(self.refuse(key, "integers above 0"))
        } else {
            Ok(Some(first))
        }
    }

    /// A finite number of whichever type.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(n)) if n.is_finite() => Ok(Some(*n)),
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(Value::Signed(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(self.refuse(key, "a finite number")),
        }
    }

    /// A number above 0 that stays so as f32.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.number(key)? {
            Some(n) if !(n > 0.0 && n as f32 > 0.0 && (n as f32).is_finite()) => {
                Err(self.refuse(key, "a number above 0"))
            }
            n => Ok(n),
        }
    }

    /// An array of flags, one for each of `count` layers: bools, or integers that are 0 or not.
    pub(super) fn flags(&self, key: &str, count: u32) -> Result<Vec<bool>, ImportError> {
        let refuse = || self.refuse(key, &format!("{count} flags, one a layer"));
        match self.values.get(key) {
            Some(Value::Array(array)) if array.len == count as usize => {
                let flag = |value: Result<Value, ImportError>| match value? {
                    Value::Bool(flag) => Ok(flag),
                    value => natural(&value).map(|n| n != 0).ok_or_else(refuse),
                };
                self.scalars(key, array)?.map(flag).collect()
            }
            _ => Err(refuse()),
        }
    }

    /// An array of strings; empty if there is none.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<&'f str>, ImportError> {
        let array = match self.values.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(array)) if array.of == Type::String => array,
            Some(_) => return Err(self.refuse(key, "an array of strings")),
        };
        let mut at = Cursor::over(self.file, array);
        let what = format!("key `{key}`");
        let text = |i| {
            let bytes = at.string(&what)?;
            let start = bytes.start;
            std::str::from_utf8(&self.file[bytes]).map_err(|_| {
                ImportError::new(format!("{what}: element {i} is not UTF-8, at byte {start}"))
            })
        };
        (0..array.len).map(text).collect()
    }

    /// An array of floating-point numbers; empty if there is none.
    pub(super) fn numbers(&self, key: &str) -> Result<Vec<f32>, ImportError> {
        self.vector(key, "an array of numbers", |value| match value {
            Value::Float(n) => Some(*n as f32),
            _ => None,
        })
    }

    /// An array of integers that fit 32 bits; empty if there is none.
    pub(super) fn integers(&self, key: &str) -> Result<Vec<i32>, ImportError> {
        self.vector(key, "an array of integers", |value| match value {
            Value::Unsigned(n) => i32::try_from(*n).ok(),
            Value::Signed(n) => i32::try_from(*n).ok(),
            _ => None,
        })
    }

    fn vector<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, ImportError> {
        let refuse = || self.refuse(key, expected);
        match self.values.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(array)) => self
                .scalars(key, array)?
                .map(|value| convert(&value?).ok_or_else(refuse))
                .collect(),
            Some(_) => Err(refuse()),
        }
    }

    fn scalars(
        &self,
        key: &str,
        array: &Array,
    ) -> Result<impl Iterator<Item = Result<Value, ImportError>> + use<'f>, ImportError> {
        if matches!(array.of, Type::String | Type::Array) {
            return Err(self.refuse(key, "an array of numbers"));
        }
        let mut at = Cursor::over(self.file, array);
        let of = array.of;
        let what = format!("key `{key}`");
        Ok((0..array.len).map(move |_| at.scalar(of, &what)))
    }
}

/// The value as an integer that fits.
pub(super) fn natural(value: &Value) -> Option<u32> {
    match value {
        Value::Unsigned(n) => u32::try_from(*n).ok(),
        Value::Signed(n) => u32::try_from(*n).ok(),
        _ => None,
    }
}
