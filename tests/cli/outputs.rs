//! Files that commands write, and what they must not replace.

use std::fs;
use std::path::{Path, PathBuf};

use crate::model;
use crate::program::{STORY, path, program, refusal, run, stdout};

/// The commands that write a file, without its name.
const WRITERS: [(&str, &[&str]); 5] = [
    ("pack", &["-o"]),
    ("snapshot", &["-p", "Once", "-o"]),
    ("logits", &["--tokens", "1,2", "-o"]),
    ("plan", &["--context", "8", "--svg"]),
    ("plan", &["--context", "8", "--c-header"]),
];

/// The arguments with which a command writes to `output` what comes of `model`.
fn to<'a>(writer: usize, model: &'a str, output: &'a str) -> Vec<&'a str> {
    let (command, options) = WRITERS[writer];
    [&[command, model][..], options, &[output]].concat()
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// What a shell does for `pocketlm … >> FILE`.
#[cfg(unix)]
#[test]
fn no_command_prints_to_what_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("m.plm");
    let snapshot = folder.path().join("m.kv");
    fs::copy(STORY, &image).unwrap();
    stdout(run(&[
        "snapshot",
        path(&image),
        "-p",
        "Once",
        "-o",
        path(&snapshot),
    ]));
    let model = path(&image);
    let commands: [(&[&str], &Path); 5] = [
        (&["run", model, "-p", "Once", "-n", "1"], &image),
        (&["info", model], &image),
        (&["plan", model, "--context", "8"], &image),
        (&["tokenize", model], &image),
        (
            &[
                "run",
                model,
                "-p",
                "a",
                "-n",
                "1",
                "--snapshot",
                path(&snapshot),
            ],
            &snapshot,
        ),
    ];
    for (arguments, file) in commands {
        let before = fs::read(file).unwrap();
        let output = fs::File::options().append(true).open(file).unwrap();
        let output = program(arguments)
            .stdin(std::process::Stdio::null())
            .stdout(output)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("redirect it elsewhere")
        );
        assert_eq!(fs::read(file).unwrap(), before, "{arguments:?}");
    }
}

#[test]
fn no_command_replaces_what_it_reads() {
    let folder = model::chatting();
    let before = files(folder.path());
    let links = tempfile::tempdir().unwrap();
    for (index, (file, _)) in before.iter().enumerate() {
        let hard = links.path().join(format!("hard{index}"));
        fs::hard_link(file, &hard).unwrap();
        let mut names = vec![file.clone(), hard];
        #[cfg(unix)]
        {
            let soft = links.path().join(format!("soft{index}"));
            std::os::unix::fs::symlink(file, &soft).unwrap();
            names.push(soft);
        }
        for name in &names {
            for writer in 0..WRITERS.len() {
                let line = refusal(run(&to(writer, path(folder.path()), path(name))));
                assert!(
                    line.starts_with(path(name)) && line.contains("read by this command"),
                    "{line}"
                );
            }
        }
    }
    assert_eq!(files(folder.path()), before);

    // An image as the model; its link has another name.
    let image = links.path().join("story.plm");
    fs::copy(STORY, &image).unwrap();
    let link = links.path().join("link.plm");
    fs::hard_link(&image, &link).unwrap();
    for writer in 1..WRITERS.len() {
        for output in [&image, &link] {
            let line = refusal(run(&to(writer, path(&image), path(output))));
            assert!(line.starts_with(path(output)), "{line}");
        }
    }
    assert_eq!(fs::read(&image).unwrap(), fs::read(STORY).unwrap());
}

#[test]
fn a_text_that_begins_like_an_output_is_not_replaced() {
    let folder = model::chatting();
    let file = folder.path().join("notes");
    for text in [
        "pocketlm",
        "pocketlm logits . --tokens 1,2\n",
        "pocketkv of the robot",
        "<svg class=\"pocketlm\"/>",
        "/* pocketlm plans of mine */",
        "\u{10}\0\0\0\0\0\0\0{\"logits\": 1",
    ] {
        fs::write(&file, text).unwrap();
        for writer in 0..WRITERS.len() {
            let line = refusal(run(&to(writer, path(folder.path()), path(&file))));
            assert!(line.starts_with(path(&file)), "{line}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
    }
}

#[test]
fn an_empty_file_of_a_checkpoint_is_not_replaced_either() {
    let folder = model::chatting();
    let empty = folder.path().join("merges.txt");
    fs::write(&empty, "").unwrap();
    for writer in 0..WRITERS.len() {
        refusal(run(&to(writer, path(folder.path()), path(&empty))));
        assert_eq!(fs::read(&empty).unwrap(), b"");
    }
}

#[test]
fn a_file_is_replaced_by_one_of_its_kind_only() {
    let folder = model::chatting();
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("output");
    let fresh = |writer: usize, text: Option<&[u8]>| {
        _ = fs::remove_file(&output);
        if let Some(text) = text {
            fs::write(&output, text).unwrap();
        }
        stdout(run(&to(writer, path(folder.path()), path(&output))));
        fs::read(&output).unwrap()
    };
    let kinds: Vec<_> = (0..WRITERS.len())
        .map(|writer| fresh(writer, None))
        .collect();
    for (writer, whole) in kinds.iter().enumerate() {
        // What an earlier run left there, cut short, and an empty file make room.
        for start in [0, whole.len() - 1, whole.len()] {
            assert_eq!(
                &fresh(writer, Some(&whole[..start])),
                whole,
                "{writer} {start}"
            );
        }
        let foreign: &[&[u8]] = &[
            b"a letter",
            b"GGUF",
            b"<svg xmlns=\"",
            b"{",
            &[0; 100],
            b"p",
        ];
        let others = kinds.iter().filter(|other| *other != whole);
        for other in others.map(Vec::as_slice).chain(foreign.iter().copied()) {
            fs::write(&output, other).unwrap();
            let line = refusal(run(&to(writer, path(folder.path()), path(&output))));
            assert!(
                line.starts_with(path(&output)) && line.contains("exists and is not a"),
                "{line}"
            );
            assert_eq!(fs::read(&output).unwrap(), other);
        }
    }
    assert_eq!(scratch.path().read_dir().unwrap().count(), 1);
}

#[test]
fn weights_with_a_tensor_named_logits_are_not_a_logits_file() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("expected.safetensors");
    let number = 1f32.to_le_bytes();
    let view = || safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &number);
    for (names, replaced) in [
        (&["logits"][..], true),
        (&["input_ids", "logits"], false),
        (&["weights"], false),
        (&[], false),
    ] {
        let tensors = names.iter().map(|name| (name.to_string(), view().unwrap()));
        let bytes = safetensors::serialize(tensors, None).unwrap();
        fs::write(&file, &bytes).unwrap();
        let output = run(&to(2, STORY, path(&file)));
        assert_eq!(output.status.success(), replaced, "{names:?} {output:?}");
        assert_eq!(fs::read(&file).unwrap() == bytes, !replaced, "{names:?}");
    }
}

#[test]
fn weights_that_look_like_logits_are_not_replaced() {
    let folder = model::chatting();
    let logits = folder.path().join("logits.safetensors");
    stdout(run(&to(2, path(folder.path()), path(&logits))));
    let shard = folder.path().join("model-00002-of-00002.safetensors");
    fs::rename(&logits, &shard).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(
        index,
        r#"{"weight_map": {"logits": "model-00002-of-00002.safetensors"}}"#,
    )
    .unwrap();
    let before = fs::read(&shard).unwrap();
    let line = refusal(run(&to(2, path(folder.path()), path(&shard))));
    assert!(line.contains("read by this command"), "{line}");
    assert_eq!(fs::read(&shard).unwrap(), before);
}

#[test]
fn an_earlier_output_may_lie_in_the_folder_of_the_model() {
    let folder = model::chatting();
    for writer in 0..WRITERS.len() {
        let output = folder.path().join(format!("output{writer}"));
        for _ in 0..2 {
            stdout(run(&to(writer, path(folder.path()), path(&output))));
        }
    }
}

#[test]
fn output_paths_that_cannot_hold_a_file_are_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "x").unwrap();
    let folder = model::chatting();
    let below = file.join("below");
    let missing = scratch.path().join("missing/file");
    let new_folder = format!("{}/new/", path(scratch.path()));
    for writer in 0..WRITERS.len() {
        for (output, reason) in [
            (path(scratch.path()), "is a folder"),
            (&new_folder, "is a folder"),
            (path(&below), "cannot be written"),
            (path(&missing), "there is no folder"),
        ] {
            let line = refusal(run(&to(writer, path(folder.path()), output)));
            assert!(line.starts_with(output) && line.contains(reason), "{line}");
        }
    }
    assert_eq!(scratch.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_command_that_fails_keeps_what_was_there() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("out.safetensors");
    stdout(run(&to(2, STORY, path(&output))));
    let before = fs::read(&output).unwrap();
    refusal(run(&[
        "logits",
        STORY,
        "--tokens",
        "1,1024",
        "-o",
        path(&output),
    ]));
    assert_eq!(fs::read(&output).unwrap(), before);
    assert_eq!(scratch.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_minus_is_standard_output() {
    let folder = model::chatting();
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("output");
    for writer in 0..WRITERS.len() {
        stdout(run(&to(writer, path(folder.path()), path(&output))));
        let expected = fs::read(&output).unwrap();
        fs::remove_file(&output).unwrap();
        let names: &[&str] = if cfg!(unix) {
            &["-", "/dev/stdout"]
        } else {
            &["-"]
        };
        for name in names {
            let mut command = program(&to(writer, path(folder.path()), name));
            let streamed = command.current_dir(scratch.path()).output().unwrap();
            assert!(streamed.status.success(), "{streamed:?}");
            assert!(streamed.stdout == expected, "{writer} {name}");
        }
    }
    // Nobody made a file that is called `-`.
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0);
    let both = run(&["plan", STORY, "--context", "8", "--svg", "-", "--json"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
}

#[cfg(unix)]
mod on_unix {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    fn mode(file: &Path) -> u32 {
        file.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_has_the_usual_permissions_and_a_replaced_one_keeps_its_own() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = model::chatting();
        let usual = scratch.path().join("usual");
        fs::write(&usual, "").unwrap();
        for writer in 0..WRITERS.len() {
            let output = scratch.path().join(format!("output{writer}"));
            stdout(run(&to(writer, path(folder.path()), path(&output))));
            assert_eq!(mode(&output), mode(&usual));
            fs::set_permissions(&output, Permissions::from_mode(0o640)).unwrap();
            stdout(run(&to(writer, path(folder.path()), path(&output))));
            assert_eq!(mode(&output), 0o640);
        }
    }

    #[test]
    fn a_symbolic_link_stays_and_what_it_points_to_is_written() {
        let scratch = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("target");
        let [link, second] = ["link", "second"].map(|name| scratch.path().join(name));
        symlink(&target, &link).unwrap();
        symlink("link", &second).unwrap();
        // The first finds nothing where the links point to.
        for tokens in ["1", "1,2"] {
            stdout(run(&[
                "logits",
                STORY,
                "--tokens",
                tokens,
                "-o",
                path(&second),
            ]));
            assert_eq!(
                crate::program::logits(&target).0[0],
                tokens.split(',').count()
            );
        }
        assert!([&link, &second].iter().all(|link| link.is_symlink()));
        fs::write(&target, "precious").unwrap();
        refusal(run(&to(2, STORY, path(&second))));
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        assert_eq!(elsewhere.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn pipes_and_devices_are_written_to_where_they_are() {
        let folder = model::chatting();
        let scratch = tempfile::tempdir().unwrap();
        let pipe = scratch.path().join("pipe");
        let file = scratch.path().join("file");
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        for writer in 0..WRITERS.len() {
            stdout(run(&to(writer, path(folder.path()), path(&file))));
            let from = pipe.clone();
            let reader = std::thread::spawn(move || fs::read(from).unwrap());
            stdout(run(&to(writer, path(folder.path()), path(&pipe))));
            assert!(
                reader.join().unwrap() == fs::read(&file).unwrap(),
                "{writer}"
            );
            fs::remove_file(&file).unwrap();
            stdout(run(&to(writer, path(folder.path()), "/dev/null")));
        }
        assert!(!Path::new("/dev/null").is_file());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported() {
        let folder = model::chatting();
        for writer in 0..WRITERS.len() {
            let output = run(&to(writer, path(folder.path()), "/dev/full"));
            assert_eq!(output.status.code(), Some(1));
            let line = String::from_utf8(output.stderr).unwrap();
            assert!(
                line.starts_with("error: /dev/full: cannot be written: No space"),
                "{line}"
            );
        }
    }

    #[test]
    fn standard_output_does_not_go_to_a_file_that_is_read() {
        let scratch = tempfile::tempdir().unwrap();
        let image = scratch.path().join("story.plm");
        fs::copy(STORY, &image).unwrap();
        let end = fs::File::options().append(true).open(&image).unwrap();
        let output = program(&to(1, path(&image), "-"))
            .stdout(end)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(fs::read(&image).unwrap(), fs::read(STORY).unwrap());
    }

    #[test]
    fn a_prompt_is_not_replaced_by_its_snapshot() {
        let scratch = tempfile::tempdir().unwrap();
        let prompt = scratch.path().join("prompt.kv");
        // A snapshot is no text, so only its name tells.
        fs::write(&prompt, "").unwrap();
        let stdin = fs::File::open(&prompt).unwrap();
        let mut command = program(&["snapshot", STORY, "-o", path(&prompt)]);
        let line = refusal(command.stdin(stdin).output().unwrap());
        assert!(line.contains("read by this command"), "{line}");
    }
}
