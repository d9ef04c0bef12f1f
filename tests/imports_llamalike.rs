//! Importing folders in the seed's own form.
#![cfg(feature = "std")]

mod common;

use common::reference::Reference;
use pocketlm::import::llamalike;
use safetensors::SafeTensors;

#[test]
fn a_plain_forward_pass_over_the_import_gives_penzais_f64_logits() {
    let Some(shared) = common::shared("llama-like goldens against the plain forward pass") else { return };
    for folder in common::folders(shared.join("goldens/llamalike")) {
        let case = common::name(&folder);
        let bytes = std::fs::read(folder.join("io.safetensors")).unwrap();
        let io = SafeTensors::deserialize(&bytes).unwrap();
        let i32s = |name: &str| -> Vec<i32> {
            let view = io.tensor(name).unwrap();
            view.data().chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
        };
        let (tokens, positions) = (i32s("tokens"), i32s("token_positions"));
        let logits = io.tensor("logits_f64").unwrap();
        let vocab = logits.shape()[1];
        let logits: Vec<f64> =
            logits.data().chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect();

        // A position of -1 marks padding, which no other token sees: it is left out.
        let kept: Vec<usize> = (0..tokens.len()).filter(|&row| positions[row] >= 0).collect();
        let input: Vec<(u32, u32)> = kept.iter().map(|&row| (tokens[row] as u32, positions[row] as u32)).collect();
        let checkpoint = llamalike::open(&folder).unwrap_or_else(|error| panic!("{error}"));
        let ours = Reference::new(&checkpoint).logits_at(&input);
        let mut worst = 0f64;
        for (ours, row) in ours.iter().zip(kept) {
            for (a, b) in ours.iter().zip(&logits[row * vocab..][..vocab]) {
                worst = worst.max((a - b).abs());
            }
        }
        eprintln!("{case}: {worst:.1e}");
        assert!(worst <= 1e-6, "{case}: off by {worst:e}");
    }
}
