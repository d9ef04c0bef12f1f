//! Checkpoint files: refused, or packed in memory that the file's size accounts for and run.

use std::path::{Path, PathBuf};

use pocketlm::import::{self, Checkpoint, ImportError, PackOptions, pack_to_memory};
use pocketlm::model::{DType, Model};
use tempfile::TempDir;

use super::bytes::Bytes;
use super::image;

/// What a packed image may take for each byte of the checkpoint: a row of one f32 becomes a group
/// of 32 in a tile of eight rows, each tensor starts at a multiple of 64, and an absent tokenizer
/// table costs its Unicode classes.
const MOST_GROWTH: usize = 80;
const MOST_CONSTANT: usize = 1 << 17;
/// Data made up for a header that asks for more than there is.
const MOST_FILLING: usize = 1 << 14;
/// Reads as a small finite number in each element type.
const FILLING: u8 = 0x3c;

thread_local! {
    static FOLDER: TempDir = {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
    };
}

/// The folder with these files and no others of those that any call names.
pub fn folder(files: &[(&str, Option<&[u8]>)]) -> PathBuf {
    let folder = FOLDER.with(|folder| folder.path().to_path_buf());
    for (name, bytes) in files {
        let path = folder.join(name);
        match bytes {
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
            None => drop(std::fs::remove_file(path)),
        }
    }
    folder
}

/// Packs, opens and runs what has opened.
fn run(checkpoint: &dyn Checkpoint, file: usize) -> Result<(), ImportError> {
    let tokenizer = checkpoint
        .description()
        .tokenizer
        .as_ref()
        .and_then(|tokenizer| tokenizer.as_ref().ok())
        .map_or(0, Vec::len);
    for dtype in [None, Some(DType::ALL[file % DType::ALL.len()])] {
        let options = PackOptions {
            dtype,
            ..PackOptions::default()
        };
        let image = pack_to_memory(checkpoint, &options, &mut |_, _| {})?;
        let most = MOST_GROWTH * file + tokenizer + MOST_CONSTANT;
        assert!(
            image.len() <= most,
            "{} bytes from a file of {file}",
            image.len()
        );
        Model::open(&image).expect("what was packed opens");
        image::run(&image, 16).expect("what opens runs");
    }
    Ok(())
}

/// A refusal is a sentence.
fn opened(path: &Path) -> Result<Box<dyn Checkpoint>, ImportError> {
    import::open(path).inspect_err(|error| assert!(error.to_string().len() > 10))
}

pub fn gguf(data: &[u8]) {
    let mut file = data.to_vec();
    let attempt = |file: &[u8]| {
        let path = folder(&[("model.gguf", Some(file))]).join("model.gguf");
        let _ = import::gguf::tokenizer(&path);
        run(&*opened(&path)?, file.len())
    };
    if attempt(&file).is_err_and(|error| error.reason.contains("but the file ends at")) {
        file.resize(data.len() + MOST_FILLING, FILLING);
        let _ = attempt(&file);
    }
}

/// `config.json`, a zero byte, and a safetensors file; or the text of its header alone, for which
/// data is made up; then there may be, with a zero byte before each, the header of another such
/// file, and an index of the two.
pub fn folder_target(data: &[u8]) {
    let (config, weights) = match data.iter().position(|&byte| byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let parts: Vec<Vec<u8>> = match weights.first() {
        Some(b'{') => weights.splitn(3, |&byte| byte == 0).map(filled).collect(),
        _ => vec![weights.to_vec()],
    };
    let [single, first, second] = match &parts[..] {
        [single] => [Some(&single[..]), None, None],
        [first, second, ..] => [None, Some(&first[..]), Some(&second[..])],
        [] => [None; 3],
    };
    let index = weights
        .splitn(3, |&byte| byte == 0)
        .nth(2)
        .filter(|_| single.is_none());
    let folder = folder(&[
        ("config.json", Some(config)),
        ("model.safetensors", single),
        ("weights.safetensors", single),
        ("a.safetensors", first),
        ("b.safetensors", second),
        ("model.safetensors.index.json", index),
    ]);
    if let Ok(checkpoint) = opened(&folder) {
        let _ = run(
            &*checkpoint,
            config.len() + parts.iter().map(Vec::len).sum::<usize>(),
        );
    }
}

/// A safetensors file with this header, and data for it.
fn filled(header: &[u8]) -> Vec<u8> {
    let ends = serde_json::from_slice::<serde_json::Value>(header)
        .ok()
        .and_then(|header| {
            let tensors = header.as_object()?.values();
            tensors
                .filter_map(|tensor| tensor["data_offsets"][1].as_u64())
                .max()
        });
    let mut file = [&(header.len() as u64).to_le_bytes(), header].concat();
    let filling = ends.map_or(0, |end| (end as usize).min(MOST_FILLING));
    file.resize(file.len() + filling, FILLING);
    file
}

/// Two bytes with the length of the `tokenizer.bin`, that file, and the checkpoint; which is also
/// tried at the length that it says it should have.
pub fn llama2c(data: &[u8]) {
    let mut choices = Bytes(data);
    let length = choices.short() as usize;
    let tokenizer = Some(choices.take(length)).filter(|file| !file.is_empty());
    let mut file = choices.0.to_vec();
    let attempt = |file: &[u8]| {
        let path =
            folder(&[("tokenizer.bin", tokenizer), ("model.bin", Some(file))]).join("model.bin");
        import::llama2c::looks_like(&path);
        let checkpoint = import::llama2c::open(&path)?;
        run(&checkpoint, data.len() + file.len())
    };
    if let Err(error) = attempt(&file)
        && let Some((_, said)) = error.reason.split_once("header that describes ")
        && let Some(length) = said.parse().ok().filter(|&length| length <= MOST_FILLING)
    {
        file.resize(length, FILLING);
        let _ = attempt(&file);
    }
}
