//! Schemas to test with.

use pocketlm::text::Tokenizer;
use serde_json::{Map, Value, json};

use crate::bits::Bits;

/// xorshift64.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 20
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// From −1 to 1.
    pub fn float(&mut self) -> f32 {
        (self.next() & 0xFFFF) as f32 / 32768.0 - 1.0
    }

    fn one_of(&mut self, texts: &[&str]) -> String {
        texts[self.below(texts.len())].into()
    }

    /// One of `ids`; mostly a short one without letters, so that texts come to an end.
    pub fn short(&mut self, ids: &Bits, tokenizer: &Tokenizer) -> Option<u32> {
        let length = |id: &u32| {
            let piece = tokenizer.piece(*id).unwrap_or_default();
            piece.len() + 3 * usize::from(piece.iter().any(u8::is_ascii_alphabetic))
        };
        let tries = if self.below(3) == 0 { 1 } else { 9 };
        let mut any = |_| ids.next(self.below(tokenizer.vocab_size() as usize));
        (0..tries).map_while(&mut any).min_by_key(length)
    }
}

/// The schemas of `tests/data/grammar`, and `random` others.
pub fn schemas(random: usize) -> Vec<(String, Value)> {
    let text = include_str!("../../data/grammar/schemas.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    let case = |case: Value| {
        (
            case["name"].as_str().unwrap().into(),
            case["schema"].clone(),
        )
    };
    let mut schemas: Vec<(String, Value)> = cases.into_iter().map(case).collect();
    let mut numbers = Numbers::new(3);
    schemas.extend((0..random).map(|index| (format!("random {index}"), schema(&mut numbers, 3))));
    schemas
}

fn schema(numbers: &mut Numbers, depth: usize) -> Value {
    match numbers.below(if depth == 0 { 6 } else { 10 }) {
        0 => string(numbers),
        1 => range(numbers, "integer", 300, "minimum", "maximum"),
        2 => range(numbers, "number", 40, "minimum", "exclusiveMaximum"),
        3 => json!({ "type": "boolean" }),
        4 => {
            let count = 1 + numbers.below(6);
            let values = (0..count).map(|index| match numbers.below(4) {
                0 => json!(index),
                1 => Value::Null,
                _ => numbers
                    .one_of(&["red", "green", "r", "re", "a \"b\"", "x\ny"])
                    .into(),
            });
            let mut values: Vec<Value> = values.collect();
            let mut seen: Vec<Value> = Vec::new();
            values.retain(|value| {
                !seen.contains(value) && {
                    seen.push(value.clone());
                    true
                }
            });
            json!({ "enum": values })
        }
        5 => {
            let formats = ["date", "uuid", "ipv4", "time", "date-time", "hostname"];
            json!({ "type": "string", "format": numbers.one_of(&formats) })
        }
        6 | 7 => object(numbers, depth),
        8 => {
            let mut schema = json!({ "type": "array", "items": schema(numbers, depth - 1) });
            let least = numbers.below(3);
            if numbers.below(2) == 0 {
                schema["minItems"] = json!(least);
            }
            if numbers.below(2) == 0 {
                schema["maxItems"] = json!(least + 1 + numbers.below(12));
            }
            schema
        }
        _ => {
            let count = 2 + numbers.below(2);
            let options: Vec<Value> = (0..count).map(|_| schema(numbers, depth - 1)).collect();
            json!({ "anyOf": options })
        }
    }
}

fn string(numbers: &mut Numbers) -> Value {
    let mut schema = json!({ "type": "string" });
    match numbers.below(4) {
        0 => schema["maxLength"] = json!(numbers.below(30)),
        1 => schema["minLength"] = json!(numbers.below(4)),
        2 => {
            let patterns = [
                "^[a-z]+$",
                "^[A-Z][a-z]{2,8}$",
                "[0-9]",
                "^\\d{3}-\\d{4}$",
                "^(a|bc)*$",
            ];
            schema["pattern"] = numbers.one_of(&patterns).into();
        }
        _ => {}
    }
    schema
}

fn range(numbers: &mut Numbers, kind: &str, width: usize, low: &str, high: &str) -> Value {
    let mut schema = json!({ "type": kind });
    let least = numbers.below(width) as i64 - width as i64 / 2;
    if numbers.below(2) == 0 {
        schema[low] = json!(least);
    }
    if numbers.below(2) == 0 {
        schema[high] = json!(least + 1 + numbers.below(3 * width) as i64);
    }
    schema
}

fn object(numbers: &mut Numbers, depth: usize) -> Value {
    let count = numbers.below(5);
    let names = ["name", "n", "names", "id", "value", "a", "ab"];
    let properties = (0..count).map(|_| (numbers.one_of(&names), schema(numbers, depth - 1)));
    let properties: Map<String, Value> = properties.collect();
    let required: Vec<&String> = properties
        .keys()
        .filter(|_| numbers.below(2) == 0)
        .collect();
    let mut object = json!({ "type": "object", "required": required });
    object["properties"] = properties.clone().into();
    match numbers.below(3) {
        0 => {}
        1 => object["additionalProperties"] = schema(numbers, depth - 1),
        _ => object["additionalProperties"] = json!(false),
    }
    object
}
