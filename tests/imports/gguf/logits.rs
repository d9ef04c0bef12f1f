//! What a converted file computes is what the folder it came from computes.

use pocketlm::host::harness::Case;
use pocketlm::import::{PackOptions, gguf, pack_to_memory};
use pocketlm::model::{DType, Model};
use pocketlm::run::Plan;

use crate::common::session::{arena_for, session_in};
use crate::common::shared;

/// The families whose facts all survive conversion. (Mistral loses its window, Gemma 2 and 3 their
/// query scale.)
#[test]
fn converted_files_give_the_logits_of_the_original_and_continue_alike() {
    let Some(folder) = shared("goldens") else {
        return;
    };
    for file in [
        "llama-mha.bf16",
        "llama3-gqa-tied.bf16",
        "llama-bias-sharded.f16",
        "smollm2-f32.f32",
        "qwen2.bf16",
        "qwen3.bf16",
        "gemma-mqa.bf16",
    ] {
        let (name, _) = file.split_once('.').unwrap();
        let case = Case::load(&folder.join("hf").join(name)).unwrap();
        let options = PackOptions {
            dtype: Some(DType::F32),
            ..PackOptions::default()
        };
        let checkpoint = gguf::open(&folder.join(format!("gguf/{file}.gguf"))).unwrap();
        let image = pack_to_memory(&checkpoint, &options, &mut |_, _| {}).unwrap();
        let model = Model::open(&image).unwrap();
        let plan = Plan::new(model.header()).context(case.context()).batch(7);
        let mut arena = arena_for(&plan);
        let mut session = session_in(&model, &plan, &mut arena);
        let report = case.run(&mut session).unwrap();
        println!("{file}: {report}");
        assert!(
            report.largest_difference <= 2e-4 && report.greedy_agrees(),
            "{file}: {report}"
        );
    }
}
