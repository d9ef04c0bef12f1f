//! Models with fewer tokens: the logits of kept tokens are the bits of the whole model.

use pocketlm::host::AlignedBytes;
use pocketlm::import::tokenizer::KeepTokens;
use pocketlm::import::{self, Checkpoint, PackOptions, Trimmed, pack_to_memory};
use pocketlm::model::{DType, Model};
use pocketlm::run::Plan;

use crate::common::session::{arena_for, session_in};

const CORPUS: &str = "Once upon a time there was a little dog. She saw a big red ball and said: \
                      \"Can I play with it?\" The sun was warm, and they played until it was late.";

fn pack(checkpoint: &dyn Checkpoint, dtype: DType) -> AlignedBytes {
    let options = PackOptions {
        dtype: Some(dtype),
        ..PackOptions::default()
    };
    pack_to_memory(checkpoint, &options, &mut |_, _| ()).unwrap()
}

/// The bits of the logits after each of `ids`.
fn logits(image: &[u8], ids: &[u32]) -> Vec<Vec<u32>> {
    let model = Model::open(image).unwrap();
    let plan = Plan::new(model.header()).context(ids.len() as u32).batch(4);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let mut rows = Vec::new();
    session
        .feed_each(ids, |_, logits| rows.push(crate::common::bits(logits)))
        .unwrap();
    rows
}

#[test]
fn the_logits_of_kept_tokens_are_the_same_bits() {
    let Some(models) = crate::common::shared("models") else {
        return;
    };
    // A tied model with a SentencePiece vocabulary, and one with an output matrix of its own.
    for folder in ["story", "pins"] {
        let whole = import::open(&models.join(folder)).unwrap();
        let keep = KeepTokens {
            corpora: vec![CORPUS.into()],
            ..KeepTokens::default()
        };
        let trimmed = Trimmed::new(&*whole, &keep).unwrap();
        let kept = trimmed.kept();
        assert!(kept.len() < whole.description().config.vocab_size as usize);
        for dtype in [DType::F32, DType::Q8, DType::Q4] {
            let images = [pack(&*whole, dtype), pack(&trimmed, dtype)];
            assert!(images[1].len() < images[0].len());
            let ids = images.each_ref().map(|image| {
                let model = Model::open(image).unwrap();
                let tokenizer = model.tokenizer().unwrap();
                tokenizer.encode_to_vec(CORPUS, Default::default()).unwrap()
            });
            let old_ids: Vec<u32> = ids[1].iter().map(|id| kept[*id as usize]).collect();
            assert_eq!(old_ids, ids[0]);
            let [before, after] = [0, 1].map(|of| logits(&images[of], &ids[of]));
            for (before, after) in before.iter().zip(&after) {
                let of_kept: Vec<u32> = kept.iter().map(|id| before[*id as usize]).collect();
                assert!(&of_kept == after, "{folder} {dtype:?}");
            }
        }
    }
}

#[test]
fn a_model_without_a_tokenizer_cannot_be_trimmed() {
    let whole = import::open("tests/data/hf/llama-linear-gelu".as_ref()).unwrap();
    let error = Trimmed::new(&*whole, &KeepTokens::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "without a tokenizer nothing says which tokens a text needs"
    );
}
