//! The core takes no heap: from the image's bytes to the text of the last token nothing is
//! allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::common::random::{self, Memory, window};
use crate::common::session::STORY;
use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::model::{DType, Header, Kv, Model, Rope};
use pocketlm::run::{Digest, Plan, Session, Solo, Step};
use pocketlm::sample::{Penalties, Recent, Sampler};
use pocketlm::text::{Decoder, EncodeOptions};

struct Counting;

thread_local! {
    /// How often this thread has asked for memory.
    static REQUESTS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    REQUESTS.with(|requests| requests.set(requests.get() + 1));
}

// SAFETY: every method hands its arguments on to `System`, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What `work` gives, and how often it asked for memory.
fn requests<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = REQUESTS.get();
    let result = work();
    (result, REQUESTS.get() - before)
}

#[test]
fn the_counter_counts() {
    assert_eq!(
        requests(|| std::hint::black_box(vec![1, 2, 3]).len()),
        (3, 1)
    );
}

#[test]
fn a_story_is_told_without_a_heap() {
    let mut arena = AlignedBytes::zeroed(4 << 20);
    let (length, requested) = requests(|| {
        let model = Model::open(STORY)?;
        let tokenizer = model.tokenizer()?;
        let plan = Plan::new(model.header()).context(160).batch(8).kv(Kv::F16);
        let mut session = Session::new(&model, &plan, &mut arena, &Solo)?;

        let prompt = "Once upon a time, there was a little dragon who";
        let mut scratch = [0; 2048];
        let mut ids = [0; 64];
        let count = tokenizer.encode(prompt, EncodeOptions::default(), &mut scratch, &mut ids)?;
        let mut window = [Recent::EMPTY; 32];
        let mut sampler = Sampler::new(7)
            .temperature(0.8)
            .top_k(50)
            .top_p(0.95)
            .min_p(0.01)
            .penalties(Penalties::over(&mut window).repeat(1.1));
        let mut decoder = Decoder::new(&tokenizer);
        let mut digest = Digest::new();
        let mut length = 0;
        let mut next = sampler.sample(session.feed(&ids[..count])?)?;
        for _ in 0..60 {
            decoder.push(next)?.chunks(|text| length += text.len());
            session.start(&[next])?;
            next = loop {
                if let Step::Done(logits) = session.step(500)? {
                    digest.update(logits);
                    break sampler.sample(logits)?;
                }
            };
        }
        decoder.finish().chunks(|text| length += text.len());
        session.rewind(3)?;
        session.feed(&ids[..2])?;
        session.reset();
        session.feed_each(&ids[..count], |_, logits| digest.update(logits))?;
        Ok::<_, Error>(length)
    });
    assert!(length.unwrap() > 60, "60 tokens are more text than that");
    assert_eq!(requested, 0);
}

#[test]
fn no_type_of_weights_or_keys_needs_a_heap() {
    let checkpoint = Memory::new(
        random::plain(vec![window(5, Rope::Local), window(0, Rope::Global)]),
        3,
    );
    let mut arena = AlignedBytes::zeroed(1 << 20);
    for dtype in DType::ALL {
        let image = checkpoint.pack(dtype);
        for kv in Kv::ALL {
            let (result, requested) = requests(|| {
                let model = Model::open(&image)?;
                let plan = Plan::new(model.header()).context(40).batch(6).kv(kv);
                let mut session = Session::new(&model, &plan, &mut arena, &Solo)?;
                session.feed(&[1; 20])?;
                session.feed(&[2]).map(|logits| logits.len())
            });
            assert_eq!(
                (result, requested),
                (Ok(43), 0),
                "{} with {kv:?}",
                dtype.name()
            );
        }
    }
}

#[test]
fn refusing_needs_no_heap_however_large_the_request() {
    let (_, requested) = requests(|| {
        let model = Model::open(STORY).unwrap();
        for (context, batch) in [(u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX), (0, 1)] {
            let plan = Plan::new(model.header()).context(context).batch(batch);
            assert!(Session::new(&model, &plan, &mut [], &Solo).is_err());
        }
        for length in (0..STORY.len()).step_by(64) {
            assert!(
                Header::read(&STORY[..length]).is_err() && Model::open(&STORY[..length]).is_err()
            );
        }
    });
    assert_eq!(requested, 0);
}
