//! The commands as scripts meet them: stdout, stderr and exit codes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::common::{folder, shared};
use crate::program::*;

#[test]
fn without_arguments_the_program_explains_itself() {
    let help = stdout(run(&[]));
    for word in [
        "pack",
        "info",
        "plan",
        "run",
        "chat",
        "snapshot",
        "grammar",
        "tokenize",
        "logits",
        "perplexity",
        "bench",
        "verify",
        "Start here",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in [
        "pack",
        "info",
        "plan",
        "run",
        "chat",
        "snapshot",
        "grammar",
        "tokenize",
        "logits",
        "perplexity",
        "bench",
        "verify",
    ] {
        let help = stdout(run(&[command, "--help"]));
        assert!(
            help.contains("Example") && help.contains(&format!("pocketlm {command}")),
            "{help}"
        );
    }
    assert_eq!(
        stdout(run(&["--version"])),
        format!("pocketlm {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_usage_exits_with_2_and_leaves_stdout_empty() {
    for arguments in [
        &["fly"][..],
        &["run", "--temperature", "-1"],
        &["run", "--temperature", "nan"],
        &["run", "--top-p", "1.5"],
        &["run", "--kv", "q4"],
        &["run", "-t", "0"],
        &["run", "--batch", "0"],
        &["pack", STORY],
        &["pack", STORY, "-o", "x.plm", "--dtype", "q7"],
        &["plan", STORY],
        &["plan", STORY, "--context", "0"],
        &["plan", STORY, "--context", "8", "--ram", "plenty"],
        &["perplexity", STORY, "-f", "text", "--context", "1"],
        &["logits", STORY, "--tokens", "1,x", "-o", "out.safetensors"],
        &["logits", STORY, "--tokens", "", "-o", "out.safetensors"],
        &["info"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn the_story_is_told_on_stdout_and_its_speed_on_stderr() {
    let output = run(&["run", "--seed", "1", "-n", "40"]);
    let note = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(
        note.contains("text 40 tokens")
            && note.ends_with("; seed 1\n")
            && note.lines().count() == 1,
        "{note}"
    );
    let story = stdout(output);
    assert!(
        story.starts_with("Once upon a time") && story.ends_with('\n') && story.len() > 60,
        "{story}"
    );
    assert!(!story.contains("<bos>"), "{story}");
}

#[test]
fn a_seed_tells_one_story_whatever_threads_and_batch() {
    let tell = |more: &[&str]| {
        let mut arguments = vec![
            "run",
            "-n",
            "30",
            "-p",
            "One day, a cat named Tim found a key. He",
        ];
        arguments.extend(more);
        stdout(run(&arguments))
    };
    let story = tell(&["--seed", "5"]);
    assert_eq!(tell(&["--seed", "5", "-t", "1", "--batch", "1"]), story);
    assert_eq!(tell(&["--seed", "5", "-t", "3", "--batch", "7"]), story);
    assert_eq!(
        tell(&["--temperature", "0"]),
        tell(&["--temperature", "0", "--seed", "9"])
    );
    assert_ne!(tell(&["--seed", "6"]), story);
}

#[test]
fn a_text_is_the_same_with_and_without_drafts() {
    let tell = |more: &[&str]| {
        let mut arguments = vec![
            "run",
            "-p",
            "The cat sat. The cat sat. The cat sat. The cat",
        ];
        arguments.extend(more);
        let output = run(&arguments);
        let note = String::from_utf8(output.stderr.clone()).unwrap();
        (stdout(output), note)
    };
    // The last of these ends where the context does.
    for how in [
        &["-n", "61", "--temperature", "0"][..],
        &["-n", "90", "--seed", "3"],
        &["-c", "100", "--seed", "4"],
    ] {
        let (story, note) = tell(&[how, &["--lookup", "0"]].concat());
        assert!(!note.contains("drafted"), "{note}");
        let tokens = note.split("; ").nth(1).unwrap().split(',').next().unwrap();
        for more in [
            &[][..],
            &["--lookup", "1"],
            &["--lookup", "255"],
            &["--batch", "2"],
        ] {
            let (same, note) = tell(&[how, more].concat());
            assert_eq!(same, story, "{how:?} {more:?}");
            assert!(
                note.contains(tokens) && note.contains(" of them drafted"),
                "{note}"
            );
            assert_eq!(
                note.contains("the context is full"),
                how.contains(&"-c"),
                "{note}"
            );
        }
    }
    // What was fed cannot be taken back where a batch is a single token.
    assert!(
        !tell(&["-n", "61", "--temperature", "0", "--batch", "1"])
            .1
            .contains("drafted")
    );
}

#[test]
fn prompts_come_from_the_option_or_from_stdin() {
    let greedy = ["run", STORY, "-n", "10", "--temperature", "0"];
    let of_option = stdout(run(&[&greedy[..], &["-p", "Tom had a dog."]].concat()));
    assert!(of_option.starts_with("Tom had a dog."));
    assert_eq!(
        stdout(run_with_input(&greedy, "Tom had a dog.\n")),
        of_option
    );
    assert_eq!(
        stdout(run_with_input(
            &[&greedy[..], &["-p", "-"]].concat(),
            "Tom had a dog."
        )),
        of_option
    );
    let without_echo = stdout(run(
        &[&greedy[..], &["-p", "Tom had a dog.", "--no-echo"]].concat()
    ));
    assert_eq!(format!("Tom had a dog.{without_echo}"), of_option);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let long = "once ".repeat(300);
    for arguments in [
        &["run", "-p", &long][..],
        &["run", STORY, "-p", &long, "-n", "100"],
    ] {
        let line = refusal(run(arguments));
        assert!(
            line.starts_with("the prompt has ")
                && line.contains("context 256")
                && line.contains("--context"),
            "{line}"
        );
    }
}

#[test]
fn a_context_longer_than_the_trained_one_gives_a_warning_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "once ".repeat(300)).unwrap();
    for arguments in [
        &["run", STORY, "-p", "Once", "-n", "1", "--context"][..],
        &["plan", STORY, "--context"],
        &["perplexity", STORY, "-f", path(&text), "--context"],
    ] {
        for (context, warned) in [("256", false), ("257", true)] {
            let output = run(&[arguments, &[context]].concat());
            let notes = String::from_utf8(output.stderr.clone()).unwrap();
            stdout(output);
            assert_eq!(
                notes.contains("warning: a context of 257 tokens"),
                warned,
                "{arguments:?}: {notes}"
            );
        }
    }
}

#[test]
fn a_text_stops_where_the_context_is_full() {
    let output = run(&["run", "-c", "20", "-n", "1000", "--seed", "1"]);
    let note = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(note.contains("the context is full"), "{note}");
    stdout(output);
}

#[test]
fn info_names_the_config_as_penzai_does() {
    let info = json(&stdout(run(&["info", STORY, "--json"])));
    assert_eq!(info["config"]["embedding_dim"], 192);
    assert_eq!(info["config"]["mlp_variant"], "geglu_approx");
    assert_eq!(info["config"]["final_logit_softcap"], 15.0);
    assert_eq!(info["config"]["rms_norm_eps"], 1e-6);
    assert_eq!(info["config"]["max_position_embeddings"], 256);
    assert_eq!(info["config"]["attention_type"][0]["window_size"], 64);
    assert_eq!(
        info["config"]["attention_type"][1]["type"],
        "AttentionTypeGlobalCausal"
    );
    assert_eq!(info["tokenizer_vocab_size"], 1024);
    assert_eq!(info["tensors"][0]["name"], "embedder.embeddings");
    assert_eq!(info["tensors"][0]["shape"], serde_json::json!([1024, 192]));
    assert_eq!(info["bytes"], std::fs::metadata(STORY).unwrap().len());
    assert_eq!(info["checksum"].as_str().unwrap().len(), 8);

    let text = stdout(run(&["info", STORY]));
    assert!(
        text.contains("attn_logits_soft_cap       10.0")
            && text.contains(info["checksum"].as_str().unwrap()),
        "{text}"
    );
}

#[test]
fn plan_accounts_for_every_byte() {
    let plan = json(&stdout(run(&[
        "plan",
        STORY,
        "--context",
        "256",
        "--batch",
        "4",
        "--kv",
        "f16",
        "--json",
    ])));
    let sum = |memory: &Value| {
        memory["parts"]
            .as_object()
            .unwrap()
            .values()
            .map(|v| v.as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(
        plan["flash"]["total"],
        std::fs::metadata(STORY).unwrap().len()
    );
    assert_eq!(plan["flash"]["total"], sum(&plan["flash"]));
    assert_eq!(plan["ram"]["total"], sum(&plan["ram"]));
    assert_eq!(plan["fits"], true);
    // Layer 0 is a ring of 64 + 4 - 1 positions, in whole tiles; layer 1 keeps all 256. 2 heads of
    // 32 channels, keys and values, 2 bytes each.
    assert_eq!(plan["ram"]["parts"]["cache_layer_0"], 72 * 2 * 32 * 2 * 2);
    assert_eq!(plan["ram"]["parts"]["cache_layer_1"], 256 * 2 * 32 * 2 * 2);
}

#[test]
fn info_and_plan_tell_convolutions_from_attention() {
    let folder = folder::lfm2().write("model.safetensors");
    let model = path(folder.path());
    let info = stdout(run(&["info", model]));
    assert!(
        info.contains("attention_type             1 × convolution 3, 1 × global\n")
            && info.contains("block_0/convolution/in.weights"),
        "{info}"
    );
    let plan = ["plan", model, "--context", "64", "--batch", "4"];
    let table = stdout(run(&plan));
    assert!(
        table.contains("  convolution: ring of 6, window 3 "),
        "{table}"
    );
    let plan = json(&stdout(run(&[&plan[..], &["--json"]].concat())));
    // 3 + 4 - 1 positions, 8 channels, 4 bytes each.
    assert_eq!(plan["ram"]["parts"]["cache_layer_0"], 6 * 8 * 4);
}

#[test]
fn a_plan_that_does_not_fit_says_so_and_exits_with_1() {
    let output = run(&[
        "plan",
        STORY,
        "--context",
        "256",
        "--flash",
        "2M",
        "--ram",
        "64K",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("missing") && table.contains("of 64.00 KiB") && table.contains("free"),
        "{table}"
    );
    let reason = String::from_utf8(output.stderr).unwrap();
    assert!(
        reason.contains("RAM lacks") && !reason.contains("flash"),
        "{reason}"
    );
    assert!(
        run(&[
            "plan",
            STORY,
            "--context",
            "256",
            "--flash",
            "2M",
            "--ram",
            "4MiB"
        ])
        .status
        .success()
    );
}

#[test]
fn plan_for_a_board_counts_code_and_stack_and_takes_its_memory_as_the_limits() {
    let plan =
        |more: &[&str]| run(&[&["plan", STORY, "--context", "256", "--kv", "q8"], more].concat());
    let alone = json(&stdout(plan(&["--json"])));
    let on_board = json(&stdout(plan(&["--board", "pico2", "--json"])));
    for (memory, part, limit) in [("flash", "code", 4 << 20), ("ram", "stack", 520 << 10)] {
        let added = on_board[memory]["parts"][part].as_u64().unwrap();
        assert!(added > 0);
        assert_eq!(
            on_board[memory]["total"],
            alone[memory]["total"].as_u64().unwrap() + added
        );
        assert_eq!(on_board[memory]["limit"], limit);
    }
    let refused = plan(&["--board", "stm32f411", "--ram", "64K"]);
    assert_eq!(refused.status.code(), Some(1));
    let line = String::from_utf8(refused.stderr).unwrap();
    assert!(
        line.contains("flash lacks") && line.contains("RAM lacks"),
        "{line}"
    );
    // Layers of one kind are one line.
    let lines = stdout(plan(&[]));
    assert_eq!(lines.matches("keys and values").count(), 2, "{lines}");
}

#[test]
fn plan_draws_a_chart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("memory.svg");
    stdout(run(&[
        "plan",
        STORY,
        "--context",
        "64",
        "--ram",
        "1M",
        "--svg",
        path(&file),
    ]));
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.contains("keys and values: all 64, 4 layers"),
        "{svg}"
    );
}

#[test]
fn tokens_make_a_round_trip() {
    let ids = stdout(run_with_input(
        &["tokenize", STORY],
        "Once upon a time, é\n",
    ));
    assert_eq!(json(&ids)[0], 2);
    assert_eq!(
        stdout(run_with_input(
            &["tokenize", STORY, "--decode", "--no-special"],
            &ids
        )),
        "Once upon a time, é\n"
    );
    let plain = stdout(run_with_input(
        &["tokenize", STORY, "--no-special"],
        "Once upon a time, é\n",
    ));
    assert_eq!(
        json(&plain).as_array().unwrap()[..],
        json(&ids).as_array().unwrap()[1..]
    );

    let batch = stdout(run_with_input(
        &["tokenize", STORY, "--batch"],
        "\"Tom\"\n\"\"\n\"two\\nlines\"\n",
    ));
    assert_eq!(batch.lines().count(), 3);
    let back = stdout(run_with_input(
        &["tokenize", STORY, "--batch", "--decode", "--no-special"],
        &batch,
    ));
    assert_eq!(back, "\"Tom\"\n\"\"\n\"two\\nlines\"\n");
}

#[test]
fn tokenize_refuses_what_it_cannot_read() {
    let line = refusal(run_with_input(
        &["tokenize", STORY, "--decode"],
        "[1, 99999]",
    ));
    assert!(line.contains("99999") && line.contains("1024"), "{line}");
    let line = refusal(run_with_input(&["tokenize", STORY, "--decode"], "1, 2"));
    assert!(
        line.starts_with("standard input: not a JSON array of token ids"),
        "{line}"
    );
    let line = refusal(run_with_input(&["tokenize", STORY, "--batch"], "plain\n"));
    assert!(
        line.starts_with("standard input, line 1: not a JSON string"),
        "{line}"
    );
}

#[test]
fn lone_tokenizer_files_tokenize() {
    for (folder, file) in [
        ("tok-qwen2", "tokenizer.json"),
        ("tok-spm-llama", "tokenizer.model"),
    ] {
        let Some(folder) = shared(&format!("goldens/tokenizers/{folder}")) else {
            return;
        };
        let name = if file == "tokenizer.json" {
            "tokenizer_cases.json"
        } else {
            "tokenizer_model_cases.json"
        };
        let cases = json(&std::fs::read_to_string(folder.join(name)).unwrap());
        let cases = cases["cases"].as_array().unwrap();
        let texts: String = cases
            .iter()
            .map(|case| format!("{}\n", case["text"]))
            .collect();
        let model = folder.join(file);
        let ids = stdout(run_with_input(
            &["tokenize", path(&model), "--batch", "--no-special"],
            &texts,
        ));
        for (line, case) in ids.lines().zip(cases) {
            assert_eq!(json(line), case["ids"], "{file}: {}", case["text"]);
        }
        assert_eq!(ids.lines().count(), cases.len());
    }
}

#[test]
fn logits_are_the_same_bits_however_they_are_computed() {
    let folder = tempfile::tempdir().unwrap();
    let compute = |more: &[&str]| {
        let file = folder.path().join("out.safetensors");
        let arguments = [
            "logits",
            STORY,
            "--tokens",
            "2,427,434, 265,400",
            "-o",
            path(&file),
        ];
        let digest = stdout(run(&[&arguments[..], more].concat()));
        assert!(
            digest.trim_end().len() == 16 && u64::from_str_radix(digest.trim_end(), 16).is_ok(),
            "{digest}"
        );
        (digest, logits(&file))
    };
    let (digest, (shape, numbers)) = compute(&[]);
    assert_eq!(shape, [5, 1024]);
    assert!(numbers.iter().all(|x| x.abs() <= 15.0) && numbers.iter().any(|x| *x > 5.0));
    assert_eq!(
        compute(&["--batch", "1", "-t", "1"]),
        (digest.clone(), (shape, numbers))
    );
    assert_ne!(compute(&["--kv", "q8"]).0, digest);
    let left: Vec<_> = folder
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["out.safetensors"]);
}

#[test]
fn logits_refuses_tokens_that_do_not_exist_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.safetensors");
    let line = refusal(run(&[
        "logits",
        STORY,
        "--tokens",
        "1,1024",
        "-o",
        path(&file),
    ]));
    assert!(line.contains("1024"), "{line}");
    assert!(
        !line.contains(path(&file)),
        "the output is not to blame: {line}"
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn perplexity_scores_every_token_of_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    let text = "Once upon a time, there was a little girl named Lily. She loved to play outside in \
     the park.";
    std::fs::write(&file, text).unwrap();
    let ids = json(&stdout(run_with_input(
        &["tokenize", STORY, "--no-special"],
        text,
    )));
    let score = |more: &[&str]| {
        stdout(run(
            &[&["perplexity", STORY, "-f", path(&file)], more].concat()
        ))
    };
    let whole = json(&score(&["--json"]));
    assert_eq!(whole["tokens"], ids.as_array().unwrap().len());
    let nats = whole["nats_per_token"].as_f64().unwrap();
    let perplexity = whole["perplexity"].as_f64().unwrap();
    assert!(
        nats > 0.3 && nats < 3.0 && perplexity == nats.exp(),
        "{whole}"
    );
    // Shorter windows see less and foresee less.
    let short = json(&score(&["--json", "--context", "4"]));
    assert_eq!(short["tokens"], whole["tokens"]);
    assert!(short["nats_per_token"].as_f64().unwrap() > nats);
    assert_eq!(
        score(&[]),
        format!(
            "tokens {} nats_per_token {nats:.6} perplexity {perplexity:.4}\n",
            whole["tokens"]
        )
    );
}

#[test]
fn a_packed_golden_verifies_and_a_wrong_one_says_where() {
    let Some(cases) = shared("goldens/llamalike") else {
        return;
    };
    let case = cases.join("p04_gemma2_alternating_softcaps");
    let report = stdout(run(&["verify", path(&case), path(&case)]));
    assert!(report.contains("agrees"), "{report}");

    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("case.plm");
    stdout(run(&[
        "pack",
        path(&case),
        "-o",
        path(&image),
        "--dtype",
        "q4",
    ]));
    let output = run(&["verify", path(&image), path(&case)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("position")
    );
    assert!(
        run(&["verify", path(&image), path(&case), "--tolerance", "100"])
            .status
            .success()
    );
}

#[test]
fn golden_folders_of_both_kinds_verify() {
    for case in [
        "llamalike/p10_positions_gaps_and_pads",
        "hf/qwen3",
        "hf/gemma3",
    ] {
        let Some(case) = shared(&format!("goldens/{case}")) else {
            return;
        };
        stdout(run(&["verify", path(&case), path(&case)]));
    }
}

#[test]
fn quantised_goldens_verify_exactly_as_f32_and_nearly_as_packed_by_default() {
    let Some(cases) = shared("goldens/quantized/hf") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("m.plm");
    // The largest difference of a logit, measured; logits have a standard deviation of 2. Rounded
    // are minima (AWQ), all weights (desc_act, and 8 bits with zero points), and the inputs of a
    // product with any quantised type.
    for (case, tolerance) in [
        ("awq-w4-g128", "0.02"),
        ("awq-w4-g32", "0.02"),
        ("ct-w4-g128-sym", "0.002"),
        ("ct-w4-g32-asym", "0.002"),
        ("ct-w8a8-channel", "0.002"),
        ("gptq-w4-g128-sym", "0.002"),
        ("gptq-w4-g32-asym-actorder", "0.3"),
        ("gptq-w8-channel-asym", "0.3"),
    ] {
        let case = cases.join(case);
        let case = path(&case);
        stdout(run(&["pack", case, "-o", path(&image), "--dtype", "f32"]));
        stdout(run(&["verify", path(&image), case, "--tolerance", "2e-4"]));
        stdout(run(&["pack", case, "-o", path(&image)]));
        stdout(run(&[
            "verify",
            path(&image),
            case,
            "--tolerance",
            tolerance,
        ]));
    }
}

#[test]
fn packing_is_deterministic_and_keeps_an_older_image_when_it_fails() {
    let Some(case) = shared("goldens/hf/llama3-gqa-tied") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first.plm", "second.plm"].map(|name| folder.path().join(name));
    for image in [&first, &second] {
        let output = run(&[
            "pack",
            path(&case),
            "-o",
            path(image),
            "--dtype",
            "q8",
            "--embedder-dtype",
            "f16",
        ]);
        assert!(output.stdout.is_empty(), "{output:?}");
        stdout(output);
    }
    let bytes = std::fs::read(&first).unwrap();
    assert_eq!(bytes, std::fs::read(&second).unwrap());
    let info = json(&stdout(run(&["info", path(&first), "--json"])));
    let dtype = |name: &str| {
        let tensors = info["tensors"].as_array().unwrap();
        tensors
            .iter()
            .find(|tensor| tensor["name"] == name)
            .unwrap()["dtype"]
            .clone()
    };
    assert_eq!(dtype("embedder.embeddings"), "f16");
    assert_eq!(dtype("block_0/attention/query.weights"), "q8");
    assert_eq!(dtype("final_norm/scale.weights"), "f32");

    // A checkpoint cut short.
    let broken = folder.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    for entry in case.read_dir().unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_file() {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            if entry
                .file_name()
                .to_str()
                .unwrap()
                .ends_with(".safetensors")
            {
                bytes.truncate(bytes.len() / 2);
            }
            std::fs::write(broken.join(entry.file_name()), bytes).unwrap();
        }
    }
    let line = refusal(run(&["pack", path(&broken), "-o", path(&first)]));
    assert!(line.contains("safetensors"), "{line}");
    assert_eq!(std::fs::read(&first).unwrap(), bytes);
    assert_eq!(folder.path().read_dir().unwrap().count(), 3);
}

#[test]
fn packing_refuses_what_it_cannot_pack_or_write() {
    let line = refusal(run(&["pack", STORY, "-o", "/nowhere/x.plm"]));
    assert!(
        line.starts_with(STORY) && line.contains("is an image already"),
        "{line}"
    );
    let Some(case) = shared("goldens/hf/qwen3") else {
        return;
    };
    let line = refusal(run(&["pack", path(&case), "-o", "/nowhere/x.plm"]));
    assert!(line.starts_with("/nowhere/x.plm: "), "{line}");
    let folder = tempfile::tempdir().unwrap();
    let line = refusal(run(&["pack", path(&case), "-o", path(folder.path())]));
    assert!(line.contains("is a folder"), "{line}");
}

#[test]
fn packing_replaces_an_image_and_nothing_else() {
    let Some(case) = shared("goldens/hf/qwen3") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious.gguf");
    std::fs::write(&file, "a checkpoint").unwrap();
    let line = refusal(run(&["pack", path(&case), "-o", path(&file)]));
    assert!(
        line.starts_with(path(&file)) && line.contains("is not an image"),
        "{line}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"a checkpoint");
    std::fs::copy(STORY, &file).unwrap();
    stdout(run(&["pack", path(&case), "-o", path(&file)]));
    assert_ne!(std::fs::read(&file).unwrap(), std::fs::read(STORY).unwrap());
}

#[test]
fn a_context_larger_than_memory_is_refused() {
    let line = refusal(run(&["run", "-c", "4000000000", "--kv", "f32"]));
    assert!(line.contains("--context"), "{line}");
}

#[test]
fn other_formats_run_as_in_their_own_programs() {
    let Some(folder) = shared("fetched/stories260K") else {
        return;
    };
    let expected = std::fs::read_to_string(folder.join("greedy_bos.txt")).unwrap();
    for model in ["stories260K.bin", "stories260K.f32.gguf"] {
        let model = folder.join(model);
        let text = stdout(run(&[
            "run",
            path(&model),
            "-p",
            "",
            "-n",
            "256",
            "--temperature",
            "0",
        ]));
        assert_eq!(text.trim_end(), expected.trim_end(), "{}", model.display());
        assert_eq!(
            stdout(run_with_input(&["tokenize", path(&model)], "Once upon")),
            "[1,403,407]\n"
        );
    }
}

#[test]
fn a_packed_checkpoint_is_kept_until_it_changes() {
    let Some(folder) = shared("fetched/stories260K") else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let model = scratch.path().join("model.gguf");
    let cache = scratch.path().join("cache");
    std::fs::write(
        &model,
        std::fs::read(folder.join("stories260K.f32.gguf")).unwrap(),
    )
    .unwrap();
    let info = || {
        let mut command = program(&["info", path(&model), "--json"]);
        command.env("POCKETLM_CACHE", &cache);
        command
    };
    let checksum = |output| json(&stdout(output))["checksum"].clone();
    let packed = checksum(run(&["info", path(&model), "--json"]));
    assert!(!cache.exists());
    // Many at once, none of them waits for another.
    let started: Vec<_> = (0..6)
        .map(|_| {
            info()
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in started {
        assert_eq!(checksum(child.wait_with_output().unwrap()), packed);
    }
    let kept = || -> Vec<PathBuf> {
        cache
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    };
    let [image] = &kept()[..] else {
        panic!("{:?}", kept())
    };
    let bytes = std::fs::read(image).unwrap();
    // It is used: another model in its place is what is seen.
    std::fs::copy(STORY, image).unwrap();
    let story = checksum(run(&["info", STORY, "--json"]));
    assert_eq!(checksum(info().output().unwrap()), story);
    // Not if it is damaged or cut: then there is a new one.
    for damage in [bytes.len() / 2, 300, 20, 0] {
        let mut damaged = bytes.clone();
        damaged[damage] ^= 1;
        damaged.truncate(bytes.len() - damage % 64);
        std::fs::write(image, damaged).unwrap();
        assert_eq!(checksum(info().output().unwrap()), packed);
        assert_eq!(std::fs::read(image).unwrap(), bytes);
    }
    // Nor if the checkpoint is not what it was, though it is as long and says it is as old.
    let modified = model.metadata().unwrap().modified().unwrap();
    let mut other = std::fs::read(&model).unwrap();
    let last = other.len() - 4;
    other[last..].copy_from_slice(&1f32.to_le_bytes());
    std::fs::write(&model, other).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&model)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    let changed = checksum(info().output().unwrap());
    assert_ne!(changed, packed);
    assert_eq!(changed, checksum(run(&["info", path(&model), "--json"])));
    // A folder that cannot be written to costs time, and a word about it.
    std::fs::write(scratch.path().join("file"), "").unwrap();
    let output = info()
        .env("POCKETLM_CACHE", scratch.path().join("file"))
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("not kept"),
        "{output:?}"
    );
    assert_eq!(checksum(output), changed);
}

#[test]
fn a_missing_or_damaged_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.plm");
    let commands: [&[&str]; 5] = [
        &["info"],
        &["plan", "--context", "8"],
        &["run", "-p", "x"],
        &["chat"],
        &["tokenize"],
    ];
    let each = || {
        commands
            .iter()
            .map(|command| refusal(run(&[&command[..1], &[path(&file)], &command[1..]].concat())))
    };
    for line in each() {
        assert!(line.starts_with(path(&file)), "{line}");
    }
    let mut bytes = std::fs::read(STORY).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    for line in each() {
        assert!(
            line.starts_with(path(&file)) && line.contains("checksum"),
            "{line}"
        );
    }
    bytes.truncate(1000);
    std::fs::write(&file, &bytes).unwrap();
    for line in each() {
        assert!(
            line.starts_with(path(&file)) && line.contains("1000"),
            "{line}"
        );
    }
    std::fs::write(&file, "not a model").unwrap();
    for line in each() {
        assert!(line.starts_with(path(&file)), "{line}");
    }
}

#[test]
fn a_model_without_a_template_does_not_chat() {
    let line = refusal(run_with_input(&["chat", STORY], "Hello\n"));
    assert!(
        line.starts_with(STORY)
            && line.contains("no chat template")
            && line.contains("pocketlm run"),
        "{line}"
    );
}

#[test]
fn a_conversation_continues_from_turn_to_turn() {
    // Random weights with a chat template: what is said makes no sense, and is the same each time.
    let Some(case) = shared("goldens/hf/qwen3") else {
        return;
    };
    let chat = |input: &str| {
        let output = run_with_input(
            &[
                "chat",
                path(&case),
                "--temperature",
                "0",
                "-n",
                "8",
                "-c",
                "400",
            ],
            input,
        );
        (
            stdout(output.clone()),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (once, _) = chat("Hi\n");
    let (twice, notes) = chat("Hi\n\nAnd now?\n");
    assert!(
        twice.starts_with(&once) && twice.len() > once.len(),
        "{once:?} {twice:?}"
    );
    assert!(
        notes.starts_with("warning: a context of 400 tokens"),
        "{notes}"
    );
    let prompts = prompt_lengths(&notes);
    assert_eq!(prompts.len(), 2);
    // The second turn computes its own tokens, not the first turn's again.
    assert!(prompts[1] < 2 * prompts[0] + 16, "{notes}");
    // A special token that is typed is text: more than the one token it would otherwise be.
    let (_, injected) = chat("Hi<|im_end|>\n");
    assert!(prompt_lengths(&injected)[0] > prompts[0] + 2, "{injected}");
}

#[test]
fn a_snapshot_continues_where_its_prompt_ended() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.kv");
    for kv in ["f32", "q8"] {
        let made = run(&[
            "snapshot",
            STORY,
            "-p",
            "Once upon a time",
            "--kv",
            kv,
            "-o",
            path(&file),
        ]);
        let notes = String::from_utf8(made.stderr).unwrap();
        assert!(
            made.stdout.is_empty()
                && notes.contains(&format!("({} bytes)", file.metadata().unwrap().len())),
            "{notes}"
        );
        let text = |arguments: &[&str]| {
            let output = run(&[
                &["run", STORY, "--temperature", "0", "-n", "30", "--no-echo"],
                arguments,
            ]
            .concat());
            (
                stdout(output.clone()),
                prompt_lengths(&String::from_utf8(output.stderr).unwrap())[0],
            )
        };
        let (whole, all) = text(&["-p", "Once upon a time, a dragon", "--kv", kv]);
        let (rest, few) = text(&["--snapshot", path(&file), "-p", ", a dragon"]);
        assert_eq!(rest, whole);
        assert!(
            few < all,
            "the snapshot's tokens are computed again: {few} of {all}"
        );
    }
    let line = refusal(run(&[
        "run",
        "--snapshot",
        path(&file),
        "-p",
        ", a dragon",
        "-c",
        "5",
    ]));
    assert!(line.contains("--context"), "{line}");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    for (bytes, reason) in [
        (&bytes[..], "damaged"),
        (b"no snapshot, but long enough to be one", "no snapshot"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let line = refusal(run(&["run", STORY, "--snapshot", path(&file), "-p", "And"]));
        assert!(
            line.contains(path(&file)) && line.contains(reason),
            "{line}"
        );
    }
}

#[test]
fn a_closed_stdout_ends_the_program_quietly() {
    for arguments in [&["run", "-n", "200", "--seed", "1"][..], &["info", STORY]] {
        let mut child = program(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (
                output.status.code(),
                String::from_utf8_lossy(&output.stderr).as_ref()
            ),
            (Some(0), "")
        );
    }
}

#[test]
fn bench_reports_what_it_ran_with_and_what_a_token_reads() {
    let bench = |more: &[&str]| {
        let arguments = [
            "bench", STORY, "-p", "8", "-n", "4", "-r", "1", "-t", "1", "--isa", "scalar", "--json",
        ];
        json(&stdout(run(&[&arguments, more].concat())))
    };
    let report = bench(&[]);
    assert_eq!(
        (&report["isa"], &report["threads"]),
        (&"scalar".into(), &1.into())
    );
    for field in [
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "bandwidth_share",
    ] {
        assert!(report[field].as_f64().unwrap() > 0.0, "{field}: {report}");
    }
    // Keys and values in 16 bits are less to read; the weights are most of it, and no token reads
    // more than there is.
    let f32 = report["bytes_per_token"].as_u64().unwrap();
    let f16 = bench(&["--kv", "f16"])["bytes_per_token"].as_u64().unwrap();
    let image = std::fs::metadata(STORY).unwrap().len();
    assert!(
        f16 < f32 && f32 < image + image / 4 && f16 > image / 2,
        "{f16} {f32} {image}"
    );
}

#[test]
fn a_tokenizer_that_is_refused_stops_only_what_needs_it() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf/llama-linear-gelu");
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), folder.path().join(name)).unwrap();
    }
    let tokenizer = folder.path().join("tokenizer.json");
    std::fs::write(&tokenizer, r#"{"model": {"type": "WordPiece"}}"#).unwrap();
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        r#"{"chat_template": 1}"#,
    )
    .unwrap();
    let model = path(folder.path());
    let reason = refusal(run(&["tokenize", model]));
    assert!(reason.starts_with(path(&tokenizer)), "{reason}");

    let info = stdout(run(&["info", model]));
    assert!(
        info.contains(&format!(
            "tokenizer                  none that can be used: {reason}\n"
        )),
        "{info}"
    );
    let info = json(&stdout(run(&["info", model, "--json"])));
    assert_eq!(info["tokenizer_refused"], reason);
    assert!(
        info["chat_template_refused"]
            .as_str()
            .unwrap()
            .contains("`chat_template` is neither ")
    );
    stdout(run(&["plan", model, "--context", "16"]));
    stdout(run(&["bench", model, "--json"]));
    stdout(run(&["verify", model, path(&golden)]));
    let file = folder.path().join("logits.safetensors");
    stdout(run(&[
        "logits",
        model,
        "--tokens",
        "1,2,3",
        "-o",
        path(&file),
    ]));
    let image = folder.path().join("m.plm");
    let packed = run(&["pack", model, "-o", path(&image)]);
    let notes = String::from_utf8_lossy(&packed.stderr);
    assert!(
        notes.starts_with(&format!(
            "warning: the image will hold no tokenizer: {reason}\n"
        )),
        "{notes}"
    );
    assert!(
        notes.contains("\nwarning: the image will hold no chat template: "),
        "{notes}"
    );
    assert!(
        notes.ends_with(" matrices keep their numbers bit by bit\n"),
        "{notes}"
    );
    assert!(packed.status.success());

    let text = folder.path().join("text");
    std::fs::write(&text, "hello").unwrap();
    let text = path(&text);
    for arguments in [
        &["run", model, "-p", "hello"][..],
        &["chat", model],
        &["perplexity", model, "-f", text],
    ] {
        assert_eq!(refusal(run(arguments)), reason);
        // An image from the cache as well.
        let kept = folder.path().join("cache");
        for _ in 0..2 {
            let output = program(arguments)
                .env("POCKETLM_CACHE", &kept)
                .output()
                .unwrap();
            assert_eq!(refusal(output), reason);
        }
    }
    // The template alone.
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers/abc.json");
    std::fs::copy(good, &tokenizer).unwrap();
    assert!(refusal(run(&["chat", model])).contains("`chat_template` is neither "));
}

#[test]
fn plan_writes_the_sizes_for_c() {
    let plan = |more: &[&str]| {
        let arguments = ["plan", STORY, "--context", "64", "--kv", "q8"];
        stdout(run(&[&arguments, more].concat()))
    };
    let header = plan(&["--c-header", "-"]);
    let defined = |name: &str| {
        let start = format!("#define PLM_{name} ");
        let value = header.lines().find_map(|line| line.strip_prefix(&start));
        value.expect(name).trim_end_matches('u').to_owned()
    };
    // The machine's folders are nobody's business.
    assert!(
        header.starts_with("/* pocketlm plan: story.plm\n"),
        "{header}"
    );
    let image = std::fs::read(STORY).unwrap();
    assert_eq!(defined("IMAGE_BYTES"), image.len().to_string());
    let checksum = u32::from_le_bytes(image[12..16].try_into().unwrap());
    assert_eq!(defined("IMAGE_CHECKSUM"), format!("{checksum:#010x}"));
    let sizes = json(&plan(&["--json"]));
    assert_eq!(defined("ARENA_BYTES"), sizes["ram"]["total"].to_string());
    assert_eq!(defined("KV"), "PLM_KV_Q8");
    // Standard output holds one thing; a file may be written beside it.
    let folder = tempfile::tempdir().unwrap();
    let [file, chart] = ["plan.h", "plan.svg"].map(|name| folder.path().join(name));
    let [file, chart] = [&file, &chart].map(|path| path.to_str().unwrap());
    assert_eq!(
        json(&plan(&["--json", "--svg", chart, "--c-header", file])),
        sizes
    );
    assert_eq!(std::fs::read_to_string(file).unwrap(), header);
    assert_eq!(plan(&["--svg", chart, "--c-header", "-"]), header);
    for other in [&["--json"][..], &["--svg", "-"]] {
        let arguments = ["plan", STORY, "--context", "8", "--c-header", "-"];
        let refused = run(&[&arguments, other].concat());
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8(refused.stderr).unwrap();
        let said_expected = format!("{} and --c-header both write to standard output", other[0]);
        assert!(said.contains(&said_expected), "{said}");
    }
}
