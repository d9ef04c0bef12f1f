//! Tokens a second: `cargo bench --features std --bench decode`; a filter picks some of it:
//! `-- 'story.*/decode'`.
//!
//! Of the built-in story model, with every instruction set of the machine, and of each GGUF file in
//! `POCKETLM_MODELS` (default `~/.cache/pocketlm/models`), with the best one; with one thread and
//! with one a core. Elements are tokens.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pocketlm::host::{AlignedBytes, Threads};
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{Kv, Model};
use pocketlm::run::{Engine, Isa, Plan, Session, Workers};

/// Tokens that are there when the first one is decoded, and decoded before it starts over.
const DECODED: u32 = 64;

fn bench(criterion: &mut Criterion) {
    let story = AlignedBytes::copy_of(include_bytes!("../src/bin/pocketlm/story/story.plm"));
    bench_model(
        criterion,
        "story",
        &story,
        128,
        &Isa::available().collect::<Vec<_>>(),
    );
    for file in checkpoints() {
        let checkpoint = import::open(&file).expect("a checkpoint");
        let image = import::pack_to_memory(&*checkpoint, &PackOptions::default(), &mut |_, _| {})
            .expect("packs");
        let name = file.file_stem().expect("has a name").to_string_lossy();
        bench_model(criterion, &name, &image, 512, &[Isa::best()]);
    }
}

fn checkpoints() -> Vec<PathBuf> {
    let home = || {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/pocketlm/models")
    };
    let folder = std::env::var_os("POCKETLM_MODELS").map_or_else(home, PathBuf::from);
    let files = folder
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut files: Vec<_> = files
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "gguf")
        })
        .collect();
    files.sort();
    files
}

/// Prefill of `prompt` tokens and decode after as many as are decoded.
fn bench_model(
    criterion: &mut Criterion,
    name: &str,
    image: &[u8],
    prompt: u32,
    isas: &[&'static Isa],
) {
    let model = Model::open(image).expect("an image");
    let plan = Plan::new(model.header())
        .context(prompt.max(2 * DECODED))
        .batch(128)
        .kv(Kv::F16);
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    // Different tokens read different rows of the embedder.
    let ids: Vec<u32> = (0..prompt)
        .map(|index| index * 7919 % model.config().vocab_size)
        .collect();
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    let all = Threads::new(0).expect("threads").count();
    for threads in [1, all].into_iter().take(all.min(2)) {
        let workers = Threads::new(threads).expect("threads");
        for &isa in isas {
            let engine = Engine {
                isa,
                workers: &workers,
            };
            let mut session =
                Session::new(&model, &plan, &mut arena, engine).expect("fits its plan");
            group.throughput(Throughput::Elements(u64::from(prompt)));
            group.bench_function(
                format!("prefill {prompt}/{}/{threads}", isa.name()),
                |bencher| {
                    bencher.iter(|| {
                        session.reset();
                        session.feed(&ids).expect("fits the context");
                    });
                },
            );
            group.throughput(Throughput::Elements(1));
            group.bench_function(format!("decode/{}/{threads}", isa.name()), |bencher| {
                bencher.iter_custom(|tokens| {
                    let mut time = Duration::ZERO;
                    let mut left = tokens;
                    while left > 0 {
                        session.reset();
                        session
                            .feed(&ids[..DECODED as usize])
                            .expect("fits the context");
                        let now = left.min(u64::from(DECODED));
                        let start = Instant::now();
                        for &id in &ids[..now as usize] {
                            session.feed(&[id]).expect("fits the context");
                        }
                        time += start.elapsed();
                        left -= now;
                    }
                    time
                });
            });
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
