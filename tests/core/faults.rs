//! What breaks while the device runs: bits flipped under a session, packing killed on the way.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::common::random::{self, Memory, Numbers, window};
use crate::common::session::session_in;
use pocketlm::Error;
use pocketlm::host::{AlignedBytes, file::MappedFile};
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{DType, Kv, MlpVariant, Model, Rope, Scrub, Section, Verify};
use pocketlm::run::{Plan, Session, Step};

/// Faults in all; a test of a release may ask for more.
fn faults() -> u64 {
    std::env::var("POCKETLM_FAULTS").map_or(6000, |count| count.parse().unwrap())
}

/// Memory of a session that somebody else can change: a file, mapped for writing.
struct Arena {
    map: memmap2::MmapMut,
    file: File,
}

impl Arena {
    fn new(bytes: usize) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes as u64).unwrap();
        // SAFETY: the file has no name, so that only this test can shorten it. The test does
        // change it while it is lent, which is what it is about: memory that a particle hits.
        let map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
        Arena { map, file }
    }
}

fn flip(file: &File, bit: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8)
        .unwrap();
}

#[derive(Debug, Default)]
struct Outcomes {
    same: u32,
    other: u32,
    not_a_number: u32,
    refused: u32,
    noticed: u32,
    unnoticed: u32,
}

/// Runs a prompt and some tokens in slices, counted in `slices`; before one of them a bit of a file
/// flips. The logits, or the refusal.
fn run(
    session: &mut Session<'_, '_>,
    vocab: u32,
    fault: Option<(&File, u64, u32)>,
    slices: &mut u32,
) -> Result<Vec<u32>, Error> {
    let mut next = vec![1 % vocab, 5 % vocab, 3 % vocab];
    session.reset();
    for _ in 0..4 {
        session.start(&next)?;
        loop {
            if let Some((file, bit, _)) = fault.filter(|fault| fault.2 == *slices) {
                flip(file, bit);
            }
            *slices += 1;
            assert!(*slices < 20_000, "no end");
            if let Step::Done(logits) = session.step(60)? {
                let best =
                    (0..logits.len()).fold(
                        0,
                        |best, id| if logits[id] > logits[best] { id } else { best },
                    );
                next = vec![best as u32];
                break;
            }
        }
    }
    // Taking back is part of a run: it looks at positions in the arena.
    let _ = session.rewind(session.rewindable().min(1) as usize);
    session
        .feed(&next)
        .map(|logits| logits.iter().map(|z| z.to_bits()).collect())
}

#[test]
fn a_bit_that_flips_under_a_session_changes_only_numbers() {
    let mut outcomes = Outcomes::default();
    let models = DType::ALL.map(|dtype| {
        let mut description = random::plain(vec![window(0, Rope::Global), window(3, Rope::Local)]);
        description.config.use_qk_norm = true;
        description.config.qkv_bias = true;
        description.config.mlp_variant =
            [MlpVariant::Swiglu, MlpVariant::GegluApprox][dtype as usize % 2];
        (
            description.config.vocab_size,
            Memory::new(description, 3).pack(dtype),
        )
    });
    let each = faults() / 24;
    for (vocab, packed) in &models {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, &packed[..]).unwrap();
        let image = File::options().read(true).write(true).open(&path).unwrap();
        let mapped = MappedFile::open(path.path()).unwrap();
        let model = Model::open(&mapped).unwrap();
        for kv in Kv::ALL {
            let plan = Plan::new(model.header()).context(10).batch(2).kv(kv);
            let Arena {
                mut map,
                file: memory,
            } = Arena::new(plan.bytes());
            let mut session = session_in(&model, &plan, &mut map);
            let mut slices = 0;
            let expected = run(&mut session, *vocab, None, &mut slices).unwrap();
            for seed in 0..each {
                let numbers = &mut Numbers::new(seed * 31 + kv as u64);
                let in_image = numbers.one_in(2);
                let (file, bytes) = if in_image {
                    (&image, packed.len())
                } else {
                    (&memory, plan.bytes())
                };
                // Half of those in the image hit what says where things are, not the weights.
                let first = if in_image && numbers.one_in(2) {
                    3000.min(bytes)
                } else {
                    bytes
                };
                let bit = numbers.within(0..=first as u32 * 8 - 1).into();
                let fault = Some((file, bit, numbers.within(0..=slices - 1)));
                let result = catch_unwind(AssertUnwindSafe(|| {
                    run(&mut session, *vocab, fault, &mut 0)
                }));
                match result.unwrap_or_else(|_| {
                    panic!("bit {bit} of the image: {in_image}, {kv:?}, seed {seed}")
                }) {
                    Ok(logits) if logits == expected => outcomes.same += 1,
                    Ok(logits) if logits.iter().any(|&z| f32::from_bits(z).is_nan()) => {
                        outcomes.not_a_number += 1
                    }
                    Ok(_) => outcomes.other += 1,
                    Err(_) => outcomes.refused += 1,
                }
                if in_image {
                    let mut scrub = Scrub::new(&model);
                    let found = loop {
                        match scrub.step(1000) {
                            Ok(false) => {}
                            done => break done,
                        }
                    };
                    let changed = std::fs::read(path.path()).unwrap() != packed[..];
                    let sections =
                        Section::ALL.map(|section| model.header().section(section).as_ptr_range());
                    let start = mapped.as_ptr();
                    let at = start.wrapping_add(bit as usize / 8);
                    let covered = sections.iter().any(|range| range.contains(&at));
                    assert_eq!(found.is_err(), changed && covered, "bit {bit}");
                    *(if found.is_err() {
                        &mut outcomes.noticed
                    } else {
                        &mut outcomes.unnoticed
                    }) += 1;
                    image.write_all_at(packed, 0).unwrap();
                }
            }
            // Nothing is left of it.
            assert_eq!(run(&mut session, *vocab, None, &mut 0).unwrap(), expected);
        }
    }
    println!("{outcomes:?}");
    assert!(
        outcomes.same > 0 && outcomes.other > 0 && outcomes.noticed > 0,
        "{outcomes:?}"
    );
}

#[test]
fn a_scrub_in_pieces_of_any_size_finds_a_change_in_any_section() {
    let mut description = random::plain(vec![window(0, Rope::Global)]);
    description.chat_template = Some(Ok("{{ messages }}".into()));
    let packed = Memory::new(description, 1).pack(DType::Q8);
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&path, &packed[..]).unwrap();
    let image = File::options().read(true).write(true).open(&path).unwrap();
    let mapped = MappedFile::open(path.path()).unwrap();
    let model = Model::open(&mapped).unwrap();
    for bytes in [0, 64, 100, 4096, usize::MAX] {
        let mut scrub = Scrub::new(&model);
        let mut once = || {
            (0..10_000)
                .find_map(|_| scrub.step(bytes).map(|done| done.then_some(())).transpose())
                .unwrap()
        };
        assert_eq!([once(), once()], [Ok(()); 2]);
        for section in Section::ALL {
            let [Some(first), Some(last)] = [model.header().section(section)]
                .map(<[u8]>::first)
                .into_iter()
                .chain([model.header().section(section)].map(<[u8]>::last))
                .collect::<Vec<_>>()[..]
            else {
                continue;
            };
            for byte in [first, last] {
                let bit = 8 * (byte as *const u8 as usize - mapped.as_ptr() as usize) as u64;
                flip(&image, bit);
                assert_eq!(once(), Err(Error::Checksum(section)), "pieces of {bytes}");
                flip(&image, bit);
                assert_eq!(once(), Ok(()));
            }
        }
    }
}

/// Says the same of every image.
struct Verdict(bool);

impl Verify for Verdict {
    fn update(&mut self, _: &[u8]) {}

    fn verify(&mut self) -> bool {
        self.0
    }
}

#[test]
fn an_image_without_a_valid_signature_is_not_read() {
    let image = AlignedBytes::zeroed(64);
    assert_eq!(
        Model::open_verified(&image, &mut Verdict(false)).err(),
        Some(Error::Unverified)
    );
    assert_eq!(
        Model::open_verified(&image, &mut Verdict(true)).err(),
        Some(Error::NotAnImage)
    );
}

#[test]
fn packing_to_one_file_twice_at_once_always_leaves_a_whole_image() {
    let folder = crate::common::scratch();
    let path = folder.path().join("model.plm");
    let checkpoint = Memory::new(random::plain(vec![window(0, Rope::Global)]), 1);
    let images = [DType::Q8, DType::F32].map(|dtype| checkpoint.pack(dtype));
    let pack = |dtype: DType| {
        let options = PackOptions {
            dtype: Some(dtype),
            ..PackOptions::default()
        };
        import::pack_to_file(&checkpoint, &options, &path, &mut |_, _| {}).unwrap();
    };
    pack(DType::Q8);
    std::thread::scope(|scope| {
        let packing = [DType::Q8, DType::F32, DType::Q8]
            .map(|dtype| scope.spawn(move || (0..40).for_each(|_| pack(dtype))));
        while !packing.iter().all(|thread| thread.is_finished()) {
            let found = std::fs::read(&path).unwrap();
            assert!(
                images.iter().any(|image| found[..] == image[..]),
                "{} bytes",
                found.len()
            );
        }
    });
    // And nothing else beside it.
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

/// The system kills a process that exceeds the limit on the size of a file, in the middle of a
/// write.
#[cfg(feature = "cli")]
#[test]
fn packing_that_is_killed_at_any_point_leaves_the_old_image() {
    let folder = crate::common::scratch();
    let checkpoint = crate::common::folder::llama().write("model.safetensors");
    let image = folder.path().join("model.plm");
    let binary = env!("CARGO_BIN_EXE_pocketlm");
    let pack = |blocks: u64| {
        let mut shell = std::process::Command::new("sh");
        let script = "ulimit -f \"$1\"; exec \"$0\" pack \"$2\" -o \"$3\"";
        shell
            .arg("-c")
            .arg(script)
            .arg(binary)
            .arg(blocks.to_string())
            .arg(checkpoint.path())
            .arg(&image);
        let status = shell.output().unwrap().status;
        assert!(
            status.success() || status.code().is_none(),
            "not killed: {status}"
        );
        status.success()
    };
    assert!(pack(1 << 20));
    let whole = std::fs::read(&image).unwrap();
    let blocks = whole.len() as u64 / 512;
    assert!(blocks > 10);
    for old in [None, Some(&b"pocketlm\x01\0\0\0, an image of before"[..])] {
        for limit in 0..blocks {
            match old {
                None => drop(std::fs::remove_file(&image)),
                Some(old) => std::fs::write(&image, old).unwrap(),
            }
            if pack(limit) {
                // Some shells count in kilobytes.
                assert_eq!(std::fs::read(&image).unwrap(), whole);
            } else {
                assert_eq!(
                    std::fs::read(&image).ok().as_deref(),
                    old,
                    "killed at block {limit}"
                );
            }
        }
    }
    // What the killed ones left goes with the next, but not what somebody is writing just now.
    let other = pocketlm::host::file::whole_file(&folder.path().join("other.plm")).unwrap();
    assert!(pack(1 << 20));
    let names = || {
        folder
            .path()
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 2, "{:?}", names());
    other.persist(folder.path().join("other.plm")).unwrap();
    let mut names = names();
    names.sort();
    assert_eq!(names, ["model.plm", "other.plm"]);
}
