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
