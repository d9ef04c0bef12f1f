//! GGUF and llama2.c files: every number where it belongs, every bad file refused.

mod families;
mod goldens;
pub mod handmade;
mod llama2c;
mod logits;
mod real;
mod refusals;
pub mod support;
mod tokenizers;

use std::path::Path;

use pocketlm::import::{Element, Tensor};
use safetensors::SafeTensors;

#[global_allocator]
static ALLOCATOR: support::Watched = support::Watched;

#[test]
fn every_block_type_decodes_to_the_bits_of_ggml() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ggml_blocks.safetensors");
    let file = std::fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    for element in Element::ALL {
        let blocks = file.tensor(&format!("{element}.blocks")).unwrap();
        let values = file.tensor(&format!("{element}.values")).unwrap();
        let [rows, columns] = *values.shape() else {
            panic!("{element}: {:?}", values.shape())
        };
        assert_eq!(blocks.shape(), [rows, element.block_bytes()], "{element}");
        assert_eq!(columns, element.block_len(), "{element}");

        let tensor = Tensor::dense(element, blocks.data(), rows, columns).unwrap();
        let decoded: Vec<u32> = support::rows(&tensor)
            .concat()
            .iter()
            .map(|x| x.to_bits())
            .collect();
        let expected: Vec<u32> = values
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect();
        assert_eq!(decoded, expected, "{element}");
        // A row of many blocks is read as those blocks one by one.
        let joined = Tensor::dense(element, blocks.data(), 1, rows * columns).unwrap();
        assert_eq!(
            support::bits(&support::rows(&joined)[0]),
            expected,
            "{element}"
        );
    }
}
