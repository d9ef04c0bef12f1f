//! Every golden case: the logits are those of the reference, for penzai-style folders and for
//! Hugging Face's models.

use crate::common::session::{arena_for, session_in};
use pocketlm::host::AlignedBytes;
use pocketlm::host::harness::{Case, Report};
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{DType, Model};
use pocketlm::run::{Plan, Session, Solo};
use pocketlm::sample::Sampler;
use pocketlm::text::Decoder;
use std::path::{Path, PathBuf};

fn verify(folder: &Path) -> Result<Report, Box<dyn std::error::Error>> {
    verify_as(folder, folder)
}

/// Runs the case in `folder` with the model at `path`.
fn verify_as(folder: &Path, path: &Path) -> Result<Report, Box<dyn std::error::Error>> {
    let case = Case::load(folder)?;
    let options = PackOptions {
        dtype: Some(DType::F32),
        ..PackOptions::default()
    };
    let image = import::pack_to_memory(&*import::open(path)?, &options, &mut |_, _| {})?;
    let model = Model::open(&image)?;
    let plan = Plan::new(model.header()).context(case.context()).batch(7);
    let mut arena = arena_for(&plan);
    let mut session = Session::new(&model, &plan, &mut arena, &Solo)?;
    Ok(case.run(&mut session)?)
}

fn every_case_agrees(cases: Vec<PathBuf>, tolerance: f64, unsupported: &[&str]) {
    let mut failures = Vec::new();
    let mut count = 0;
    for case in cases
        .into_iter()
        .filter(|folder| folder.join("config.json").is_file())
    {
        let name = crate::common::name(&case);
        match verify(&case) {
            Ok(report) => {
                println!("{name}: {report}");
                count += 1;
                if report.largest_difference > tolerance || !report.greedy_agrees() {
                    failures.push(format!("{name}: {report}"));
                }
            }
            Err(error) if unsupported.contains(&name.as_str()) => println!("{name}: {error}"),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count >= 10, "only {count} cases were found");
}

#[test]
fn penzai_cases_agree_with_float64_within_5e_5() {
    let Some(cases) = crate::common::shared("goldens/llamalike") else {
        return;
    };
    every_case_agrees(crate::common::folders(cases), 5e-5, &[]);
}

#[test]
fn hugging_face_cases_agree_within_2e_4_and_continue_alike() {
    let Some(cases) = crate::common::shared("goldens/hf") else {
        return;
    };
    // Families with structure the config does not have; the importer says which.
    let unsupported = &["x-cohere"];
    every_case_agrees(crate::common::folders(cases), 2e-4, unsupported);
}

/// Cases of families that need a structure the config does not have.
const UNSUPPORTED_FAMILIES: [&str; 5] = ["arcee", "internlm3", "lfm2", "lfm2-bias", "ministral3"];

#[test]
fn cases_of_more_families_agree_within_2e_4_and_continue_alike() {
    let Some(cases) = crate::common::shared("goldens/families/hf") else {
        return;
    };
    every_case_agrees(crate::common::folders(cases), 2e-4, &UNSUPPORTED_FAMILIES);
}

#[test]
fn gguf_files_of_more_families_agree_with_their_folders_within_2e_4() {
    let Some(families) = crate::common::shared("goldens/families") else {
        return;
    };
    let mut count = 0;
    for entry in std::fs::read_dir(families.join("gguf")).unwrap() {
        let path = entry.unwrap().path();
        let file = crate::common::name(&path);
        let Some(case) = file.strip_suffix(".bf16.gguf") else {
            continue;
        };
        if UNSUPPORTED_FAMILIES.contains(&case) {
            continue;
        }
        let report = verify_as(&families.join("hf").join(case), &path).expect(&file);
        println!("{file}: {report}");
        assert!(report.largest_difference <= 2e-4, "{file}: {report}");
        assert!(report.greedy_agrees(), "{file}: {report}");
        count += 1;
    }
    assert!(count >= 4, "only {count} files were found");
}

#[test]
fn rare_forms_of_configs_agree_as_well() {
    every_case_agrees(
        crate::common::folders(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hf")),
        2e-4,
        &[],
    );
}

/// Greedy tokens from `prompt` on, with the logits that each was chosen by.
fn greedy(image: &[u8], prompt: &[u32], count: usize) -> (Vec<u32>, Vec<Vec<f32>>) {
    let model = Model::open(image).unwrap();
    let plan = Plan::new(model.header()).context((prompt.len() + count) as u32);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let mut ids = Vec::new();
    let mut rows = vec![session.feed(prompt).unwrap().to_vec()];
    while ids.len() < count {
        ids.push(
            Sampler::greedy()
                .sample(&mut rows.last().unwrap().clone())
                .unwrap(),
        );
        rows.push(session.feed(&ids[ids.len() - 1..]).unwrap().to_vec());
    }
    (ids, rows)
}

fn packed(path: &Path, dtype: DType) -> AlignedBytes {
    let options = PackOptions {
        dtype: Some(dtype),
        ..PackOptions::default()
    };
    import::pack_to_memory(&*import::open(path).unwrap(), &options, &mut |_, _| {}).unwrap()
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect()
}

fn largest_difference(rows: &[Vec<f32>], expected: &[f32]) -> f32 {
    let differences = rows
        .iter()
        .flatten()
        .zip(expected)
        .map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn stories260k_tells_what_llama2c_tells() {
    let Some(folder) = crate::common::shared("fetched/stories260K") else {
        return;
    };
    let image = packed(&folder.join("stories260K.bin"), DType::F32);
    let (ids, rows) = greedy(&image, &[1], 256);
    let tokenizer = Model::open(&image).unwrap().tokenizer().unwrap();
    let mut decoder = Decoder::new(&tokenizer).skip_special(true);
    let mut text = String::new();
    for &id in &ids {
        decoder
            .push(id)
            .unwrap()
            .chunks(|chunk| text.push_str(chunk));
    }
    let expected = std::fs::read_to_string(folder.join("greedy_bos.txt")).unwrap();
    assert_eq!(text.trim(), expected.trim());
    let difference = largest_difference(&rows, &floats(&folder.join("greedy_bos.logits.f32")));
    assert!(difference < 2e-4, "{difference}");
}

#[test]
fn the_story_model_agrees_with_transformers_token_by_token() {
    let Some(folder) = crate::common::shared("models/story") else {
        return;
    };
    let oracle = std::fs::read_to_string(folder.join("greedy.json")).unwrap();
    let oracle: serde_json::Value = serde_json::from_str(&oracle).unwrap();
    let sequence: Vec<u32> = serde_json::from_value(oracle["sequence"].clone()).unwrap();
    let prompt = oracle["prompt_ids"].as_array().unwrap().len();
    let image = packed(&folder, DType::F32);
    let (ids, rows) = greedy(&image, &sequence[..prompt], sequence.len() - prompt);
    assert_eq!(ids, sequence[prompt..]);
    let expected = floats(&folder.join("greedy.logits.f32"));
    let difference = largest_difference(&rows, &expected[(prompt - 1) * 1024..]);
    assert!(difference < 5e-5, "{difference}");
}
