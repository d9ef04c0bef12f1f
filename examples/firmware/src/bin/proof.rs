#![no_std]
#![no_main]
//! Calls all that a firmware calls, with a panic handler that does not link: this program exists
//! only if the optimiser has shown that no panic can be reached, for any image, text, token and
//! setting. Nothing here allocates, nor could it: there is no allocator. Built with one weight type
//! it is also the measure of the runtime's code.

use core::hint::black_box;

use pocketlm::Error;
use pocketlm::model::Model;
use pocketlm::run::{Plan, Session, Solo, Step};
use pocketlm::sample::{Choice, Penalties, Recent, Sampler};
use pocketlm::text::{Decoder, EncodeOptions, scratch_len};
use pocketlm_firmware::image::{IMAGE, PLAN};

const TEXT: usize = 64;
const PROVEN: Plan = PLAN.context(256).batch(8);

pocketlm_firmware::entry!(proof, PROVEN.bytes());

fn proof(arena: &'static mut [u8]) -> bool {
    #[cfg(feature = "blocks")]
    if storage(arena).is_err() {
        return false;
    }
    run(arena).is_ok()
}

/// What a firmware calls that reads its weights from a device, keeps snapshots and looks after its
/// image.
#[cfg(feature = "blocks")]
fn storage(arena: &mut [u8]) -> Result<(), Error> {
    use pocketlm::model::{Scrub, Verify, WeightSource};

    struct Device(&'static [u8]);

    impl WeightSource for Device {
        fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
            let bytes = self
                .0
                .get(offset as usize..)
                .and_then(|rest| rest.get(..buffer.len()));
            buffer.copy_from_slice(bytes.ok_or(Error::Storage)?);
            Ok(())
        }
    }

    /// A signature is checked by somebody else's code.
    struct Any;

    impl Verify for Any {
        fn update(&mut self, bytes: &[u8]) {
            black_box(bytes);
        }

        fn verify(&mut self) -> bool {
            black_box(true)
        }
    }

    let mut device = Device(black_box(IMAGE));
    let (resident, arena) = arena
        .split_at_mut_checked(64 * 1024)
        .ok_or(Error::Storage)?;
    let model = Model::open_verified_from(&mut device, resident, arena, &mut Any)?;
    let plan = black_box(
        Plan::new(model.header())
            .context(16)
            .weight_buffer(16 * 1024),
    );
    let mut session = Session::with_source(&model, &plan, arena, &Solo, &mut device)?;
    session.feed(black_box(&[2, 3]))?;
    session.save(&mut |bytes| {
        black_box(bytes);
        Ok(())
    })?;
    session.restore_from(black_box(&[]))?;
    while !Scrub::new(&model).step(black_box(1000))? {}
    Ok(())
}

fn run(arena: &mut [u8]) -> Result<(), Error> {
    // `black_box`: the optimiser knows neither the image nor the plan nor what comes out.
    let model = Model::open(black_box(IMAGE))?;
    let mut session = Session::new(&model, black_box(&PROVEN), black_box(arena), &Solo)?;
    let tokenizer = model.tokenizer()?;
    let mut window = [Recent::EMPTY; 16];
    let mut sampler = Sampler::new(black_box(1))
        .temperature(black_box(0.5))
        .top_k(black_box(40))
        .top_p(black_box(0.9))
        .min_p(black_box(0.05))
        .logit_bias(black_box(&[]))
        .penalties(Penalties::over(&mut window).repeat(black_box(1.1)));
    let mut decoder = Decoder::new(&tokenizer).skip_special(black_box(true));

    let mut ids = [0; TEXT];
    let mut scratch = [0; scratch_len(TEXT)];
    let text = black_box("Once upon a time");
    let count = tokenizer.encode(text, EncodeOptions::default(), &mut scratch, &mut ids)?;
    let prompt = ids.get(..count).unwrap_or_default();
    let mut next = sampler.sample(session.feed(prompt)?)?;
    while !tokenizer.is_eos(next) {
        decoder.push(next)?.chunks(|text| {
            black_box(text);
        });
        session.start(&[next])?;
        next = loop {
            if let Step::Done(logits) = session.step(black_box(1000))? {
                let mut choice = Choice::new();
                break loop {
                    if let Some(id) = sampler.step(&mut choice, logits, black_box(100))? {
                        break id;
                    }
                };
            }
        };
    }
    decoder.finish().chunks(|text| {
        black_box(text);
    });
    #[cfg(feature = "generate")]
    {
        use pocketlm::generate::{Generation, PromptLookup};

        let mut lookup = black_box(PromptLookup::new());
        let mut drafts = [0; 8];
        let mut write = |text: &str| {
            black_box(text);
        };
        let mut filter = |logits: &mut [f32]| {
            black_box(logits);
            Ok(())
        };
        let mut generation = Generation::new(&mut session, &mut sampler, &tokenizer, prompt)
            .limit(black_box(100))
            .stop_strings(black_box(&["."]))
            .filter(&mut filter);
        #[cfg(feature = "grammar")]
        let grammar = pocketlm::grammar::Grammar::open(black_box(&[]))?;
        #[cfg(feature = "grammar")]
        let vocabulary = pocketlm::grammar::Vocabulary::new(&tokenizer);
        #[cfg(feature = "grammar")]
        {
            use pocketlm::grammar::Constraint;

            let mut constraint = Constraint::new(&grammar, &vocabulary);
            let place = constraint.to_bytes();
            constraint.restore(black_box(&place))?;
            generation = generation.grammar(black_box(constraint)).keep_special();
            black_box(generation.constraint());
            let form = black_box(pocketlm::text::ToolForm::Hermes);
            for call in pocketlm::text::Call::all(black_box(text), form) {
                call.arguments().for_each(|argument| {
                    black_box(argument);
                });
            }
        }
        generation.next(&mut write)?;
        generation.step(black_box(100), &mut write)?;
        while generation.end().is_none() {
            generation.next_drafted(&mut lookup, black_box(&mut drafts), &mut write)?;
        }
    }
    session.skip_to(black_box(0))?;
    session.rewind(black_box(1))?;
    session.reset();
    session.feed_each(prompt, |_, logits| {
        black_box(logits);
    })
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        /// Defined nowhere.
        safe fn a_panic_can_be_reached() -> !;
    }
    a_panic_can_be_reached()
}
