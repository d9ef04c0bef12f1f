//! One vocabulary in several forms (GGUF, llama2.c, tokenizer.model or vocab.json in a folder)
//! gives the same ids.

use std::collections::BTreeMap;

use pocketlm::import::tokenizer::{GgufTokenizer, chat_template, from_gguf, from_llama2c};
use serde_json::Value;

use super::*;

/// A metadata value of a GGUF file, as far as vocabularies need them.
enum Meta {
    Text(String),
    Number(f64),
    List(Vec<Meta>),
}

/// Reads the metadata of a well-formed GGUF file.
struct GgufReader<'f>(&'f [u8]);

impl GgufReader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().unwrap();
        self.0 = rest;
        *taken
    }

    fn text(&mut self) -> String {
        let len = u64::from_le_bytes(self.take()) as usize;
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        String::from_utf8(text.into()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Meta {
        match kind {
            0 | 7 => Meta::Number(self.take::<1>()[0].into()),
            4 => Meta::Number(u32::from_le_bytes(self.take()).into()),
            5 => Meta::Number(i32::from_le_bytes(self.take()).into()),
            6 => Meta::Number(f32::from_le_bytes(self.take()).into()),
            8 => Meta::Text(self.text()),
            9 => {
                let kind = u32::from_le_bytes(self.take());
                let len = u64::from_le_bytes(self.take());
                Meta::List((0..len).map(|_| self.value(kind)).collect())
            }
            10 => Meta::Number(u64::from_le_bytes(self.take()) as f64),
            _ => panic!("a value of type {kind}"),
        }
    }
}

/// The tokenizer section for the vocabulary of a GGUF file.
fn section_of_gguf(path: &Path) -> Vec<u8> {
    let file = std::fs::read(path).unwrap();
    let mut reader = GgufReader(&file);
    assert_eq!(reader.take(), *b"GGUF");
    let _version: [u8; 4] = reader.take();
    let _tensors: [u8; 8] = reader.take();
    let count = u64::from_le_bytes(reader.take());
    let metadata: BTreeMap<String, Meta> = (0..count)
        .map(|_| {
            let key = reader.text();
            let kind = u32::from_le_bytes(reader.take());
            (key, reader.value(kind))
        })
        .collect();
    let text = |key: &str| match metadata.get(key) {
        Some(Meta::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let number = |key: &str| match metadata.get(&format!("tokenizer.ggml.{key}")) {
        Some(Meta::Number(number)) => Some(*number),
        _ => None,
    };
    let list = |key: &str| match metadata.get(&format!("tokenizer.ggml.{key}")) {
        Some(Meta::List(list)) => list.as_slice(),
        _ => &[],
    };
    let texts = |key: &str| {
        list(key)
            .iter()
            .map(|text| {
                if let Meta::Text(text) = text {
                    text
                } else {
                    ""
                }
            })
            .collect()
    };
    let numbers = |key: &str| {
        list(key).iter().map(|number| {
            if let Meta::Number(number) = number {
                *number
            } else {
                0.0
            }
        })
    };
    let id = |key: &str| number(key).map(|id| id as u32);
    let flag = |key: &str| number(key).map(|flag| flag != 0.0);
    let vocabulary = GgufTokenizer {
        name: text("general.name"),
        model: text("tokenizer.ggml.model").unwrap(),
        pre: text("tokenizer.ggml.pre"),
        tokens: texts("tokens"),
        scores: numbers("scores").map(|score| score as f32).collect(),
        token_type: numbers("token_type").map(|kind| kind as i32).collect(),
        merges: texts("merges"),
        bos_token_id: id("bos_token_id"),
        eos_token_id: id("eos_token_id"),
        end_of_turn_ids: id("eot_token_id").into_iter().collect(),
        unknown_token_id: id("unknown_token_id"),
        add_bos_token: flag("add_bos_token"),
        add_eos_token: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
    };
    from_gguf(&vocabulary).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn real_vocabularies_give_the_ids_that_llama_cpp_expects() {
    for name in ["gpt-2", "llama-spm"] {
        let Some(path) = shared(&format!("fetched/tokenizers/ggml-vocab-{name}.gguf")) else {
            continue;
        };
        let section = section_of_gguf(&path);
        let tokenizer = Tokenizer::open(&section).unwrap();
        let beside = |extension: &str| {
            std::fs::read_to_string(format!("{}.{extension}", path.display())).unwrap()
        };
        let texts = beside("inp");
        let ids = beside("out");
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        // The file ends with a line end.
        let ids: Vec<&str> = ids.split('\n').collect();
        assert!(texts.len() > 40);
        for (text, ids) in texts.iter().zip(ids) {
            let expected: Vec<u32> = ids
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            assert_eq!(
                encode(&tokenizer, text, AS_TEXT),
                expected,
                "{name}: {text:?}"
            );
        }
        eprintln!(
            "{name}: {} bytes for {} tokens",
            section.len(),
            tokenizer.vocab_size()
        );
    }
}

/// A text, and its ids without and with special tokens.
type Case = (String, Vec<u32>, Vec<u32>);

/// The golden cases of a tokenizer, `skip` excepted.
fn cases(family: &str, skip: impl Fn(&str) -> bool) -> Option<Vec<Case>> {
    let path = shared(&format!("goldens/tokenizers/{family}/tokenizer_cases.json"))?;
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let ids = |ids: &Value| {
        ids.as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect()
    };
    let all = json["cases"].as_array().unwrap().iter();
    let all = all.map(|case| {
        (
            case["text"].as_str().unwrap().to_owned(),
            ids(&case["ids"]),
            ids(&case["ids_special"]),
        )
    });
    Some(all.filter(|(text, ..)| !skip(text)).collect())
}

fn check_cases(what: &str, tokenizer: &Tokenizer, cases: &[Case]) {
    for (text, plain, special) in cases {
        assert_eq!(encode(tokenizer, text, PARSED), *plain, "{what}: {text:?}");
        assert_eq!(
            encode(tokenizer, text, WITH_SPECIAL),
            *special,
            "{what}, with special tokens: {text:?}"
        );
    }
}

#[test]
fn a_gguf_gives_the_ids_of_the_folder_it_was_converted_from() {
    for (file, family) in [
        ("llama-mha.bf16", "tok-spm-llama"),
        ("gemma2.bf16", "tok-spm-gemma"),
        ("llama3-gqa-tied.bf16", "tok-llama3"),
        ("qwen2.bf16", "tok-qwen2"),
        ("smollm2-f32.f32", "tok-gpt2"),
    ] {
        let Some(path) = shared(&format!("goldens/gguf/{file}.gguf")) else {
            continue;
        };
        let section = section_of_gguf(&path);
        let tokenizer = Tokenizer::open(&section).unwrap();
        // GGUF does not keep lstrip and rstrip.
        let lost = |text: &str| text.contains("<|assistant|>") || text.contains("<tool>");
        let Some(cases) = cases(family, lost) else {
            continue;
        };
        check_cases(file, &tokenizer, &cases);
    }
}

#[test]
fn a_folder_without_tokenizer_json_gives_the_same_ids() {
    for (family, files) in [
        (
            "tok-spm-llama",
            ["tokenizer.model", "tokenizer_config.json"].as_slice(),
        ),
        (
            "tok-gpt2",
            &["vocab.json", "merges.txt", "tokenizer_config.json"],
        ),
        (
            "tok-qwen2",
            &["vocab.json", "merges.txt", "tokenizer_config.json"],
        ),
    ] {
        let Some(source) = shared(&format!("goldens/tokenizers/{family}")) else {
            continue;
        };
        let folder = scratch();
        for file in files {
            std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
        let tokenizer = open(folder.path());
        check_cases(family, &tokenizer, &cases(family, |_| false).unwrap());
        let whole = open(&source);
        assert_eq!(
            tokenizer.eos_ids().collect::<Vec<_>>(),
            whole.eos_ids().collect::<Vec<_>>()
        );
        assert_eq!(
            (tokenizer.bos(), tokenizer.add_bos()),
            (whole.bos(), whole.add_bos())
        );
        assert_eq!(tokenizer.vocab_size(), whole.vocab_size());
        for id in 0..whole.vocab_size() {
            assert_eq!(tokenizer.piece(id), whole.piece(id), "{family}, token {id}");
            assert_eq!(
                tokenizer.is_special(id),
                whole.is_special(id),
                "{family}, token {id}"
            );
        }
    }
}

#[test]
fn the_story_tokenizer_is_the_same_in_all_four_forms() {
    let Some(folder) = shared("fetched") else {
        return;
    };
    let sections = [
        from_llama2c(folder.join("stories260K/tok512.bin"), 512).unwrap(),
        tokenizer::from_path(folder.join("stories260K_hf/tokenizer.model")).unwrap(),
        tokenizer::from_path(folder.join("stories260K_hf/tokenizer.json")).unwrap(),
        section_of_gguf(&folder.join("stories260K/stories260K.f32.gguf")),
    ];
    let tokenizers = sections
        .each_ref()
        .map(|section| Tokenizer::open(section).unwrap());
    let text = std::fs::read_to_string(folder.join("text/tinystories_heldout.txt")).unwrap();
    let texts = text.lines().chain([
        text.as_str(),
        "",
        " ",
        "  two  spaces ",
        "naïve 你好 \u{1F600}\n",
    ]);
    for text in texts {
        let [llama2c, others @ ..] =
            tokenizers.map(|tokenizer| encode(&tokenizer, text, WITH_SPECIAL));
        for other in others {
            assert_eq!(other, llama2c, "{text:?}");
        }
        assert_eq!(decode(&tokenizers[0], &llama2c, true), text);
    }
    let prompt: Value = serde_json::from_slice(
        &std::fs::read(folder.join("stories260K/greedy_prompt.json")).unwrap(),
    )
    .unwrap();
    let ids = encode(
        &tokenizers[0],
        prompt["prompt"].as_str().unwrap(),
        WITH_SPECIAL,
    );
    assert_eq!(serde_json::json!(ids), prompt["prompt_ids"]);
    // Where run.c stops: at EOS, and at the BOS of the next story.
    assert!(tokenizers[0].is_eos(1) && tokenizers[0].is_eos(2) && !tokenizers[0].is_eos(0));
}

#[test]
fn configs_beside_the_tokenizer_say_what_ends_a_generation() {
    let folder = scratch();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "tokenizer.json",
        include_str!("../data/tokenizers/abc.json"),
    );
    let ids = || {
        let tokenizer = open(folder.path());
        (
            tokenizer.bos(),
            tokenizer.add_bos(),
            tokenizer.eos_ids().collect::<Vec<_>>(),
        )
    };
    assert_eq!(ids(), (None, false, vec![]));
    // An id that the tokenizer has not got is left out.
    write(
        "config.json",
        r#"{"bos_token_id": 0, "eos_token_id": 3, "text_config": {"eos_token_id": [4, 900]}}"#,
    );
    assert_eq!(ids(), (Some(0), false, vec![3, 4]));
    write("generation_config.json", r#"{"eos_token_id": [5, 3]}"#);
    assert_eq!(ids(), (Some(0), false, vec![5, 3, 4]));
    write(
        "special_tokens_map.json",
        r#"{"bos_token": {"content": "c"}, "eos_token": "a"}"#,
    );
    assert_eq!(ids(), (Some(4), false, vec![5, 3, 4, 2]));
    write(
        "tokenizer_config.json",
        r#"{"bos_token": "<s>", "eos_token": {"content": "b"}, "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": true}"#,
    );
    assert_eq!(ids(), (Some(0), true, vec![5, 3, 4]));
}

#[test]
fn a_chat_template_is_found_wherever_it_is() {
    let folder = scratch();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let template = || chat_template(folder.path()).map_err(|error| error.reason);
    assert_eq!(template(), Ok(None));
    write("tokenizer_config.json", r#"{"chat_template": 1}"#);
    assert_eq!(
        template(),
        Err("`chat_template` is neither a string nor a list of them with names".into())
    );
    write("tokenizer_config.json", r#"{"chat_template": "one"}"#);
    assert_eq!(template(), Ok(Some("one".into())));
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default",
            "template": "two"}]}"#,
    );
    assert_eq!(template(), Ok(Some("two".into())));
    // One without the name is the template if it is the only one.
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "t"}]}"#,
    );
    assert_eq!(template(), Ok(Some("t".into())));
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "a", "template": "t"}, {"name": "b", "template": "u"}]}"#,
    );
    assert_eq!(template(), Ok(None));
    write("chat_template.jinja", "three");
    assert_eq!(template(), Ok(Some("three".into())));
}

#[test]
fn a_chat_template_sets_the_special_tokens_that_it_names() {
    let folder = scratch();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let first_line = || {
        let template = chat_template(folder.path()).unwrap().unwrap();
        template
            .split_once('\n')
            .map_or(String::new(), |(line, _)| line.to_owned())
    };
    let all = "{{ bos_token ~ eos_token ~ unk_token ~ pad_token ~ sep_token ~ image_token }}";
    write("chat_template.jinja", all);
    assert_eq!(first_line(), "");
    write("config.json", r#"{"model_type": "gpt2"}"#);
    let end = "<|endoftext|>";
    assert_eq!(
        first_line(),
        format!(
            "{{% set bos_token = \"{end}\" %}}{{% set eos_token = \"{end}\" %}}{{% set unk_token = \
             \"{end}\" %}}"
        )
    );
    // The class goes before the model; what is null has no variable.
    write(
        "tokenizer_config.json",
        r#"{"tokenizer_class": "LlamaTokenizerFast", "eos_token": {"content": "<e>"},
            "unk_token": null, "add_bos_token": true}"#,
    );
    assert_eq!(
        first_line(),
        r#"{% set bos_token = "<s>" %}{% set eos_token = "<e>" %}"#
    );
    // The map of an older folder goes before the config, and does not count beside
    // `added_tokens_decoder`.
    write(
        "special_tokens_map.json",
        r#"{"eos_token": {"content": "<map>"}, "additional_special_tokens": ["<a>"]}"#,
    );
    assert_eq!(
        first_line(),
        r#"{% set bos_token = "<s>" %}{% set eos_token = "<map>" %}"#
    );
    write(
        "tokenizer_config.json",
        r#"{"added_tokens_decoder": {}, "eos_token": "<e>",
            "extra_special_tokens": {"image_token": "<i>"}, "tokenizer_class": "T"}"#,
    );
    assert_eq!(
        first_line(),
        r#"{% set eos_token = "<e>" %}{% set image_token = "<i>" %}"#
    );
}

/// The ids of texts under a tokenizer of the golden files, beside which are these files.
fn ids_with(
    family: &str,
    files: &[&str],
    beside: &[(&str, Value)],
    texts: &[&str],
) -> Option<Vec<Vec<u32>>> {
    let source = shared(&format!("goldens/tokenizers/{family}"))?;
    let folder = scratch();
    for file in files {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    for (name, json) in beside {
        std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    }
    let tokenizer = open(folder.path());
    let ids = texts
        .iter()
        .map(|text| encode(&tokenizer, text, WITH_SPECIAL));
    Some(ids.collect())
}

const LLAMA_FILES: [&[&str]; 2] = [&["tokenizer.json"], &["tokenizer.model"]];
const GPT2_FILES: [&[&str]; 2] = [&["tokenizer.json"], &["vocab.json", "merges.txt"]];

/// What transformers 4.57 and 5.24 give, as far as they agree.
#[test]
fn add_prefix_space_is_obeyed_by_the_classes_of_llama_and_gpt2() {
    let texts = ["Hi there", " Hi", "<s>Hi </s> a"];
    let with: Vec<Vec<u32>> = vec![
        vec![1, 433, 75, 437, 268, 266],
        vec![1, 259, 75, 437],
        vec![1, 1, 433, 75, 437, 433, 2, 259, 438],
    ];
    let without: Vec<Vec<u32>> = vec![
        vec![1, 75, 437, 268, 266],
        vec![1, 433, 75, 437],
        vec![1, 1, 75, 437, 433, 2, 265],
    ];
    for files in LLAMA_FILES {
        for (class, add, expected) in [
            ("LlamaTokenizer", None, &with),
            ("LlamaTokenizer", Some(true), &with),
            ("LlamaTokenizer", Some(false), &without),
            ("LlamaTokenizerFast", Some(false), &without),
            ("PreTrainedTokenizerFast", Some(false), &with),
        ] {
            let config = serde_json::json!({
                "tokenizer_class": class, "add_prefix_space": add,
                "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
            });
            let ids = ids_with(
                "tok-spm-llama",
                files,
                &[("tokenizer_config.json", config)],
                &texts,
            );
            assert!(
                ids.is_none_or(|ids| ids == *expected),
                "{files:?} {class} {add:?}"
            );
        }
    }

    let texts = ["Hi there", " Hi", "Hi<|im_end|> a<|im_end|>a"];
    let with: Vec<Vec<u32>> = vec![
        vec![224, 43, 76, 270, 265],
        vec![224, 43, 76],
        vec![224, 43, 76, 2, 266, 2, 266],
    ];
    let without: Vec<Vec<u32>> = vec![
        vec![43, 76, 270, 265],
        vec![224, 43, 76],
        vec![43, 76, 2, 266, 2, 68],
    ];
    for files in GPT2_FILES {
        for (add, expected) in [
            (None, &without),
            (Some(false), &without),
            (Some(true), &with),
        ] {
            let config = serde_json::json!({
                "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": add,
                    "eos_token": "<|im_end|>",
            });
            let ids = ids_with(
                "tok-gpt2",
                files,
                &[("tokenizer_config.json", config)],
                &texts,
            );
            assert!(
                ids.as_ref().is_none_or(|ids| ids == expected),
                "{files:?} {add:?}: {ids:?}"
            );
        }
    }
}

#[test]
fn text_without_a_space_in_front_decodes_to_itself() {
    let Some(source) = shared("goldens/tokenizers/tok-spm-llama") else {
        return;
    };
    for file in ["tokenizer.json", "tokenizer.model"] {
        let folder = scratch();
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
        let config = r#"{"tokenizer_class": "LlamaTokenizer", "add_prefix_space": false}"#;
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let tokenizer = open(folder.path());
        for text in [" Hi", "Hi", "  Hi there"] {
            assert_eq!(
                decode(&tokenizer, &encode(&tokenizer, text, PARSED), true),
                text,
                "{file}"
            );
        }
    }
}

#[test]
fn add_bos_token_and_add_eos_token_are_obeyed_by_some_classes() {
    let around = |family: &str, files: &[&str], class: &str, keys: Value| {
        let (bos, eos) = if family == "tok-gpt2" {
            ("<|endoftext|>", "<|im_end|>")
        } else {
            ("<s>", "</s>")
        };
        let mut config =
            serde_json::json!({"tokenizer_class": class, "bos_token": bos, "eos_token": eos});
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
        let ids = ids_with(family, files, &[("tokenizer_config.json", config)], &[" "])?;
        let first = ids[0].first().copied()?;
        let last = ids[0].last().copied()?;
        Some((first < 3, last < 3))
    };
    use serde_json::json;
    for files in LLAMA_FILES {
        for (keys, expected) in [
            (json!({}), (true, false)),
            (json!({"add_bos_token": false}), (false, false)),
            (json!({"add_eos_token": true}), (true, true)),
            (
                json!({"add_bos_token": false, "add_eos_token": true}),
                (false, true),
            ),
        ] {
            let found = around("tok-spm-llama", files, "LlamaTokenizer", keys.clone());
            assert!(
                found.is_none_or(|found| found == expected),
                "{files:?} {keys}: {found:?}"
            );
        }
    }
    for (files, expected) in GPT2_FILES.iter().zip([false, true]) {
        let found = around(
            "tok-gpt2",
            files,
            "GPT2Tokenizer",
            json!({"add_bos_token": true}),
        );
        assert!(
            found.is_none_or(|found| found == (expected, false)),
            "{files:?}: {found:?}"
        );
    }
}

#[test]
fn tokens_are_added_from_all_files_that_say_so() {
    use serde_json::json;
    let check = |files: &[&str], beside: &[(&str, Value)], text: &str, expected: &[u32]| {
        let (family, class) = if files.contains(&"tokenizer.model") {
            ("tok-spm-llama", "LlamaTokenizer")
        } else {
            ("tok-gpt2", "GPT2Tokenizer")
        };
        let mut beside = beside.to_vec();
        if beside
            .iter()
            .all(|(name, _)| *name != "tokenizer_config.json")
        {
            beside.push(("tokenizer_config.json", json!({"tokenizer_class": class})));
        }
        let found = ids_with(family, files, &beside, &[text]);
        assert!(
            found.as_ref().is_none_or(|ids| ids[0] == expected),
            "{files:?} {beside:?}: {found:?}"
        );
    };
    let text = "a<new>b <new>";
    // Folders written before transformers 4.34.
    check(
        GPT2_FILES[1],
        &[("added_tokens.json", json!({"<new>": 510}))],
        text,
        &[68, 510, 69, 224, 510],
    );
    check(
        GPT2_FILES[0],
        &[("added_tokens.json", json!({"<new>": 512}))],
        text,
        &[68, 512, 69, 224, 512],
    );
    check(
        LLAMA_FILES[1],
        &[("added_tokens.json", json!({"<new>": 508}))],
        "<new><new>",
        &[1, 508, 508],
    );
    // The config's list goes before it.
    let listed = json!({"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder":
        {"512": {"content": "<new>", "special": true, "lstrip": true}, "511": {"content": "<tool>",
            "rstrip": true}}});
    let files = [
        ("tokenizer_config.json", listed),
        ("added_tokens.json", json!({"b": 513})),
    ];
    check(GPT2_FILES[0], &files, text, &[68, 512, 69, 512]);
    check(GPT2_FILES[0], &files, "<tool> b", &[511, 69]);
    // A special token that is only named has the id of the vocabulary, or the next one.
    let named = [(
        "special_tokens_map.json",
        json!({"additional_special_tokens": ["the", {"content": "<new>"}]}),
    )];
    check(GPT2_FILES[0], &named, text, &[68, 512, 69, 224, 512]);
    let pad = [(
        "tokenizer_config.json",
        json!({"tokenizer_class": "GPT2Tokenizer", "pad_token": "<new>"}),
    )];
    check(GPT2_FILES[0], &pad, text, &[68, 512, 69, 224, 512]);
    // The model has no row for it.
    let full = [pad[0].clone(), ("config.json", json!({"vocab_size": 512}))];
    let spelled = ids_with("tok-gpt2", GPT2_FILES[0], &[], &[text]);
    if let Some(spelled) = spelled {
        check(GPT2_FILES[0], &full, text, &spelled[0]);
    }
}

#[test]
fn an_added_token_that_is_named_is_special() {
    let folder = scratch();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "tokenizer.json",
        include_str!("../data/tokenizers/abc.json"),
    );
    write("added_tokens.json", r#"{"<x>": 9, "<y>": 10}"#);
    write("special_tokens_map.json", r#"{"eos_token": "<y>"}"#);
    let tokenizer = open(folder.path());
    assert_eq!(tokenizer.vocab_size(), 11);
    assert_eq!(
        (tokenizer.is_special(9), tokenizer.is_special(10)),
        (false, true)
    );
    assert_eq!(tokenizer.eos_ids().collect::<Vec<_>>(), [10]);
    assert!(encode(&tokenizer, "<x><y>", PARSED).ends_with(&[10]));
    assert!(!encode(&tokenizer, "<x><y>", AS_TEXT).contains(&10));
    write("added_tokens.json", r#"["<x>"]"#);
    let error = tokenizer::from_path(folder.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("added_tokens.json: not a list of tokens with their ids"),
        "{error}"
    );
}

#[test]
fn folders_of_bug_reports_give_the_right_ids() {
    for (case, text, expected) in [
        // As the Python tokenizer of transformers 4: a space before each stretch of text.
        (
            "added-tokens-json",
            "<|im_start|>x<|im_end|>",
            vec![1, 508, 433, 465, 509],
        ),
        (
            "add-prefix-space-false",
            "Hi there",
            vec![1, 75, 437, 268, 266],
        ),
    ] {
        if let Some(path) = shared(&format!("cases/{case}")) {
            assert_eq!(encode(&open(path), text, WITH_SPECIAL), expected, "{case}");
        }
    }
    if let Some(path) = shared("cases/pre-aliases/falcon3.gguf") {
        let section = section_of_gguf(&path);
        assert_eq!(
            encode(&Tokenizer::open(&section).unwrap(), "hi", PARSED),
            [104, 105]
        );
    }
}
