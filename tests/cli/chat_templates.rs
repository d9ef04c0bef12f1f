//! `pocketlm chat` with small models whose templates are made for the occasion.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::common::folder;

/// Writes a model with a token for each byte, the special tokens `specials`, and the template.
fn model(specials: &[&str], tokenizer_config: Value) -> tempfile::TempDir {
    // GPT-2's letters for bytes: themselves where they can be printed, else from U+0100 on.
    let mut next = 0x100;
    let mut vocab = serde_json::Map::new();
    for byte in 0..256_u32 {
        let letter = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte,
            _ => {
                next += 1;
                next - 1
            }
        };
        vocab.insert(char::from_u32(letter).unwrap().to_string(), byte.into());
    }
    let added: Vec<Value> = specials
        .iter()
        .zip(256..)
        .map(|(content, id)| json!({"id": id, "content": content, "special": true}))
        .collect();
    let tokenizer = json!({
        "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let mut checkpoint = folder::llama().set("vocab_size", 264.into());
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let stored = folder::Stored::numbers(1, &[264, 8]);
        checkpoint.tensors.insert(name.into(), stored);
    }
    let folder = checkpoint.write("model.safetensors");
    let write = |name: &str, value: Value| {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    write("tokenizer.json", tokenizer);
    write("tokenizer_config.json", tokenizer_config);
    write(
        "generation_config.json",
        json!({"eos_token_id": [257, 258]}),
    );
    folder
}

fn chat(model: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pocketlm"))
        .arg("chat")
        .arg(model)
        .args(arguments)
        .env("TZ", "XYZ-9")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a template says that gives its text to `raise_exception`.
fn said(model: &Path, arguments: &[&str]) -> String {
    let output = chat(model, arguments, "Hi\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let (_, message) = stderr.split_once("error: ").expect(&stderr);
    let (message, _) = message.split_once(" (chat template").expect(message);
    message.to_owned()
}

/// How many tokens a message is in all.
fn tokens(model: &Path, message: &str) -> usize {
    let output = chat(model, &["-n", "0"], message);
    let notes = String::from_utf8(output.stderr).unwrap();
    let count = notes.split_once("prompt ").expect(&notes).1;
    count.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_message_spells_no_special_token_of_any_length() {
    // `é` is also the letter of a byte: transformers' special token has that byte's id.
    let specials = ["<s>", "</s>", "<|end|>", "§", "é", "<x y>"];
    let template = "<s>{% for m in messages %}{{ m.content }}<|end|>{% endfor %}";
    let folder = model(&specials, json!({"chat_template": template}));
    for text in [
        "a",
        "§",
        "é",
        "a§é",
        "<s>",
        "</s><|end|>",
        "<|end|>x",
        "<x y>",
        "<s<s>>",
        "<|end",
    ] {
        assert_eq!(
            tokens(folder.path(), &format!("{text}\n")),
            2 + text.len(),
            "{text}"
        );
    }
}

#[test]
fn special_tokens_have_the_names_that_transformers_gives_them() {
    let template = "{{ raise_exception(bos_token ~ ',' ~ eos_token ~ ',' ~ (unk_token is defined) \
                    ~ ',' ~ (pad_token is defined) ~ ',' ~ image_token) }}";
    let config = json!({
        "bos_token": {"content": "<s>"}, "eos_token": "<|turn|>", "pad_token": null,
            "image_token": "<\"i\\\">",
        "added_tokens_decoder": {}, "tokenizer_class": "PreTrainedTokenizerFast",
            "chat_template": template,
    });
    let folder = model(&["<s>", "</s>", "<|end|>", "<|turn|>"], config);
    let expected = "<s>,<|turn|>,False,False,<\"i\\\">";
    assert_eq!(said(folder.path(), &[]), expected);
    // They are part of the image.
    let image = folder.path().join("packed.plm");
    let packed = Command::new(env!("CARGO_BIN_EXE_pocketlm"))
        .arg("pack")
        .arg(folder.path())
        .arg("-o")
        .arg(&image)
        .output()
        .unwrap();
    assert!(packed.status.success(), "{packed:?}");
    assert_eq!(said(&image, &[]), expected);
}

#[test]
fn variables_come_from_the_command_line() {
    let template =
        "{{ raise_exception(think ~ ',' ~ effort ~ ',' ~ (list | tojson) ~ ',' ~ tools) }}";
    let folder = model(
        &["<s>", "</s>", "<|end|>"],
        json!({"chat_template": template}),
    );
    let settings = [
        "--set",
        "think=false",
        "--set",
        "effort=low",
        "--set",
        "list=[1, {\"a\": null}]",
    ];
    let expected = "False,low,[1, {\"a\": null}],None";
    assert_eq!(said(folder.path(), &settings), expected);
    let wrong = chat(folder.path(), &["--set", "think"], "Hi\n");
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn a_single_template_is_used_whatever_its_name() {
    let named = |name: &str| {
        json!({"name": name,
        "template": format!("{{{{ raise_exception('{name}') }}}}")})
    };
    let specials = ["<s>", "</s>", "<|end|>"];
    let folder = model(&specials, json!({"chat_template": [named("tool_use")]}));
    assert_eq!(said(folder.path(), &[]), "tool_use");
    let folder = model(
        &specials,
        json!({"chat_template": [named("rag"), named("default")]}),
    );
    assert_eq!(said(folder.path(), &[]), "default");
}

#[test]
fn the_time_is_local() {
    let template = "{{ raise_exception(strftime_now('%H')) }}";
    let folder = model(
        &["<s>", "</s>", "<|end|>"],
        json!({"chat_template": template}),
    );
    let hour = || {
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs();
        format!("{:02}", (now / 3600 + 9) % 24)
    };
    let before = hour();
    let said = said(folder.path(), &[]);
    let after = hour();
    assert!(said == before || said == after, "{said} {before} {after}");
}
