//! The corpus of a target between its file and a folder: `corpus unpack FILE FOLDER`,
//! `corpus pack FOLDER FILE`, `corpus seeds TARGET FOLDER`.

use std::path::Path;

/// A corpus file keeps the shortest inputs of a target, this many bytes of them.
const MOST_BYTES: usize = 22_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, from, to] = &arguments[..] else {
        panic!("a verb and two names")
    };
    let write = |inputs: Vec<Vec<u8>>| {
        std::fs::create_dir_all(to).unwrap();
        for input in inputs {
            std::fs::write(
                Path::new(to).join(format!("{:08x}", crc32fast::hash(&input))),
                input,
            )
            .unwrap();
        }
    };
    match verb.as_str() {
        "unpack" => write(pocketlm_fuzz::unpack(&std::fs::read(from).unwrap())),
        "seeds" => write(pocketlm_fuzz::seeds(from)),
        "pack" => {
            let files = std::fs::read_dir(from).unwrap();
            let mut inputs: Vec<_> = files
                .map(|file| std::fs::read(file.unwrap().path()).unwrap())
                .collect();
            inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
            let mut left = MOST_BYTES;
            inputs.retain(|input| {
                left = left.saturating_sub(input.len() + 4);
                left > 0
            });
            std::fs::write(to, pocketlm_fuzz::pack(&inputs)).unwrap();
        }
        _ => panic!("{verb}?"),
    }
}
