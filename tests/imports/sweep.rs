//! Every cut and every flipped bit of small files of every kind: refused, or run.
//! Without `POCKETLM_SWEEP=1` one in 97 is tried.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::common::folder::{self, Folder};
use crate::common::random::{self, Memory, window};
use crate::gguf::{handmade, support};
use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::import::{self, PackOptions, pack_to_memory, tokenizer};
use pocketlm::model::{DType, Model, Rope, Section};
use pocketlm::run::{Plan, Session, Solo};
use safetensors::Dtype;

/// One cut or flip in this many is tried.
fn step() -> usize {
    std::env::var("POCKETLM_SWEEP").map_or(97, |step| step.parse().unwrap())
}

#[derive(Debug, Default)]
struct Outcomes {
    refused: u32,
    /// Runs, and gives the logits of the whole file: the bit is not looked at, or vanishes in
    /// rounding.
    same: u32,
    other: u32,
}

impl Outcomes {
    fn count(&mut self, logits: Option<Vec<u32>>, expected: &[u32]) {
        match logits {
            None => self.refused += 1,
            Some(logits) if logits == expected => self.same += 1,
            Some(_) => self.other += 1,
        }
    }
}

/// Logits after some tokens.
fn run(image: &[u8]) -> Result<Vec<u32>, Error> {
    let model = Model::open(image)?;
    let _ = (model.tokenizer(), model.chat_template());
    let plan = Plan::new(model.header()).context(4).batch(2);
    // A flipped bit may ask for any amount of memory.
    if plan.bytes() > 1 << 20 {
        return Ok(Vec::new());
    }
    let mut arena = crate::common::session::arena_for(&plan);
    let mut session = Session::new(&model, &plan, &mut arena, &Solo)?;
    session.feed(&[0, 1, 0].map(|id| id % model.config().vocab_size))?;
    Ok(crate::common::bits(session.feed(&[0])?))
}

/// Tries the cuts and flips of a file. What `attempt` gives is `None` if the file is refused.
fn sweep(
    name: &str,
    file: &[u8],
    attempt: &mut dyn FnMut(&[u8]) -> Option<Vec<u32>>,
) -> [Outcomes; 2] {
    let expected = attempt(file).unwrap_or_else(|| panic!("{name}: refused as it is"));
    let mut attempt = |bytes: &[u8], what: &str, at: usize| {
        catch_unwind(AssertUnwindSafe(|| attempt(bytes)))
            .unwrap_or_else(|_| panic!("{name}: {what} {at}"))
    };
    let mut cuts = Outcomes::default();
    let mut flips = Outcomes::default();
    for length in (0..file.len()).step_by(step()) {
        cuts.count(attempt(&file[..length], "cut at", length), &expected);
    }
    let mut flipped = file.to_vec();
    for bit in (0..8 * file.len()).step_by(step()) {
        flipped[bit / 8] ^= 1 << (bit % 8);
        flips.count(attempt(&flipped, "bit", bit), &expected);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    println!(
        "{name}, {} bytes: cuts {cuts:?}, flipped bits {flips:?}",
        file.len()
    );
    [cuts, flips]
}

fn image(dtype: DType) -> AlignedBytes {
    let mut description = random::plain(vec![window(0, Rope::Global), window(3, Rope::Local)]);
    description.config.num_kv_heads = 1;
    let abc = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers/abc.json");
    description.tokenizer = Some(Ok(tokenizer::from_path(abc).unwrap()));
    description.chat_template = Some(Ok("{{ messages }}".into()));
    Memory::new(description, 1).pack(dtype)
}

#[test]
fn no_cut_or_flipped_image_opens() {
    for dtype in [DType::F32, DType::Q8, DType::Q4Min, DType::Nl3] {
        let attempt = &mut |bytes: &[u8]| run(&AlignedBytes::copy_of(bytes)).ok();
        for outcomes in sweep(dtype.name(), &image(dtype), attempt) {
            assert_eq!((outcomes.same, outcomes.other), (0, 0), "{outcomes:?}");
        }
    }
}

/// Makes every checksum right again, and the length.
fn repair(image: &mut [u8]) {
    for section in Section::ALL {
        let at = 32 + 24 * section as usize;
        let number = |at: usize| {
            u64::from_le_bytes(std::array::from_fn(|i| {
                image.get(at + i).copied().unwrap_or(0)
            }))
        };
        let start = number(at) as usize;
        let length = number(at + 8) as usize;
        let bytes = start
            .checked_add(length)
            .and_then(|end| image.get(start..end));
        if let (Some(crc), true) = (bytes.map(crc32fast::hash), image.len() > at + 20) {
            image[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
        }
    }
    if image.len() >= 256 {
        let length = image.len() as u64;
        image[16..24].copy_from_slice(&length.to_le_bytes());
        image[12..16].fill(0);
        let crc = crc32fast::hash(&image[..256]);
        image[12..16].copy_from_slice(&crc.to_le_bytes());
    }
}

#[test]
fn a_cut_or_flipped_image_with_correct_checksums_is_refused_or_runs() {
    for dtype in [DType::F32, DType::Q8, DType::Q4Min, DType::Nl3] {
        let attempt = &mut |bytes: &[u8]| {
            let mut image = AlignedBytes::copy_of(bytes);
            repair(&mut image);
            run(&image).ok()
        };
        let [cuts, flips] = sweep(dtype.name(), &image(dtype), attempt);
        assert_eq!((cuts.same, cuts.other), (0, 0), "{cuts:?}");
        // Weights, norms and ids may be any; where things are, and how many, may not.
        assert!(
            flips.refused > 0 && flips.other > flips.refused,
            "{flips:?}"
        );
    }
}

/// The checkpoint at a path, packed and run.
fn packed(path: &Path) -> Option<Vec<u32>> {
    let checkpoint = import::open(path).ok()?;
    let image = pack_to_memory(&*checkpoint, &PackOptions::default(), &mut |_, _| {}).ok()?;
    Some(run(&image).expect("what was packed runs"))
}

/// A Llama with an embedding of `d`, whose matrices with rows as long are of this type.
fn gguf(d: u64, code: u32, block: (u64, u64)) -> Vec<u8> {
    let mut file = handmade::File::llama().without("rope_freqs.weight");
    file.keys[1] = handmade::uint("llama.embedding_length", d as u32);
    for tensor in &mut file.tensors {
        tensor
            .dimensions
            .iter_mut()
            .filter(|n| **n == 4)
            .take(1)
            .for_each(|n| *n = d);
        let count: u64 = tensor.dimensions.iter().product();
        let quantized = tensor.dimensions.len() == 2 && tensor.dimensions[0] == d;
        tensor.code = if quantized { code } else { 0 };
        let bytes = if quantized {
            count / block.0 * block.1
        } else {
            4 * count
        };
        tensor.data = (0..bytes)
            .map(|i| if i % 2 == 0 { 0x31 } else { 0x2c })
            .collect();
    }
    file.bytes().0
}

#[test]
fn a_gguf_file_that_is_cut_is_refused_and_one_with_a_flipped_bit_may_run() {
    let folder = crate::common::scratch();
    let path = folder.path().join("model.gguf");
    for (name, file) in [
        ("GGUF F32", handmade::File::llama().bytes().0),
        ("GGUF Q8_0", gguf(32, 8, (32, 34))),
        ("GGUF Q4_K", gguf(256, 12, (256, 144))),
    ] {
        let attempt = &mut |bytes: &[u8]| {
            support::write(&path, bytes);
            packed(&path)
        };
        let [cuts, flips] = sweep(name, &file, attempt);
        assert_eq!((cuts.same, cuts.other), (0, 0), "{name}: {cuts:?}");
        assert!(flips.refused > 0 && flips.other > 0, "{name}: {flips:?}");
    }
}

#[test]
fn a_safetensors_file_that_is_cut_is_refused_and_one_with_a_flipped_bit_may_run() {
    let halves = |mut folder: Folder| {
        for stored in folder.tensors.values_mut() {
            stored.dtype = Dtype::BF16;
            stored.data = stored
                .data
                .chunks_exact(4)
                .flat_map(|number| [number[2], number[3]])
                .collect();
        }
        folder
    };
    for (name, weights, checkpoint) in [
        (
            "safetensors, Llama F32",
            "model.safetensors",
            folder::llama(),
        ),
        (
            "safetensors, Phi-3 BF16",
            "model.safetensors",
            halves(folder::phi3()),
        ),
        (
            "safetensors, penzai-style, stacked",
            "weights.safetensors",
            folder::llamalike(2, 2, 2, true),
        ),
    ] {
        let folder = crate::common::scratch();
        std::fs::write(
            folder.path().join("config.json"),
            checkpoint.config.to_string(),
        )
        .unwrap();
        let attempt = &mut |bytes: &[u8]| {
            support::write(&folder.path().join(weights), bytes);
            packed(folder.path())
        };
        let [cuts, flips] = sweep(name, &checkpoint.weights(), attempt);
        assert_eq!((cuts.same, cuts.other), (0, 0), "{name}: {cuts:?}");
        assert!(flips.refused > 0 && flips.other > 0, "{name}: {flips:?}");
    }
}
