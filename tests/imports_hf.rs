//! Importing Hugging Face folders: forms of the config, tensors, and the whole model against its oracle.
#![cfg(feature = "std")]

mod common;

use std::path::Path;

use common::reference::Reference;
use pocketlm::import::{Checkpoint, hf};
use safetensors::SafeTensors;

/// Cases of families that need a structure we do not have.
const UNSUPPORTED: [&str; 2] = ["x-cohere", "x-olmo2"];

fn supported_cases(what: &str) -> Vec<std::path::PathBuf> {
    let Some(shared) = common::shared(what) else { return Vec::new() };
    let case = |path: &std::path::PathBuf| {
        path.join("expected.safetensors").exists() && !UNSUPPORTED.contains(&common::name(path).as_str())
    };
    let cases: Vec<_> = common::folders(shared.join("goldens/hf")).into_iter().filter(case).collect();
    assert!(!cases.is_empty());
    cases
}

fn open(folder: &Path) -> impl Checkpoint + use<> {
    hf::open(folder).unwrap_or_else(|error| panic!("{error}"))
}

fn numbers<const N: usize, T>(tensors: &SafeTensors, name: &str, read: impl Fn([u8; N]) -> T) -> (Vec<usize>, Vec<T>) {
    let view = tensors.tensor(name).unwrap();
    let bytes = view.data().chunks_exact(N).map(|bytes| read(bytes.try_into().unwrap())).collect();
    (view.shape().to_vec(), bytes)
}

/// The oracle is f32: its own noise against f64 is up to 3e-5 on these models.
const TOLERANCE: f64 = 5e-5;

#[test]
fn a_plain_forward_pass_over_the_import_gives_the_oracles_logits_and_greedy_text() {
    for folder in supported_cases("Hugging Face goldens against the plain forward pass") {
        let case = common::name(&folder);
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let (_, ids) = numbers(&expected, "input_ids", i64::from_le_bytes);
        let (_, greedy) = numbers(&expected, "greedy_ids", i64::from_le_bytes);
        let (shape, logits) = numbers(&expected, "logits", f32::from_le_bytes);
        let (_, greedy_logits) = numbers(&expected, "greedy_logits", f32::from_le_bytes);
        let mut ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();

        let checkpoint = open(&folder);
        let model = Reference::new(&checkpoint);
        let prompt = ids.len();
        ids.extend(greedy.iter().map(|&id| id as u32));
        let ours = model.logits(&ids);
        // Row `prompt - 1 + i` chose greedy id `i`.
        let expected = logits.chunks(shape[1]).chain(greedy_logits.chunks(shape[1]).skip(1));
        let mut worst = 0f64;
        for (row, (ours, expected)) in ours.iter().zip(expected).enumerate() {
            for (a, b) in ours.iter().zip(expected) {
                worst = worst.max((a - f64::from(*b)).abs());
            }
            if row + 1 >= prompt {
                let top = (0..ours.len()).max_by(|&a, &b| ours[a].total_cmp(&ours[b])).unwrap();
                assert_eq!(top as u32, ids[row + 1], "{case}: greedy id {}", row + 1 - prompt);
            }
        }
        eprintln!("{case}: {worst:.1e}");
        assert!(worst <= TOLERANCE, "{case}: off by {worst:e}");
    }
}
