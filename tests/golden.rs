//! Every golden case: the logits are those of the reference, for the seed's own config and for Hugging Face's models.
#![cfg(feature = "std")]

mod common;

use pocketlm::host::AlignedBytes;
use pocketlm::host::harness::{Case, Report};
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{DType, Model};
use pocketlm::run::{Plan, Session, Solo};
use std::path::Path;

fn verify(folder: &Path) -> Result<Report, Box<dyn std::error::Error>> {
    let case = Case::load(folder)?;
    let options = PackOptions { dtype: Some(DType::F32), embedder_dtype: None };
    let image = import::pack_to_memory(&*import::open(folder)?, &options, &mut |_, _| {})?;
    let model = Model::open(&image)?;
    let plan = Plan::new(model.header()).context(case.context()).batch(7);
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    let mut session = Session::new(&model, &plan, &mut arena, &Solo)?;
    Ok(case.run(&mut session)?)
}

fn every_case_agrees(kind: &str, tolerance: f64, unsupported: &[&str]) {
    let Some(shared) = common::shared("the golden cases") else { return };
    let mut failures = Vec::new();
    let mut count = 0;
    for case in common::folders(shared.join("goldens").join(kind))
        .into_iter()
        .filter(|folder| folder.join("config.json").is_file())
    {
        let name = common::name(&case);
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
fn the_seeds_own_cases_agree_with_float64_within_5e_5() {
    every_case_agrees("llamalike", 5e-5, &[]);
}

#[test]
fn hugging_face_cases_agree_within_2e_4_and_continue_alike() {
    // Families with structure the config does not have; the importer says which.
    every_case_agrees("hf", 2e-4, &["x-olmo2", "x-cohere"]);
}
