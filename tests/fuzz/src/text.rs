//! Vocabularies, tokenizer sections, text, and the sampler.

use std::sync::OnceLock;

use pocketlm::import::tokenizer;
use pocketlm::sample::{Choice, Penalties, Recent, Sampler};
use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};

use super::bytes::Bytes;
use super::checkpoints::folder;

/// Uses a tokenizer that has opened.
pub fn exercise(tokenizer: &Tokenizer<'_>) {
    for text in [
        "",
        " ab<s>c  b\u{345}\u{334}é\n12 ab",
        "각e\u{301}\u{1D160}'s <l>word <r> a b",
        "abababab▁a",
    ] {
        for (add_special_tokens, parse_special) in [(true, true), (false, false)] {
            let options = EncodeOptions {
                add_special_tokens,
                parse_special,
            };
            let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
            let mut ids = [0; 600];
            if let Ok(count) = tokenizer.encode(text, options, &mut scratch, &mut ids) {
                assert!(ids[..count].iter().all(|&id| id < tokenizer.vocab_size()));
            }
        }
    }
    let mut decoder = Decoder::new(tokenizer).skip_special(true);
    for id in (0..tokenizer.vocab_size().min(40)).chain([u32::MAX, 0xffff]) {
        assert_eq!(tokenizer.piece(id).is_some(), id < tokenizer.vocab_size());
        if let Ok(text) = decoder.push(id) {
            let _ = text.to_string();
        }
    }
    let _ = decoder.finish().to_string();
    assert!(
        tokenizer
            .eos_ids()
            .chain(tokenizer.bos())
            .all(|id| id < tokenizer.vocab_size())
    );
}

pub fn section(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::open(data) {
        exercise(&tokenizer);
    }
}

/// `tokenizer.json`; or the files of a folder, with a zero byte after each.
pub fn tokenizer_json(data: &[u8]) {
    let names = [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "added_tokens.json",
        "config.json",
    ];
    let mut parts = data
        .split(|&byte| byte == 0)
        .map(|part| Some(part).filter(|part| !part.is_empty()));
    let files: Vec<_> = names
        .iter()
        .map(|name| (*name, parts.next().flatten()))
        .collect();
    let mut path = folder(&files);
    let _ = tokenizer::chat_template(&path);
    if files[1..].iter().all(|(_, part)| part.is_none()) {
        path.push(names[0]);
    } else {
        folder(&[("tokenizer.model", None)]);
    }
    written(tokenizer::from_path(path));
}

/// Patterns with a byte 1 between them and a byte 0 after the last, then the text that they cut.
/// Every byte is a token, so each text comes back whole, however it is cut.
pub fn pattern(data: &[u8]) {
    let end = data
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(data.len());
    let (patterns, text) = data.split_at(end);
    let text = String::from_utf8_lossy(text);
    let json = super::seeds::with_patterns(patterns.split(|&byte| byte == 1));
    let path = folder(&[("tokenizer.json", Some(json.as_bytes()))]).join("tokenizer.json");
    let Ok(section) = tokenizer::from_path(path) else {
        return;
    };
    let tokenizer = Tokenizer::open(&section).expect("what was written opens");
    let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
    let mut ids = vec![0; text.len()];
    let options = EncodeOptions::default();
    let count = tokenizer.encode(&text, options, &mut scratch, &mut ids);
    let count = count.expect("enough was lent");
    let mut decoder = Decoder::new(&tokenizer);
    let pieces = ids[..count]
        .iter()
        .map(|&id| decoder.push(id).unwrap().to_string());
    let back: String = pieces.collect();
    assert_eq!(back + &decoder.finish().to_string(), text);
}

/// Two bytes with the length of a `tokenizer_config.json`, that file, and a `tokenizer.model`.
pub fn tokenizer_model(data: &[u8]) {
    let mut choices = Bytes(data);
    let length = choices.short() as usize;
    let config = Some(choices.take(length)).filter(|file| !file.is_empty());
    let others = [
        "tokenizer.json",
        "generation_config.json",
        "special_tokens_map.json",
        "config.json",
    ];
    folder(&others.map(|name| (name, None)));
    let mut path = folder(&[
        ("tokenizer_config.json", config),
        ("tokenizer.model", Some(choices.0)),
    ]);
    if config.is_none() {
        path.push("tokenizer.model");
    }
    written(tokenizer::from_path(path));
}

/// A section that an importer has written opens.
fn written(section: Result<Vec<u8>, pocketlm::import::ImportError>) {
    if let Ok(section) = section {
        exercise(&Tokenizer::open(&section).expect("what was written opens"));
    }
}

/// Sections of small vocabularies: four of the tests', and two that have a token for every byte.
pub fn sections() -> &'static [Vec<u8>] {
    static SECTIONS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SECTIONS.get_or_init(|| {
        let files = super::seeds::TOKENIZERS.iter().map(|text| text.to_string());
        let all = files.chain([super::seeds::byte_level(), super::seeds::byte_fallback()]);
        let read = |text: String| {
            let path = folder(&[("tokenizer.json", Some(text.as_bytes()))]).join("tokenizer.json");
            tokenizer::from_path(path).unwrap()
        };
        all.map(read).collect()
    })
}

/// The first byte chooses a tokenizer, the second how to encode and how much memory to lend; the
/// rest is text, made UTF-8.
pub fn text(data: &[u8]) {
    let mut choices = Bytes(data);
    let which = choices.below(sections().len());
    let options = choices.byte();
    let tokenizer = Tokenizer::open(&sections()[which]).unwrap();
    let text = String::from_utf8_lossy(choices.0);
    let options_of = EncodeOptions {
        add_special_tokens: options & 1 != 0,
        parse_special: options & 2 != 0,
    };
    let mut ids = vec![0; 3 * text.len() + 8];
    let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
    if options & 4 != 0 {
        let lent = scratch.len().min(options as usize >> 3);
        let scratch = &mut scratch[..lent];
        let _ = tokenizer.encode(&text, options_of, scratch, &mut ids);
        return;
    }
    let count = tokenizer
        .encode(&text, options_of, &mut scratch, &mut ids)
        .expect("enough was lent");
    let ids = &ids[..count];
    assert!(ids.iter().all(|&id| id < tokenizer.vocab_size()));
    let mut decoder = Decoder::new(&tokenizer).skip_special(options & 1 != 0);
    let mut back: String = ids
        .iter()
        .map(|&id| decoder.push(id).unwrap().to_string())
        .collect();
    back += &decoder.finish().to_string();
    // Where every byte has a token and none is special, text comes back: but for `▁`, which
    // sentencepiece takes for a space.
    if options_of.parse_special {
        return;
    }
    match which.checked_sub(super::seeds::TOKENIZERS.len()) {
        Some(0) => assert_eq!(back, text),
        Some(_) => assert_eq!(back, text.replace('▁', " ")),
        None => {}
    }
}

/// Settings, then logits: four bytes each, any bits. At once, and in slices.
pub fn sampler(data: &[u8]) {
    let mut choices = Bytes(data);
    let flags = choices.byte();
    let bias = [
        (choices.byte() as u32, choices.float()),
        (choices.byte() as u32 / 16, choices.float()),
    ];
    let mut recent = [Recent::EMPTY; 5];
    let mut recent_too = [Recent::EMPTY; 5];
    let mut sliced = settings(flags, &mut Bytes(choices.0), &bias, &mut recent_too);
    let mut sampler = settings(flags, &mut choices, &bias, &mut recent);
    let plain = flags & 0b11_0000 == 0;
    let mut logits: Vec<f32> = Vec::new();
    while !choices.is_empty() {
        logits.push(choices.float());
    }
    let candidates: Vec<bool> = logits.iter().map(|&z| z > f32::NEG_INFINITY).collect();
    for budget in 0..3 {
        let mut now = logits.clone();
        let sampled = sampler.sample(&mut now);
        match sampled {
            Ok(id) => assert!((id as usize) < logits.len() && (!plain || candidates[id as usize])),
            Err(_) if plain => assert!(!candidates.contains(&true)),
            Err(_) => {}
        }
        now.copy_from_slice(&logits);
        let mut choice = Choice::new();
        let mut step = || sliced.step(&mut choice, &mut now, budget);
        let found = std::iter::repeat_with(&mut step).find_map(Result::transpose);
        assert_eq!(found, Some(sampled));
    }
    if let Ok(distribution) = sampler.distribution(&mut logits) {
        let total: u64 = distribution
            .weights()
            .iter()
            .map(|&weight| weight as u64)
            .sum();
        assert!(distribution.total() == total && total >= 1 << 31);
        for draw in [0, 1 << 31, u32::MAX] {
            assert!(distribution.weights()[distribution.choose(draw) as usize] > 0.0);
        }
    };
}

fn settings<'a>(
    flags: u8,
    choices: &mut Bytes,
    bias: &'a [(u32, f32)],
    recent: &'a mut [Recent],
) -> Sampler<'a> {
    let mut sampler = Sampler::new(choices.word().into());
    if flags & 1 != 0 {
        sampler = sampler.temperature(choices.float());
    }
    if flags & 2 != 0 {
        sampler = sampler.top_k(choices.byte() as usize);
    }
    if flags & 4 != 0 {
        sampler = sampler.top_p(choices.float());
    }
    if flags & 8 != 0 {
        sampler = sampler.min_p(choices.float());
    }
    if flags & 16 != 0 {
        sampler = sampler.logit_bias(bias);
    }
    if flags & 32 != 0 {
        let penalties = Penalties::over(recent).repeat(choices.float());
        sampler = sampler.penalties(
            penalties
                .frequency(choices.float())
                .presence(choices.float()),
        );
    }
    sampler
}
