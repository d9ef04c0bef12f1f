//! `--vocabulary`, of `pack` and of `tokenize --report`.

use std::fs;

use crate::common::shared;
use crate::program::{STORY, path, refusal, run, stdout};

#[test]
fn a_trimmed_image_writes_the_same_text_as_the_whole_model() {
    let Some(model) = shared("models/story") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [whole, trimmed, corpus] =
        ["whole.plm", "trimmed.plm", "corpus.txt"].map(|name| folder.path().join(name));
    stdout(run(&["pack", path(&model), "-o", path(&whole)]));
    let tell = |image| {
        let options = ["-p", "Once upon a time", "-n", "60", "--temperature", "0"];
        stdout(run(&[&["run", image][..], &options].concat()))
    };
    let text = tell(path(&whole));
    fs::write(&corpus, &text).unwrap();
    let packed = run(&[
        "pack",
        path(&model),
        "-o",
        path(&trimmed),
        "--vocabulary",
        path(&corpus),
    ]);
    assert!(packed.status.success());
    let notes = String::from_utf8(packed.stderr).unwrap();
    assert!(notes.contains(" tokens are kept"), "{notes}");
    assert_eq!(tell(path(&trimmed)), text);
    let bytes = |image| fs::metadata(image).unwrap().len();
    assert!(bytes(&trimmed) < bytes(&whole));
}

#[test]
fn a_corpus_is_never_replaced_by_the_image() {
    let Some(model) = shared("models/story") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus.plm");
    fs::write(&corpus, "Once upon a time").unwrap();
    let corpus = path(&corpus);
    let message = refusal(run(&[
        "pack",
        path(&model),
        "-o",
        corpus,
        "--vocabulary",
        corpus,
    ]));
    assert!(message.starts_with(corpus), "{message}");
    assert_eq!(fs::read_to_string(corpus).unwrap(), "Once upon a time");
}

#[test]
fn a_report_counts_tokens_before_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let [corpus, other, empty] =
        ["corpus.txt", "other.txt", "empty.txt"].map(|name| folder.path().join(name));
    fs::write(&corpus, "the cat and the dog\n").unwrap();
    fs::write(&other, "the hippopotamus and the dog\n").unwrap();
    fs::write(&empty, " \n").unwrap();
    let report = |text, options: &[&str]| {
        let report = stdout(run(
            &[&["tokenize", STORY, "--report", text][..], options].concat()
        ));
        let rows = report.lines().skip(1);
        let row = |line: &str| -> (String, u32, u32) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words[at].parse().unwrap();
            (words[0].to_owned(), number(1), number(2))
        };
        rows.map(row).collect::<Vec<_>>()
    };
    let whole = report(path(&corpus), &[]);
    assert_eq!(whole.len(), 1);
    let same = report(path(&corpus), &["--vocabulary", path(&corpus)]);
    assert_eq!(same[0], whole[0]);
    assert_eq!(same[1].2, whole[0].2, "the corpus needs as many tokens");
    assert!(same[1].1 < same[0].1, "of fewer");
    let longer = report(path(&other), &["--vocabulary", path(&corpus)]);
    assert!(longer[1].2 > longer[0].2, "{longer:?}");

    let message = refusal(run(&["tokenize", STORY, "--report", path(&empty)]));
    assert_eq!(message, format!("{}: holds no text", empty.display()));
    let message = refusal(run(&[
        "tokenize",
        STORY,
        "--report",
        path(&corpus),
        "--vocabulary",
        "size:3",
    ]));
    assert!(message.contains("3 tokens are too few"), "{message}");
    for (value, reason) in [
        ("script:klingon", "`klingon` is no script of Unicode"),
        ("size:many", "after `size:` give the number of tokens"),
    ] {
        let output = run(&[
            "tokenize",
            STORY,
            "--report",
            path(&corpus),
            "--vocabulary",
            value,
        ]);
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(reason), "{stderr}");
    }
}
