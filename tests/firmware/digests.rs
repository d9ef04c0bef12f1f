//! Digests of logits, and the story: what a board prints is what this machine computes.

use std::sync::LazyLock;

use pocketlm::host::AlignedBytes;
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{DType, Kv, LayerKind, Model};
use pocketlm::run::{Digest, Plan, Step};

use crate::board::{
    AARCH64, ALL, Board, M0, M3, M4F, M7, M33, M55, RV32IMAC, RV32IMAFC, RV64GC, WASM,
};
use crate::common;
use crate::common::random::{self, Memory, Numbers};
use crate::common::session::{STORY, arena_for, session_in};
use crate::sequence::{BATCH, BUDGET, CONTEXT, tokens};

/// The lines that `report.rs` prints, computed here.
fn expected(image: &[u8], kvs: &[Kv]) -> Vec<String> {
    let model = Model::open(image).unwrap();
    let tokens = tokens(model.config().vocab_size);
    let mut lines = vec![format!("image {:08x}", model.checksum())];
    for &kv in kvs {
        let name = kv.dtype().name();
        let plan = Plan::new(model.header())
            .context(CONTEXT)
            .batch(BATCH)
            .kv(kv);
        lines.push(format!("arena {name} {}", plan.bytes()));
        let mut arena = arena_for(&plan);
        let mut session = session_in(&model, &plan, &mut arena);
        let digest = |logits: &[f32]| {
            let mut digest = Digest::new();
            digest.update(logits);
            digest.value()
        };
        let each = |index, logits: &mut [f32]| {
            lines.push(format!("logits {name} {index} {:016x}", digest(logits)))
        };
        session.feed_each(&tokens, each).unwrap();
        session.reset();
        session.start(&tokens).unwrap();
        let sliced = loop {
            if let Step::Done(logits) = session.step(BUDGET).unwrap() {
                break digest(logits);
            }
        };
        lines.push(format!("sliced {name} {sliced:016x}"));
    }
    lines
}

/// The most stack that opening an image, or any call of a session, may take; on a 64-bit core words
/// are twice as long, and the blocks of its vector kernels keep their sums there.
const STACK_LIMIT: usize = 2048;
const STACK_LIMIT_64: usize = 6144;

/// Parts what a board printed into the lines that must be the host's, and the costs, which are
/// printed and, as to the stack, checked.
fn results(board: &Board, printed: &str) -> Vec<String> {
    let (costs, results): (Vec<&str>, Vec<&str>) =
        printed.lines().partition(|line| line.starts_with("cost "));
    let limit = if board.target.contains("64") {
        STACK_LIMIT_64
    } else {
        STACK_LIMIT
    };
    for cost in &costs {
        println!("{}: {cost}", board.title());
        if let Some((_, stack)) = cost.split_once(" stack ") {
            assert!(
                stack.parse::<usize>().unwrap() <= limit,
                "{}: {cost}",
                board.title()
            );
        }
    }
    // One budget serves both: a slice of the sampler is no longer than one of the session. (A
    // larger one is soon all of a choice.)
    let longest = |what: &str| {
        let cost = costs.iter().find_map(|cost| {
            cost.strip_prefix("cost ")?
                .strip_prefix(what)?
                .split_once(" instructions ")
        });
        cost.map(|(_, rest)| rest.split(' ').next().unwrap().parse::<u64>().unwrap())
    };
    let sample = longest("sample-100 ");
    let step = longest("step-100 ");
    assert!(
        sample.is_some() == step.is_some() && sample <= step,
        "{}: {sample:?} and {step:?}",
        board.title()
    );
    if board.name == M4F.name {
        assert!(
            longest("step-1000 ").is_none_or(|step| step <= 1_000_000),
            "{}: {costs:?}",
            board.title()
        );
    }
    results.into_iter().map(String::from).collect()
}

const SMALL_IMAGES: u64 = 20;

/// Small models with every knob of the config, in every type of weights and, since `partition` goes
/// through the types of keys and values from image to image, with each of those.
static SMALL: LazyLock<Vec<AlignedBytes>> = LazyLock::new(|| {
    let image = |seed| {
        let checkpoint = Memory::new(random::any(&mut Numbers::new(seed)), seed);
        checkpoint.pack(DType::ALL[seed as usize % DType::ALL.len()])
    };
    (0..SMALL_IMAGES).map(image).collect()
});

#[test]
fn some_of_the_small_models_have_convolutions() {
    let has_some = |image: &&AlignedBytes| {
        let model = Model::open(image).unwrap();
        model
            .layers()
            .iter()
            .any(|layer| layer.kind == LayerKind::Convolution)
    };
    assert!(SMALL.iter().filter(has_some).count() >= 2);
}

/// What goes into the partition, the small images and then the story model in the types it was not
/// built in with, and what `partition` prints of them.
static PARTITION: LazyLock<(Vec<u8>, Vec<String>)> = LazyLock::new(|| {
    let story = story_images();
    let images: Vec<&[u8]> = SMALL.iter().chain(&story).map(|image| &image[..]).collect();
    let kvs = Kv::ALL.iter().cycle();
    let lines = images.iter().zip(kvs);
    let lines = lines.flat_map(|(image, &kv)| expected(image, &[kv]));
    (images.concat(), lines.collect())
});

/// What `check` prints.
static CHECK: LazyLock<Vec<String>> = LazyLock::new(|| expected(STORY, &Kv::ALL));

/// The story model in the types it was not built in with.
fn story_images() -> Vec<AlignedBytes> {
    let Some(story) = common::shared("models/story") else {
        return Vec::new();
    };
    let checkpoint = import::open(&story).unwrap();
    let pack = |dtype: DType| {
        let options = PackOptions {
            dtype: Some(dtype),
            ..PackOptions::default()
        };
        import::pack_to_memory(&*checkpoint, &options, &mut |_, _| ()).unwrap()
    };
    // The small images have the other types: an emulated board takes seconds for each image.
    [DType::Q4, DType::F16, DType::F32, DType::Nl4, DType::Nl3]
        .map(pack)
        .into()
}

/// One number for the logits of all tokens of some images, for the table of the boards' README.
fn digest_of(lines: &[String]) -> String {
    let mut digest = Digest::new();
    for line in lines.iter().filter(|line| line.starts_with("logits ")) {
        let value = u64::from_str_radix(line.rsplit(' ').next().unwrap(), 16).unwrap();
        digest.update(bytemuck::cast_slice(&[value]));
    }
    format!("{:016x}", digest.value())
}

/// The README has a table of what was found on which board: the story model as it is built in, the
/// small images, the story model in other types.
fn is_in_the_table(board: &Board, check: &[String], partition: &[String]) {
    let starts = partition
        .iter()
        .enumerate()
        .filter(|(_, line)| line.starts_with("image "));
    let (small, others) = partition.split_at(
        starts
            .map(|(at, _)| at)
            .nth(SMALL_IMAGES as usize)
            .unwrap_or(partition.len()),
    );
    let images = [check, small]
        .into_iter()
        .chain(others.chunk_by(|_, next| !next.starts_with("image ")));
    let row = images.fold(format!("| `{}` |", board.title()), |row, image| {
        format!("{row} `{}` |", digest_of(image))
    });
    let readme = include_str!("../../examples/firmware/README.md");
    assert!(
        readme.lines().any(|line| line.starts_with(&row)),
        "the table in examples/firmware/README.md wants this:\n{row}"
    );
}

fn computes_the_bits_of_the_host(board: &Board) {
    if !board.is_here("digests of the logits on a board") {
        return;
    }
    let check = results(board, &board.run("check", &[]));
    let title = board.title();
    assert_eq!(check, *CHECK, "{title}: the image in the program");
    let (images, expected) = &*PARTITION;
    let partition = results(board, &board.run("partition", images));
    assert_eq!(partition, *expected, "{title}: images in a partition");
    is_in_the_table(board, &check, &partition);
}

fn tells_the_story_of_the_host(board: &Board) {
    if board.is_here("the story on a board") {
        assert_eq!(
            board.run("story", &[]),
            include_str!("../data/story.txt"),
            "{}",
            board.name
        );
    }
}

#[test]
fn armv6m_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&M0);
}

#[test]
fn a_cortex_m3_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&M3);
}

#[test]
fn a_cortex_m4f_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&M4F);
}

#[test]
fn a_cortex_m4f_computes_the_bits_of_the_host_with_its_dsp_kernels() {
    computes_the_bits_of_the_host(&M4F.with("dsp"));
}

#[test]
fn a_cortex_m7_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&M7);
}

#[test]
fn two_cortex_m33_compute_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&M33);
}

#[test]
fn two_cortex_m33_compute_the_bits_of_the_host_with_their_dsp_kernels() {
    computes_the_bits_of_the_host(&M33.with("dsp"));
}

#[test]
fn a_cortex_m55_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&M55);
}

#[test]
fn a_cortex_m55_computes_the_bits_of_the_host_with_its_mve_kernels() {
    computes_the_bits_of_the_host(&M55.with("mve"));
}

#[test]
fn riscv_of_64_bits_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&RV64GC);
}

#[test]
fn riscv_of_64_bits_computes_the_bits_of_the_host_with_its_vector_kernels() {
    computes_the_bits_of_the_host(&RV64GC.with("rvv"));
}

#[test]
fn aarch64_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&AARCH64);
}

#[test]
fn wasm_in_node_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&WASM);
}

#[test]
fn rv32imac_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&RV32IMAC);
}

#[test]
fn rv32imafc_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&RV32IMAFC);
}

#[test]
fn every_board_tells_the_story_of_the_host() {
    for board in ALL {
        tells_the_story_of_the_host(&board);
    }
}

/// Images that are read in blocks of 512 bytes, through a buffer of 16 KB, have the digests of
/// weights in memory.
fn reads_weights_from_blocks(board: &Board) {
    if !board.is_here("weights from a block device") {
        return;
    }
    let images: Vec<&[u8]> = SMALL
        .iter()
        .map(|image| &image[..])
        .chain([STORY])
        .collect();
    let small = SMALL.iter().flat_map(|image| expected(image, &Kv::ALL));
    let lines = small.chain(CHECK.iter().cloned());
    let expected: Vec<String> = lines.filter(|line| !line.starts_with("arena")).collect();
    let found = board.run("blocks", &images.concat());
    assert_eq!(
        results(board, &found),
        expected,
        "{}: from blocks",
        board.target
    );
}

#[test]
fn weights_read_in_blocks_on_boards_give_the_bits_of_weights_in_memory() {
    for board in [M4F, RV32IMAC] {
        reads_weights_from_blocks(&board);
    }
}

#[test]
fn a_prompt_computed_on_the_host_continues_on_a_board() {
    let model = Model::open(STORY).unwrap();
    let plan = Plan::new(model.header()).context(1000).batch(32).kv(Kv::Q8);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    session.feed(&tokens(1024)).unwrap();
    let mut partition = STORY.to_vec();
    let mut keep = |bytes: &[u8]| {
        partition.extend_from_slice(bytes);
        Ok(())
    };
    session.save(&mut keep).unwrap();

    // As if there had been no snapshot.
    let mut expected = vec![format!("restored {} tokens", session.len())];
    for id in 0..8 {
        let mut digest = Digest::new();
        digest.update(session.feed(&[2 + 3 * id]).unwrap());
        expected.push(format!("logits {:016x}", digest.value()));
    }
    let mut digest = 0u32;
    let mut save = |bytes: &[u8]| {
        bytes
            .iter()
            .for_each(|&byte| digest = digest.rotate_left(5) ^ u32::from(byte));
        Ok(())
    };
    session.save(&mut save).unwrap();
    expected.push(format!("saved {digest:08x}"));
    for board in [M0, M4F, RV32IMAC] {
        if board.is_here("a snapshot of the host on a board") {
            assert_eq!(
                results(&board, &board.run("restore", &partition)),
                expected,
                "{}",
                board.target
            );
        }
    }
}
