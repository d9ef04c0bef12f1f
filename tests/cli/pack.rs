//! `pocketlm pack` and `verify`, and the cache of packed checkpoints.

use std::path::PathBuf;
use std::process::Stdio;

use crate::common::shared;
use crate::program::*;

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
