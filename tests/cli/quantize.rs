//! `pack` in few bits: what it says of the result, and of texts that it cannot calibrate with.

use std::fs;

use crate::common::shared;
use crate::program::{json, path, refusal, run, stdout};

#[test]
fn pack_says_how_far_the_image_is_from_the_checkpoint() {
    let Some(model) = shared("models/story") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("story.plm");
    let pack = ["pack", path(&model), "-o", path(&image), "--dtype"];
    let report = |options: &[&str]| json(&stdout(run(&[&pack[..], options, &["--json"]].concat())));
    let small = report(&["nl3"]);
    let large = report(&["q5"]);
    let kl = |report: &serde_json::Value| report["kl"].as_f64().unwrap();
    assert!(kl(&large) < 0.01 && kl(&large) < kl(&small));
    assert!(small["bits_per_weight"].as_f64().unwrap() < 3.5);
    assert_eq!(large["bytes"], fs::metadata(&image).unwrap().len());
    // Without calibration there is no text to measure on.
    let plain = report(&["nl3", "--no-calibration"]);
    assert!(plain.get("kl").is_none());
}

#[test]
fn a_model_that_was_trained_for_four_bits_loses_nothing() {
    let Some(model) = shared("models/pins") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("pins.plm");
    let output = run(&["pack", path(&model), "-o", path(&image), "--dtype", "q4"]);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(
        notes.contains("all 29 matrices keep their numbers bit by bit"),
        "{notes}"
    );
}

#[test]
fn a_text_to_calibrate_with_is_refused_or_helps() {
    let Some(model) = shared("models/story") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [image, text] = ["story.plm", "text.txt"].map(|name| folder.path().join(name));
    let pack = |dtype| {
        let options = ["--dtype", dtype, "--calibrate", path(&text)];
        let arguments = ["pack", path(&model), "-o", path(&image), "--json"];
        run(&[&arguments[..], &options].concat())
    };
    assert!(refusal(pack("nl4")).contains("text.txt"));
    for (bytes, reason) in [
        (&b" \n"[..], "the calibration text is empty"),
        (b"ab\xff", "not UTF-8"),
    ] {
        fs::write(&text, bytes).unwrap();
        let refused = refusal(pack("nl4"));
        assert!(
            refused.contains("text.txt") && refused.contains(reason),
            "{refused}"
        );
        assert!(!image.exists());
    }
    fs::write(&text, "a").unwrap();
    assert!(refusal(pack("q8")).contains("not needed"));
    // A few tokens of a language that the model has never seen.
    fs::write(&text, "Мы долго гуляли и говорили о книгах.").unwrap();
    let report = json(&stdout(pack("nl4")));
    assert!(report["kl"].as_f64().unwrap() < 0.1, "{report}");
}

#[test]
fn a_budget_is_kept_and_its_types_can_be_used_again() {
    let Some(model) = shared("models/story") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [image, again, report] =
        ["story.plm", "again.plm", "report.json"].map(|name| folder.path().join(name));
    let pack = ["pack", path(&model), "-o", path(&image), "--json"];
    let written = stdout(run(&[&pack[..], &["--bits", "4.33"]].concat()));
    let by_bits = json(&written);
    let bits = by_bits["bits_per_weight"].as_f64().unwrap();
    assert!((4.2..=4.33).contains(&bits), "{bits}");
    let types = by_bits["types"].as_object().unwrap();
    let kinds: std::collections::BTreeSet<&str> = types
        .values()
        .map(|dtype| dtype.as_str().unwrap())
        .collect();
    assert!(kinds.len() > 2, "{kinds:?}");

    // Choosing is better than one type of the same size.
    let one_type = [
        "pack",
        path(&model),
        "-o",
        path(&again),
        "--json",
        "--dtype",
        "nl4",
    ];
    let one_type = json(&stdout(run(&one_type)));
    let kl = |report: &serde_json::Value| report["kl"].as_f64().unwrap();
    assert!(kl(&by_bits) < 0.9 * kl(&one_type), "{by_bits} {one_type}");

    fs::write(&report, &written).unwrap();
    run(&[
        "pack",
        path(&model),
        "-o",
        path(&again),
        "--types",
        path(&report),
    ]);
    assert!(fs::read(&image).unwrap() == fs::read(&again).unwrap());

    let size = (fs::metadata(&image).unwrap().len() - 1000).to_string();
    let by_bytes = json(&stdout(run(&[&pack[..], &["--bytes", &size]].concat())));
    assert!(by_bytes["bytes"].as_u64().unwrap() <= size.parse().unwrap());
}

#[test]
fn a_budget_that_cannot_be_kept_says_what_the_least_is() {
    let Some(model) = shared("models/story") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [image, report] = ["story.plm", "report.json"].map(|name| folder.path().join(name));
    let pack = |options: &[&str]| {
        let arguments = ["pack", path(&model), "-o", path(&image)];
        refusal(run(&[&arguments[..], options].concat()))
    };
    let refused = pack(&["--bits", "3"]);
    assert!(
        refused.contains("3 bits a weight are too few: the least is 3.3"),
        "{refused}"
    );
    let refused = pack(&["--bytes", "100K"]);
    assert!(
        refused.contains("the least is") && refused.contains("--vocabulary"),
        "{refused}"
    );
    for (text, reason) in [
        ("types", "not the output of `pack --json`"),
        ("{}", "it has no \"types\""),
        (
            "{\"types\": {\"block_9/x\": \"q8\"}}",
            "no matrix \"block_9/x\"",
        ),
        ("{\"types\": {}}", "is missing"),
    ] {
        fs::write(&report, text).unwrap();
        let refused = pack(&["--types", path(&report)]);
        assert!(
            refused.contains("report.json") && refused.contains(reason),
            "{refused}"
        );
    }
    assert!(!image.exists());
}

#[test]
fn fit_prints_commands_that_write_the_images_that_it_promises() {
    let Some(model) = shared("models/pins") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [image, chart] = ["pins.plm", "fit.svg"].map(|name| folder.path().join(name));
    let fit = [
        "fit",
        path(&model),
        "--flash",
        "560K",
        "--ram",
        "200K",
        "--json",
        "--svg",
    ];
    let report = json(&stdout(run(&[&fit[..], &[path(&chart)]].concat())));
    let choices = report["choices"].as_array().unwrap();
    assert!(choices.len() > 2, "{report}");
    for pair in choices.windows(2) {
        let [small, large] = [&pair[0], &pair[1]];
        assert!(small["bytes"].as_u64() < large["bytes"].as_u64());
        assert!(large["kl"].as_f64().unwrap() <= 1.1 * small["kl"].as_f64().unwrap());
    }
    let last = choices.last().unwrap();
    assert!(last["bytes"].as_u64().unwrap() <= 560 << 10);
    let command = last["command"]
        .as_str()
        .unwrap()
        .replace("IMAGE", path(&image));
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    run(&words);
    assert_eq!(last["bytes"], fs::metadata(&image).unwrap().len());
    assert!(
        fs::read_to_string(&chart)
            .unwrap()
            .contains("flash: 560.00 KiB")
    );
    let refused = refusal(run(&["fit", path(&model), "--flash", "64K"]));
    assert!(refused.contains("the least is"), "{refused}");
}
