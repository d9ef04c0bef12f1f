//! How is a whole text generated?

use core::ffi::{c_char, c_void};
use core::ptr;

use pocketlm::Error;
use pocketlm::generate::{End, Generation, Progress, STOP_STRING_BYTES};
use pocketlm::run::Session;
use pocketlm::sample::Sampler;

use crate::constraint::{Lent, Text, plm_constraint};
use crate::handle::{self, Handle, Held};
use crate::memory;
use crate::sampler::plm_sampler;
use crate::session::{plm_session, session};
use crate::status::{
    Fault, PLM_ENDED_COMPLETE, PLM_ENDED_CONTEXT, PLM_ENDED_LIMIT, PLM_ENDED_STOP, PLM_ENDED_TOKEN,
    PLM_ERROR_LENGTH, PLM_OK, PLM_PENDING, code, status,
};
use crate::text::{plm_tokenizer, plm_write, writer};

/// The most stop strings of a generation.
pub const PLM_STOP_STRINGS: usize = 4;

/// Words of 8 bytes of a `plm_generation`.
#[cfg(target_pointer_width = "32")]
pub const PLM_GENERATION_WORDS: usize = 190;
/// Words of 8 bytes of a `plm_generation`.
#[cfg(target_pointer_width = "64")]
pub const PLM_GENERATION_WORDS: usize = 268;
/// Bytes of a `plm_generation`.
pub const PLM_GENERATION_BYTES: usize = PLM_GENERATION_WORDS * 8;

/// Text that a model generates after a prompt. It stays where it is: a copy is refused.
///
/// While the text goes on, the session, the sampler and the constraint are the generation's: other
/// calls with them are refused with `PLM_ERROR_HANDLE`, and their memory must stay. They are free
/// again when the text has ended, or after `plm_generate_stop`. One that is opened again before
/// that is taken away from the generation, which cannot go on then (`PLM_ERROR_HANDLE`).
///
/// Threads: one at a time.
#[repr(C)]
pub struct plm_generation {
    opaque: [u64; PLM_GENERATION_WORDS],
}

/// What is in a text, and when it ends, beside the tokens that end it and a full context.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct plm_generate_options {
    /// After as many tokens. 0: no limit.
    pub tokens: usize,
    /// Where it would contain one of these strings, each UTF-8 of 1 to 64 bytes and a NUL. They are
    /// read as long as the generation is used. NULL if there are none.
    pub stop_strings: *const *const c_char,
    /// How many: at most `PLM_STOP_STRINGS`.
    pub stop_string_count: usize,
    /// The text obeys this grammar, from the constraint's place on. NULL if there is none.
    pub constraint: *mut plm_constraint,
    /// Special tokens are a part of the text, for calls of tools. They are left out otherwise.
    pub keep_special: bool,
}

impl plm_generate_options {
    /// Until a token ends the text, or the context is full.
    const ZEROS: plm_generate_options = plm_generate_options {
        tokens: 0,
        stop_strings: ptr::null(),
        stop_string_count: 0,
        constraint: ptr::null_mut(),
        keep_special: false,
    };
}

// What C takes for the sizes. `handle::create` sees to it that the values fit.
const _: () = assert!(size_of::<plm_generation>() == PLM_GENERATION_BYTES);

impl Handle for plm_generation {
    type Value = Place;
    const KIND: usize = 0x7777_7777;
}

/// A generation, and what it borrows.
pub struct Place {
    session: *mut plm_session,
    sampler: *mut plm_sampler,
    /// NULL if there is none.
    constraint: *mut plm_constraint,
    /// What the text ended with; `PLM_PENDING` while it goes on.
    ended: i32,
    stop_strings: [&'static str; PLM_STOP_STRINGS],
    generation: Text,
}

/// The generation of a handle. Not by way of a reference to the place: it borrows other parts of
/// that.
fn generation(held: &mut Held<plm_generation>) -> &mut Text {
    // SAFETY: `held` has the only use of the place, and the place is filled.
    unsafe { &mut (*held.pointer()).generation }
}

/// Begins a text after the `count` tokens of a prompt, which follow what the session holds. The ids
/// are read until the first call that returns no error, and `options`, which may be NULL, only
/// here. `tokenizer` is copied; it is the one that the constraint was opened with.
///
/// Errors: `PLM_ERROR_LENGTH` for too many or too long stop strings, `PLM_ERROR_UTF8` for their
/// text, `PLM_ERROR_NO_GRAMMAR`, `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
/// `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_generate_start(
    generation: *mut plm_generation,
    session: *mut plm_session,
    sampler: *mut plm_sampler,
    tokenizer: *const plm_tokenizer,
    ids: *const u32,
    count: usize,
    options: *const plm_generate_options,
) -> i32 {
    let used = (session, sampler);
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { start(generation, used, tokenizer, (ids, count), options) })
}

unsafe fn start(
    handle: *mut plm_generation,
    (session_handle, sampler_handle): (*mut plm_session, *mut plm_sampler),
    tokenizer: *const plm_tokenizer,
    (ids, count): (*const u32, usize),
    options: *const plm_generate_options,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise. The session, the sampler and the constraint stay, and tags see
    // to it that nobody else uses them.
    unsafe {
        let options = memory::optional(options)?.unwrap_or(&plm_generate_options::ZEROS);
        let (stop_strings, stops) = stop_strings(options)?;
        let tokenizer = *handle::shared(tokenizer)?;
        let mut sampler_held = Held::new(sampler_handle)?;
        let mut session_held = Held::new(session_handle)?;
        let mut constraint_held = Lent::new(options.constraint)?;
        memory::must_be_apart(&[
            memory::buffer(handle, 1),
            memory::buffer(session_handle, 1),
            memory::buffer(sampler_handle, 1),
            memory::buffer(
                options.constraint,
                usize::from(!options.constraint.is_null()),
            ),
            memory::buffer(ids, count),
            crate::session::arena(&session_held),
        ])?;
        let prompt = memory::values(ids, count)?;
        let used: &'static mut Session = &mut *(session(&mut session_held) as *mut _);
        let sampler: &'static mut Sampler = &mut *sampler_held.pointer();
        handle::create(handle, |place| {
            (&raw mut (*place).session).write(session_handle);
            (&raw mut (*place).sampler).write(sampler_handle);
            (&raw mut (*place).constraint).write(options.constraint);
            (&raw mut (*place).ended).write(PLM_PENDING);
            (&raw mut (*place).stop_strings).write(stop_strings);
            let stop_strings = &(*place).stop_strings;
            let stop_strings = stop_strings.get(..stops).unwrap_or_default();
            let generation = &raw mut (*place).generation;
            generation.write(Generation::new(used, sampler, &tokenizer, prompt));
            let limit = match options.tokens {
                0 => usize::MAX,
                tokens => tokens,
            };
            limited(generation, limit, stop_strings);
            if options.keep_special {
                with_special(generation);
            }
            constraint_held.constrain(generation);
            Ok(())
        })?;
        session_held.lend(handle);
        sampler_held.lend(handle);
        constraint_held.lend(handle);
    }
    Ok(())
}

/// Says when a text ends. Not inlined: `start` would need the stack of a second generation.
///
/// # Safety
/// A generation is there, and nobody else uses it.
#[inline(never)]
unsafe fn limited(place: *mut Text, limit: usize, stop_strings: &'static [&'static str]) {
    // SAFETY: the caller's promise; what is read is written again.
    unsafe { place.write(place.read().limit(limit).stop_strings(stop_strings)) };
}

/// Makes special tokens a part of a text. Not inlined, as `limited`.
///
/// # Safety
/// That of `limited`.
#[inline(never)]
unsafe fn with_special(place: *mut Text) {
    // SAFETY: the caller's promise; what is read is written again.
    unsafe { place.write(place.read().keep_special()) };
}

/// The stop strings of the caller, and how many there are.
///
/// # Safety
/// What the pointers point to is there.
unsafe fn stop_strings(
    options: &plm_generate_options,
) -> Result<([&'static str; PLM_STOP_STRINGS], usize), Fault> {
    // SAFETY: the caller's promise.
    let strings = unsafe { memory::values(options.stop_strings, options.stop_string_count)? };
    if strings.len() > PLM_STOP_STRINGS {
        return Err(Fault::of(PLM_ERROR_LENGTH));
    }
    let mut stop_strings = [""; PLM_STOP_STRINGS];
    for (place, &string) in stop_strings.iter_mut().zip(strings) {
        // SAFETY: the caller's promise.
        *place = unsafe { stop_string(string)? };
    }
    Ok((stop_strings, strings.len()))
}

/// A string of the caller's, of which no more is read than the longest may have.
///
/// # Safety
/// Where the pointer is not null, there is a NUL at its end.
unsafe fn stop_string(string: *const c_char) -> Result<&'static str, Fault> {
    memory::check_values(string, 1)?;
    for bytes in 0..=STOP_STRING_BYTES {
        // SAFETY: the caller's promise: no NUL was met before this byte.
        unsafe {
            if string.wrapping_add(bytes).read() == 0 {
                return memory::text(string, bytes);
            }
        }
    }
    Err(Fault::of(PLM_ERROR_LENGTH))
}

/// Adds the next token and gives the text that it completes to `write`, in no, one or several
/// calls. `PLM_OK` if the text goes on; `PLM_ENDED_TOKEN`, `PLM_ENDED_STOP`, `PLM_ENDED_LIMIT`,
/// `PLM_ENDED_CONTEXT` or `PLM_ENDED_COMPLETE` if it has ended, now and in every further call.
///
/// Errors: those of `plm_feed` and `plm_sample`. Nothing is lost: the next call goes on from there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_generate_next(
    generation: *mut plm_generation,
    write: plm_write,
    context: *mut c_void,
) -> i32 {
    loop {
        // SAFETY: the caller's promise, which the header states.
        let result = status(unsafe { step(generation, u32::MAX, write, context) });
        if result != PLM_PENDING {
            return result;
        }
    }
}

/// `plm_generate_next` in calls whose work costs about `budget`, 0 to `UINT32_MAX`: see `plm_step`.
/// `PLM_PENDING` if the next token is not there yet.
///
/// Errors: those of `plm_generate_next`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_generate_step(
    generation: *mut plm_generation,
    budget: u32,
    write: plm_write,
    context: *mut c_void,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    status(unsafe { step(generation, budget, write, context) })
}

/// What a generation borrows.
struct Borrowed {
    session: Held<plm_session>,
    sampler: Held<plm_sampler>,
    constraint: Lent,
}

impl Borrowed {
    /// # Safety
    /// The memory of what is borrowed is there.
    unsafe fn of(
        handle: *mut plm_generation,
        held: &Held<plm_generation>,
    ) -> Result<Borrowed, Fault> {
        // SAFETY: the place is filled; the caller's promise.
        unsafe {
            let place = held.pointer();
            Ok(Borrowed {
                session: Held::lent((*place).session, handle)?,
                sampler: Held::lent((*place).sampler, handle)?,
                constraint: Lent::of((*place).constraint, handle)?,
            })
        }
    }

    fn give_back(&mut self, held: &mut Held<plm_generation>) {
        self.session.give_back();
        self.sampler.give_back();
        self.constraint.give_back(generation(held));
    }
}

#[inline(never)]
unsafe fn step(
    handle: *mut plm_generation,
    budget: u32,
    write: plm_write,
    context: *mut c_void,
) -> Result<i32, Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let write = writer(write, context)?;
        let mut held = Held::new(handle)?;
        let ended = (*held.pointer()).ended;
        if ended != PLM_PENDING {
            return Ok(ended);
        }
        let mut borrowed = Borrowed::of(handle, &held)?;
        let ended = match generation(&mut held).step(budget, write)? {
            Progress::Pending => return Ok(PLM_PENDING),
            Progress::Token => return Ok(PLM_OK),
            Progress::Ended(End::Token(_)) => PLM_ENDED_TOKEN,
            Progress::Ended(End::StopString(_)) => PLM_ENDED_STOP,
            Progress::Ended(End::Limit) => PLM_ENDED_LIMIT,
            Progress::Ended(End::ContextFull) => PLM_ENDED_CONTEXT,
            Progress::Ended(End::Complete) => PLM_ENDED_COMPLETE,
        };
        (*held.pointer()).ended = ended;
        borrowed.give_back(&mut held);
        Ok(ended)
    }
}

/// Ends a text that goes on, and gives text that was held back to `write`, because it could have
/// been the beginning of a stop string. The session holds the prompt and the text, but for the
/// token that `plm_generate_last` returns, and perhaps work in progress, which `plm_abort` drops.
/// Further calls return `PLM_ENDED_LIMIT`. Does nothing if the text has ended.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_generate_stop(
    generation: *mut plm_generation,
    write: plm_write,
    context: *mut c_void,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { stop(generation, write, context) })
}

unsafe fn stop(
    handle: *mut plm_generation,
    write: plm_write,
    context: *mut c_void,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let write = writer(write, context)?;
        let mut held = Held::new(handle)?;
        if (*held.pointer()).ended != PLM_PENDING {
            return Ok(());
        }
        let mut borrowed = Borrowed::of(handle, &held)?;
        let text = generation(&mut held).held_back();
        if !text.is_empty() {
            write(text);
        }
        (*held.pointer()).ended = PLM_ENDED_LIMIT;
        borrowed.give_back(&mut held);
    }
    Ok(())
}

/// Writes to `id` the token that was sampled last and that the session has not seen: a prompt that
/// goes on with the text begins with it.
///
/// Errors: `PLM_ERROR_NO_TOKENS` if none was sampled, or if the session has computed the last one
/// already, because the text was stopped while the next was being chosen; `PLM_ERROR_NULL`,
/// `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_generate_last(generation: *mut plm_generation, id: *mut u32) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_last(generation, id) })
}

unsafe fn write_last(handle: *mut plm_generation, id: *mut u32) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let id = memory::result(id)?;
        let mut held = Held::new(handle)?;
        id(generation(&mut held).last().ok_or(Error::NoTokens)?);
    }
    Ok(())
}
