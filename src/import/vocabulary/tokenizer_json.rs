//! `tokenizer.json`, the file of Hugging Face's `tokenizers` library, as any version of it writes
//! them; and its predecessors `vocab.json` and `merges.txt`.

use std::collections::{BTreeMap, HashMap};
use std::prelude::rust_2024::*;

use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

use super::bytelevel;
use super::pattern::{self, Patterns};
use super::section::{Added, Merge, Vocabulary};
use super::sentencepiece::byte_piece;
use super::spaced;
use crate::import::ImportError;
use crate::text::tokenizer::{
    ADDED_LSTRIP, ADDED_RSTRIP, ADDED_SINGLE_WORD, ADDED_SPECIAL, BYTE_FALLBACK, BYTE_LEVEL, FOLD,
    FUSE_UNKNOWN, IGNORE_MERGES, NFC, Prefix, SPLIT, STRIP,
};

/// What the components before the model do to text.
#[derive(Default)]
struct Pipeline {
    prepend: bool,
    replace: bool,
    nfc: bool,
    metaspace: Option<(Prefix, bool)>,
    byte_level: bool,
    /// Byte-level text that does not start with a space gets one.
    prefix_space: bool,
    /// The decoder turns `<0x0A>` into a byte.
    reads_bytes: bool,
    patterns: Patterns,
    /// A component that cuts text, if there is one.
    cuts: Option<String>,
}

/// Whether text gets a space in front, whatever a `tokenizer.json` says itself: for tokenizers of
/// one kind, and no others.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum PrefixSpace {
    /// Those that have `▁` for a space.
    Llama(bool),
    /// Byte-level ones.
    Gpt2(bool),
}

/// The vocabulary of a `tokenizer.json`.
pub(super) fn read(
    json: &Value,
    prefix_space: Option<PrefixSpace>,
) -> Result<Vocabulary, ImportError> {
    let mut pipeline = Pipeline::default();
    components(json, "normalizer", "normalizers", &mut |kind, node| {
        normalizer(kind, node, &mut pipeline)
    })?;
    components(json, "pre_tokenizer", "pretokenizers", &mut |kind, node| {
        pre_tokenizer(kind, node, &mut pipeline)
    })?;

    let prefix_space = match (prefix_space, pipeline.byte_level) {
        (Some(PrefixSpace::Llama(wanted)), false) => Some(wanted),
        (Some(PrefixSpace::Gpt2(wanted)), true) => Some(wanted),
        _ => None,
    };
    if let Some(wanted) = prefix_space {
        pipeline.set_prefix_space(wanted);
    }

    let mut vocabulary = Vocabulary::new();
    pipeline.settle(&mut vocabulary)?;
    read_decoder(json, &mut vocabulary, &mut pipeline)?;
    if let Some(wanted) = prefix_space.filter(|_| !pipeline.byte_level) {
        vocabulary.flags = vocabulary.flags & !STRIP | if wanted { STRIP } else { 0 };
    }
    let ids = read_model(&json["model"], &mut vocabulary, &pipeline)?;
    read_added(json, &mut vocabulary, &pipeline, &ids)?;
    read_post_processor(json, &mut vocabulary)?;
    Ok(vocabulary)
}

/// Whose way of cutting text a `vocab.json` goes with.
pub(super) enum Gpt2Style {
    Gpt2,
    Qwen2,
}

/// What a `tokenizer.json` would say of `vocab.json` and `merges.txt`.
pub(super) fn of_gpt2(vocab: Value, merges: &str, style: Gpt2Style) -> Value {
    let is_merge = |(line, text): &(usize, &str)| {
        !(text.is_empty() || (*line == 0 && text.starts_with("#version")))
    };
    let merges: Vec<Value> = merges
        .lines()
        .enumerate()
        .filter(is_merge)
        .map(|(_, text)| text.into())
        .collect();
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": use_regex});
    let (normalizer, pre_tokenizer) = match style {
        Gpt2Style::Gpt2 => (Value::Null, byte_level(true)),
        Gpt2Style::Qwen2 => {
            let split = json!({
                "type": "Split",
                "pattern": {"Regex": pattern::QWEN2},
                "behavior": "Isolated",
                "invert": false,
            });
            (
                json!({"type": "NFC"}),
                json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]}),
            )
        }
    };
    json!({
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        "decoder": {"type": "ByteLevel"},
    })
}

/// Whether `node` has `key`, and not null.
fn given<'j>(node: &'j Value, key: &str) -> Option<&'j Value> {
    node.get(key).filter(|value| !value.is_null())
}

fn is_true(node: &Value, key: &str) -> bool {
    node.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn kind(node: &Value) -> &str {
    node.get("type")
        .and_then(Value::as_str)
        .unwrap_or("(without type)")
}

fn not_supported(what: &str, name: &str) -> ImportError {
    ImportError::new(format!("{what} `{name}` is not supported"))
}

/// Visits a component, or the members of a sequence of them. Sequences within sequences mean the
/// same without.
fn components(
    json: &Value,
    what: &str,
    members: &str,
    visit: &mut dyn FnMut(&str, &Value) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut waiting: Vec<&Value> = given(json, what).into_iter().collect();
    while let Some(node) = waiting.pop() {
        if kind(node) == "Sequence" {
            let list = node.get(members).and_then(Value::as_array);
            let list = list.ok_or_else(|| {
                ImportError::new(format!("{what}: a `Sequence` without `{members}`"))
            })?;
            waiting.extend(list.iter().rev());
        } else {
            visit(kind(node), node)?;
        }
    }
    Ok(())
}

fn normalizer(kind: &str, node: &Value, pipeline: &mut Pipeline) -> Result<(), ImportError> {
    match kind {
        "NFC" => pipeline.nfc = true,
        "Prepend" if node["prepend"] == "▁" => {
            if pipeline.replace {
                return Err(ImportError::new(
                    "normalizer `Prepend` after `Replace` is not supported",
                ));
            }
            pipeline.prepend = true;
        }
        "Replace" if node["pattern"]["String"] == " " && node["content"] == "▁" => {
            pipeline.replace = true
        }
        "Prepend" => {
            return Err(not_supported(
                "normalizer `Prepend` of",
                &node["prepend"].to_string(),
            ));
        }
        "Replace" => {
            return Err(not_supported(
                "normalizer `Replace` of",
                &node["pattern"].to_string(),
            ));
        }
        _ => return Err(not_supported("normalizer", kind)),
    }
    Ok(())
}

fn pre_tokenizer(kind: &str, node: &Value, pipeline: &mut Pipeline) -> Result<(), ImportError> {
    if pipeline.byte_level {
        return Err(ImportError::new(format!(
            "pre_tokenizer `{kind}` after `ByteLevel` is not supported"
        )));
    }
    match kind {
        "Metaspace" => metaspace(node, pipeline)?,
        "Split" if node["pattern"]["String"] == " " && pipeline.replace => {
            // Gemma splits at spaces, of which its normalizer leaves none.
        }
        "Split" => split(kind, node, pipeline)?,
        "Digits" => {
            let together = if is_true(node, "individual_digits") {
                ""
            } else {
                "+"
            };
            pipeline.cut(kind, &format!(r"\p{{N}}{together}"))?;
        }
        "Punctuation" => {
            let behavior = node["behavior"].as_str().unwrap_or("Isolated");
            let together = match behavior {
                "Isolated" => "",
                "Contiguous" => "+",
                _ => {
                    return Err(not_supported(
                        "pre_tokenizer `Punctuation` with behavior",
                        behavior,
                    ));
                }
            };
            pipeline.cut(kind, &format!("{}{together}", pattern::PUNCTUATION))?;
        }
        "ByteLevel" => byte_level(kind, node, pipeline)?,
        _ => return Err(not_supported("pre_tokenizer", kind)),
    }
    Ok(())
}

fn metaspace(node: &Value, pipeline: &mut Pipeline) -> Result<(), ImportError> {
    if node["replacement"] != "▁" {
        return Err(not_supported(
            "pre_tokenizer `Metaspace` with replacement",
            &node["replacement"].to_string(),
        ));
    }
    let without = given(node, "add_prefix_space").is_some_and(|add| *add == Value::Bool(false));
    let scheme = given(node, "prepend_scheme")
        .and_then(Value::as_str)
        .unwrap_or(if without { "never" } else { "always" });
    let prefix = match scheme {
        "never" => Prefix::Never,
        "always" => Prefix::AlwaysUnlessSpace,
        "first" => Prefix::TextStartUnlessSpace,
        _ => {
            return Err(not_supported(
                "pre_tokenizer `Metaspace` with prepend_scheme",
                scheme,
            ));
        }
    };
    pipeline.metaspace = Some((
        prefix,
        node.get("split").and_then(Value::as_bool).unwrap_or(true),
    ));
    Ok(())
}

fn split(kind: &str, node: &Value, pipeline: &mut Pipeline) -> Result<(), ImportError> {
    let pattern = &node["pattern"];
    let pattern = match (pattern["Regex"].as_str(), pattern["String"].as_str()) {
        (Some(regex), _) => regex.to_owned(),
        (None, Some(text)) => escaped(text),
        (None, None) => {
            return Err(not_supported(
                "pre_tokenizer `Split` by",
                &pattern.to_string(),
            ));
        }
    };
    let behavior = node["behavior"].as_str().unwrap_or("(none)");
    let invert = is_true(node, "invert");
    let is_all = pipeline.cut(kind, &pattern)?;
    match (behavior, invert) {
        ("Isolated", _) => {}
        // Nothing is lost if the matches are all of a text.
        ("Removed", true) if is_all => {}
        ("Removed", _) => {
            return Err(ImportError::new(format!(
                "pre_tokenizer `Split` that removes text is not supported: pattern \
                 `{pattern}`"
            )));
        }
        _ => {
            return Err(not_supported(
                "pre_tokenizer `Split` with behavior",
                behavior,
            ));
        }
    }
    Ok(())
}

fn byte_level(kind: &str, node: &Value, pipeline: &mut Pipeline) -> Result<(), ImportError> {
    // Both are true when the file does not say.
    let is_on = |key: &str| node.get(key).and_then(Value::as_bool).unwrap_or(true);
    if is_on("add_prefix_space") {
        if let Some(before) = &pipeline.cuts {
            return Err(ImportError::new(format!(
                "pre_tokenizer `ByteLevel` with add_prefix_space `true` after `{before}` \
                 is not supported"
            )));
        }
        pipeline.prefix_space = true;
    }
    pipeline.byte_level = true;
    if is_on("use_regex") {
        pipeline.cut(kind, pattern::GPT2)?;
    }
    Ok(())
}

/// The pattern that matches just `text`.
fn escaped(text: &str) -> String {
    let special = |character: &char| character.is_ascii_punctuation();
    text.chars()
        .flat_map(|character| {
            Some('\\')
                .filter(|_| special(&character))
                .into_iter()
                .chain([character])
        })
        .collect()
}

impl Pipeline {
    /// Adds a pattern that component `kind` cuts text by. Returns whether its matches are all of
    /// any text.
    fn cut(&mut self, kind: &str, pattern: &str) -> Result<bool, ImportError> {
        self.cuts = Some(kind.into());
        self.patterns.push(pattern)
    }

    /// Puts a space in front of text, or takes it away.
    fn set_prefix_space(&mut self, wanted: bool) {
        self.prefix_space = wanted;
        self.prepend = wanted && self.replace;
        if let Some((prefix, _)) = &mut self.metaspace {
            *prefix = match *prefix {
                _ if !wanted => Prefix::Never,
                Prefix::Never => Prefix::TextStartUnlessSpace,
                given => given,
            };
        }
    }

    /// Puts the components together, if they make a tokenizer that we know.
    fn settle(&self, vocabulary: &mut Vocabulary) -> Result<(), ImportError> {
        if self.byte_level {
            if self.prepend || self.replace || self.metaspace.is_some() {
                return Err(ImportError::new(
                    "`ByteLevel` together with `Metaspace`, `Prepend` or `Replace` is not \
                     supported",
                ));
            }
            vocabulary.patterns = self.patterns.clone();
            if self.prefix_space {
                vocabulary.prefix = Prefix::AlwaysUnlessSpace;
            }
            vocabulary.flags |= BYTE_LEVEL | if self.nfc { NFC } else { 0 };
            return Ok(());
        }
        if self.nfc || self.cuts.is_some() {
            let what = self.cuts.as_deref().unwrap_or("NFC");
            return Err(ImportError::new(format!(
                "`{what}` in a tokenizer that is not byte-level is not supported"
            )));
        }
        match self.metaspace {
            Some(_) if self.prepend || self.replace => {
                return Err(ImportError::new(
                    "pre_tokenizer `Metaspace` after normalizer `Prepend` or `Replace` is not \
                     supported",
                ));
            }
            Some((prefix, split)) => {
                vocabulary.prefix = prefix;
                vocabulary.flags |= if split { SPLIT } else { 0 };
            }
            None if self.replace => {
                vocabulary.flags |= FOLD;
                vocabulary.prefix = if self.prepend {
                    Prefix::Always
                } else {
                    Prefix::Never
                };
            }
            None => {
                return Err(ImportError::new(
                    "a tokenizer with neither `ByteLevel`, `Metaspace` nor `Replace` of spaces by \
                     ▁ is not supported",
                ));
            }
        }
        Ok(())
    }
}

fn read_decoder(
    json: &Value,
    vocabulary: &mut Vocabulary,
    pipeline: &mut Pipeline,
) -> Result<(), ImportError> {
    let mut byte_level = false;
    let mut replaces = false;
    let mut fuses = false;
    let flags = &mut vocabulary.flags;
    components(json, "decoder", "decoders", &mut |kind, node| {
        match kind {
            "ByteLevel" => byte_level = true,
            "ByteFallback" => pipeline.reads_bytes = true,
            "Fuse" => fuses = true,
            "Replace" if node["pattern"]["String"] == "▁" && node["content"] == " " => {
                replaces = true
            }
            "Strip"
                if fuses && node["content"] == " " && node["start"] == 1 && node["stop"] == 0 =>
            {
                *flags |= STRIP
            }
            _ => return Err(not_supported("decoder", &node.to_string())),
        }
        Ok(())
    })?;
    let fits = if pipeline.byte_level {
        byte_level && !replaces
    } else {
        replaces && fuses && !byte_level
    };
    if !fits {
        return Err(ImportError::new(
            "a decoder that does not undo the pre_tokenizer is not supported",
        )
        .help(format!("the decoder is {}", json["decoder"])));
    }
    Ok(())
}

/// Reads vocabulary and merges; returns the ids of the vocabulary.
fn read_model<'j>(
    model: &'j Value,
    vocabulary: &mut Vocabulary,
    pipeline: &Pipeline,
) -> Result<HashMap<&'j str, u32>, ImportError> {
    read_flags(model, vocabulary, pipeline)?;
    let ids = read_ids(model, vocabulary, pipeline)?;
    if let Some(unknown) = given(model, "unk_token") {
        let id = unknown.as_str().and_then(|token| ids.get(token));
        // As long as it is not needed, `tokenizers` does not mind.
        vocabulary.unknown = id.copied();
    }
    if pipeline.byte_level {
        bytelevel::set_byte_ids(vocabulary, |letter| ids.get(letter).copied());
    } else if vocabulary.flags & BYTE_FALLBACK != 0 {
        vocabulary.byte_ids = (0..=255)
            .filter_map(|byte| Some((byte, *ids.get(format!("<0x{byte:02X}>").as_str())?)))
            .collect();
    }
    read_merges(model, vocabulary, &ids)?;
    Ok(ids)
}

/// Checks the kind of the model, and reads its flags.
fn read_flags(
    model: &Value,
    vocabulary: &mut Vocabulary,
    pipeline: &Pipeline,
) -> Result<(), ImportError> {
    // The type is missing in the oldest files, in which only BPE has merges.
    match given(model, "type").and_then(Value::as_str) {
        Some("BPE") => {}
        None if model.get("merges").is_some() => {}
        other => return Err(not_supported("model", other.unwrap_or("(none)"))),
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(value) = given(model, key).filter(|value| *value != "") {
            return Err(not_supported(&format!("model: {key}"), &value.to_string()));
        }
    }
    if let Some(dropout) = given(model, "dropout").filter(|dropout| dropout.as_f64() != Some(0.0)) {
        return Err(not_supported("model: dropout", &dropout.to_string()));
    }
    if is_true(model, "ignore_merges") {
        if !pipeline.byte_level {
            return Err(not_supported(
                "model: ignore_merges without `ByteLevel`,",
                "true",
            ));
        }
        if pipeline.prefix_space {
            return Err(not_supported(
                "model: ignore_merges together with add_prefix_space",
                "true",
            ));
        }
        vocabulary.flags |= IGNORE_MERGES;
    }
    if is_true(model, "fuse_unk") {
        vocabulary.flags |= FUSE_UNKNOWN;
    }
    if is_true(model, "byte_fallback") {
        if pipeline.byte_level || !pipeline.reads_bytes {
            return Err(ImportError::new(
                "model: byte_fallback without the decoder `ByteFallback` is not supported",
            ));
        }
        vocabulary.flags |= BYTE_FALLBACK;
    }
    Ok(())
}

/// Reads the tokens.
fn read_ids<'j>(
    model: &'j Value,
    vocabulary: &mut Vocabulary,
    pipeline: &Pipeline,
) -> Result<HashMap<&'j str, u32>, ImportError> {
    let vocab = model
        .get("vocab")
        .and_then(Value::as_object)
        .ok_or_else(|| ImportError::new("model: `vocab` is missing"))?;
    let mut ids = HashMap::new();
    let mut owners: BTreeMap<u64, &str> = BTreeMap::new();
    for (token, id) in vocab {
        let id = id
            .as_u64()
            .ok_or_else(|| ImportError::new(format!("model: the id of token `{token}` is {id}")))?;
        if let Some(other) = owners.insert(id, token) {
            return Err(ImportError::new(format!(
                "model: tokens `{other}` and `{token}` both have id {id}"
            )));
        }
        let piece = piece_of(token, pipeline);
        let id = vocabulary.set_piece(id, piece, vocab.len())?;
        ids.insert(token.as_str(), id);
        let reachable = if pipeline.byte_level {
            bytelevel::decode(token).is_some()
        } else {
            // Text has no spaces when the model gets it.
            !token.contains(' ') && (byte_piece(token).is_none() || !pipeline.reads_bytes)
        };
        if reachable && !token.is_empty() {
            vocabulary.encodable.insert(id);
        }
    }
    Ok(ids)
}

fn read_merges(
    model: &Value,
    vocabulary: &mut Vocabulary,
    ids: &HashMap<&str, u32>,
) -> Result<(), ImportError> {
    let merges = model
        .get("merges")
        .and_then(Value::as_array)
        .ok_or_else(|| ImportError::new("model: `merges` is missing"))?;
    for (rank, merge) in merges.iter().enumerate() {
        let wrong = |what: &str| ImportError::new(format!("model: merge {rank}, {merge}: {what}"));
        let (left, right) = match merge {
            Value::String(pair) => pair
                .split_once(' ')
                .filter(|(_, right)| !right.contains(' ')),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => {
                    Some((left.as_str(), right.as_str()))
                }
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| wrong("not two tokens"))?;
        let id = |token: &str| {
            ids.get(token)
                .copied()
                .ok_or_else(|| wrong(&format!("`{token}` is not in the vocabulary")))
        };
        let result = id(&(String::from(left) + right))?;
        vocabulary.merges.push(Merge {
            left: id(left)?,
            right: id(right)?,
            rank: rank as u32,
            result,
        });
    }
    Ok(())
}

/// What the decoder makes of a token.
fn piece_of(token: &str, pipeline: &Pipeline) -> Vec<u8> {
    if pipeline.byte_level {
        return bytelevel::decode(token).unwrap_or_else(|| token.into());
    }
    match byte_piece(token) {
        Some(byte) if pipeline.reads_bytes => vec![byte],
        _ => spaced(token),
    }
}

/// The flags of an added token.
pub(super) fn added_flags(token: &Value) -> u8 {
    let flags = [
        ("special", ADDED_SPECIAL),
        ("lstrip", ADDED_LSTRIP),
        ("rstrip", ADDED_RSTRIP),
        ("single_word", ADDED_SINGLE_WORD),
    ];
    let given = flags.into_iter().filter(|(key, _)| is_true(token, key));
    given.fold(0, |all, (_, bit)| all | bit)
}

/// Whether an added token is looked for in normalised text.
fn is_normalized(token: &Value, flags: u8) -> bool {
    let given = token.get("normalized").and_then(Value::as_bool);
    given.unwrap_or(flags & ADDED_SPECIAL == 0)
}

/// How an added token looks in normalised text. It still decodes to its content: tokenizers 0.23
/// decodes the normalised form, and then does not recognise a special token that is to be skipped.
fn normalized(content: &str, pipeline: &Pipeline) -> String {
    if pipeline.nfc {
        return content.nfc().collect();
    }
    if !pipeline.replace {
        return content.to_owned();
    }
    let prefix = if pipeline.prepend { "▁" } else { "" };
    prefix.to_owned() + &content.replace(' ', "▁")
}

fn read_added(
    json: &Value,
    vocabulary: &mut Vocabulary,
    pipeline: &Pipeline,
    ids: &HashMap<&str, u32>,
) -> Result<(), ImportError> {
    let Some(list) = given(json, "added_tokens") else {
        return Ok(());
    };
    let list = list
        .as_array()
        .ok_or_else(|| ImportError::new("`added_tokens` is not a list"))?;
    for (index, token) in list.iter().enumerate() {
        let content = token.get("content").and_then(Value::as_str);
        let content = content
            .ok_or_else(|| ImportError::new(format!("added_tokens[{index}] has no `content`")))?;
        if content.is_empty() {
            continue;
        }
        // A token of the model's vocabulary keeps its id.
        let in_vocabulary = ids.get(content).copied().map(u64::from);
        let id = in_vocabulary.or_else(|| token.get("id").and_then(Value::as_u64));
        let id = id.ok_or_else(|| {
            ImportError::new(format!("added_tokens[{index}], `{content}`, has no `id`"))
        })?;
        let flags = added_flags(token);
        let normalized = is_normalized(token, flags).then(|| normalized(content, pipeline));
        let piece = piece_of(content, pipeline);
        let known = ids.len() + list.len();
        let id = if in_vocabulary.is_some() && vocabulary.pieces.get(id as usize) == Some(&piece) {
            id as u32
        } else {
            vocabulary
                .encodable
                .remove(&u32::try_from(id).unwrap_or(u32::MAX));
            vocabulary.set_piece(id, piece, known)?
        };
        match normalized {
            Some(normalized) => {
                let content = if pipeline.replace {
                    spaced(&normalized)
                } else {
                    normalized.into()
                };
                vocabulary.added[1].push(Added { content, flags, id });
            }
            None => vocabulary.added[0].push(Added {
                content: content.into(),
                flags,
                id,
            }),
        }
    }
    Ok(())
}

fn read_post_processor(json: &Value, vocabulary: &mut Vocabulary) -> Result<(), ImportError> {
    let mut template = None;
    components(json, "post_processor", "processors", &mut |kind, node| {
        match kind {
            // It changes offsets only.
            "ByteLevel" => {}
            "TemplateProcessing" if template.is_none() => template = Some(node.clone()),
            _ => return Err(not_supported("post_processor", kind)),
        }
        Ok(())
    })?;
    let Some(template) = template else {
        return Ok(());
    };
    let wrong = || {
        ImportError::new(format!(
            "post_processor: template {} is not supported",
            template["single"]
        ))
    };
    let mut past_text = false;
    for item in template["single"].as_array().ok_or_else(wrong)? {
        if item.get("Sequence").is_some() && !past_text {
            past_text = true;
            continue;
        }
        let ids = special_ids(&template, item, vocabulary.pieces.len()).ok_or_else(wrong)?;
        if past_text {
            vocabulary.after.extend(ids);
        } else {
            vocabulary.before.extend(ids);
        }
    }
    if !past_text {
        return Err(wrong());
    }
    // A lone file does not say which token is BOS; the one it puts first is as good as said.
    vocabulary.bos = vocabulary.before.first().copied();
    Ok(())
}

/// The ids of a special token in a template. `None` if it is not one, or one has no piece.
fn special_ids(template: &Value, item: &Value, pieces: usize) -> Option<Vec<u32>> {
    let name = item["SpecialToken"]["id"].as_str()?;
    let ids = template["special_tokens"].get(name)?["ids"].as_array()?;
    let id = |id: &Value| {
        let id = id.as_u64().filter(|id| *id < pieces as u64)?;
        Some(id as u32)
    };
    ids.iter().map(id).collect()
}
