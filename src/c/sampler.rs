//! Which token comes next?

use core::mem::MaybeUninit;
use core::ptr;

use pocketlm::sample::{Choice, Penalties, Recent, Sampler};

use crate::handle::{self, Handle, Held};
use crate::memory;
use crate::session::{plm_session, session};
use crate::status::{Fault, PLM_OK, PLM_PENDING, code, status};

/// Words of 8 bytes of a `plm_sampler`.
#[cfg(target_pointer_width = "32")]
pub const PLM_SAMPLER_WORDS: usize = 11;
/// Words of 8 bytes of a `plm_sampler`.
#[cfg(target_pointer_width = "64")]
pub const PLM_SAMPLER_WORDS: usize = 15;
/// Bytes of a `plm_sampler`.
pub const PLM_SAMPLER_BYTES: usize = PLM_SAMPLER_WORDS * 8;

/// Words of 8 bytes of a `plm_choice`.
#[cfg(target_pointer_width = "32")]
pub const PLM_CHOICE_WORDS: usize = 74;
/// Words of 8 bytes of a `plm_choice`.
#[cfg(target_pointer_width = "64")]
pub const PLM_CHOICE_WORDS: usize = 76;
/// Bytes of a `plm_choice`.
pub const PLM_CHOICE_BYTES: usize = PLM_CHOICE_WORDS * 8;

/// Chooses the next token. It stays where it is: a copy is refused.
///
/// Threads: one at a time.
#[repr(C)]
pub struct plm_sampler {
    opaque: [u64; PLM_SAMPLER_WORDS],
}

/// A choice that is made in calls of bounded length. It stays where it is.
///
/// Threads: one at a time.
#[repr(C)]
pub struct plm_choice {
    opaque: [u64; PLM_CHOICE_WORDS],
}

/// Room for a token in the window of penalties.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct plm_recent {
    opaque: [u32; 2],
}

/// What is added to the logit of a token; minus infinity forbids the token.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct plm_bias {
    /// The token.
    pub id: u32,
    /// What is added.
    pub bias: f32,
}

/// How tokens are chosen. All zeros: the largest logit. The filters apply in this order: bias,
/// penalties, top k, top p, min p, temperature. A value out of range counts as the nearest valid
/// one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct plm_sampling {
    /// The start of the random numbers.
    pub seed: u64,
    /// Divides the logits. 0: the largest logit, without filters.
    pub temperature: f32,
    /// Keeps as many of the largest logits. 0: all.
    pub top_k: u32,
    /// Keeps the fewest tokens whose probabilities add up to this. 0: all, and 1 as well.
    pub top_p: f32,
    /// Keeps tokens at least this times as probable as the most probable one. 0: all.
    pub min_p: f32,
    /// Tokens whose logits are changed: read as long as the sampler is used. NULL if there are
    /// none.
    pub bias: *const plm_bias,
    /// How many.
    pub bias_count: usize,
    /// Room for the recent tokens that penalties see: used as long as the sampler is. NULL without
    /// penalties.
    pub window: *mut plm_recent,
    /// How many tokens that are.
    pub window_count: usize,
    /// Divides positive logits of recent tokens and multiplies the others. 0: no penalty, and 1.
    pub repeat: f32,
    /// Subtracted once for each time that a recent token occurs. 0: no penalty.
    pub frequency: f32,
    /// Subtracted if a token occurs at all. 0: no penalty.
    pub presence: f32,
}

impl plm_sampling {
    /// The largest logit.
    const ZEROS: plm_sampling = plm_sampling {
        seed: 0,
        temperature: 0.0,
        top_k: 0,
        top_p: 0.0,
        min_p: 0.0,
        bias: ptr::null(),
        bias_count: 0,
        window: ptr::null_mut(),
        window_count: 0,
        repeat: 0.0,
        frequency: 0.0,
        presence: 0.0,
    };
}

// What C takes for the sizes. `handle::create` sees to it that the values fit.
const _: () = assert!(size_of::<plm_sampler>() == PLM_SAMPLER_BYTES);
const _: () = assert!(size_of::<plm_choice>() == PLM_CHOICE_BYTES);

impl Handle for plm_sampler {
    type Value = Sampler<'static>;
    const KIND: usize = 0x3333_3333;
}

impl Handle for plm_choice {
    type Value = Choice;
    const KIND: usize = 0x4444_4444;
}

// What the C interface shows of Rust's types.
const _: () = {
    assert!(size_of::<plm_recent>() == size_of::<Recent>());
    assert!(align_of::<plm_recent>() == align_of::<Recent>());
    assert!(size_of::<plm_bias>() == size_of::<(u32, f32)>());
    assert!(align_of::<plm_bias>() == align_of::<(u32, f32)>());
    assert!(core::mem::offset_of!((u32, f32), 0) == core::mem::offset_of!(plm_bias, id));
    assert!(core::mem::offset_of!((u32, f32), 1) == core::mem::offset_of!(plm_bias, bias));
};

/// Makes a sampler. `sampling` is copied; NULL is all zeros, the largest logit.
///
/// Errors: `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_sampler_init(
    sampler: *mut plm_sampler,
    sampling: *const plm_sampling,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { init(sampler, sampling) })
}

unsafe fn init(handle: *mut plm_sampler, sampling: *const plm_sampling) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let sampling = memory::optional(sampling)?.unwrap_or(&plm_sampling::ZEROS);
        memory::must_be_apart(&[
            memory::buffer(handle, 1),
            memory::buffer(sampling.bias, sampling.bias_count),
            memory::buffer(sampling.window, sampling.window_count),
        ])?;
        let sampler = made(sampling)?;
        handle::create(handle, |place| {
            place.write(sampler);
            Ok(())
        })
    }
}

/// # Safety
/// What the pointers point to stays as long as the sampler is used.
unsafe fn made(sampling: &plm_sampling) -> Result<Sampler<'static>, Fault> {
    let mut sampler = Sampler::new(sampling.seed);
    sampler.set_temperature(sampling.temperature);
    sampler.set_top_k(sampling.top_k as usize);
    if sampling.top_p != 0.0 {
        sampler.set_top_p(sampling.top_p);
    }
    sampler.set_min_p(sampling.min_p);
    // SAFETY: the caller's promise; the assertions above say that both are laid out alike.
    unsafe {
        let bias = sampling.bias.cast::<(u32, f32)>();
        sampler.set_logit_bias(memory::values(bias, sampling.bias_count)?);
        let window = sampling.window.cast::<Recent>();
        let window = memory::values_mut(window, sampling.window_count)?;
        if !window.is_empty() {
            let penalties = Penalties::over(window)
                .repeat(sampling.repeat)
                .frequency(sampling.frequency)
                .presence(sampling.presence);
            sampler.set_penalties(Some(penalties));
        }
    }
    Ok(sampler)
}

/// Chooses a token from the logits of a session, which are overwritten, and writes it to `id`. The
/// token is entered in the window of penalties; it is not fed.
///
/// Errors: `PLM_ERROR_NO_CANDIDATE`; `PLM_ERROR_TOKEN_OUT_OF_RANGE` for a bias; `PLM_ERROR_NULL`,
/// `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_sample(
    sampler: *mut plm_sampler,
    session: *mut plm_session,
    id: *mut u32,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    status(unsafe { sample(sampler, session, id) })
}

unsafe fn sample(
    sampler: *mut plm_sampler,
    session: *mut plm_session,
    id: *mut u32,
) -> Result<i32, Fault> {
    let mut choice = MaybeUninit::uninit();
    let choice = begun(&mut choice);
    loop {
        // SAFETY: the caller's promise.
        let status = unsafe { choose(sampler, session, choice, u32::MAX, id)? };
        if status != PLM_PENDING {
            return Ok(status);
        }
    }
}

/// A choice at its beginning. It is one function for all callers, to save flash.
#[inline(never)]
fn begun(place: &mut MaybeUninit<Choice>) -> &mut Choice {
    place.write(Choice::new())
}

/// Goes on with a choice.
#[inline(never)]
unsafe fn choose(
    sampler: *mut plm_sampler,
    handle: *mut plm_session,
    choice: &mut Choice,
    budget: u32,
    id: *mut u32,
) -> Result<i32, Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let id = memory::result(id)?;
        let mut sampler = Held::new(sampler)?;
        let mut held = Held::new(handle)?;
        let logits = session(&mut held).logits().unwrap_or_default();
        let Some(chosen) = sampler.value().step(choice, logits, budget)? else {
            return Ok(PLM_PENDING);
        };
        id(chosen);
    }
    Ok(PLM_OK)
}

/// Begins a choice that `plm_sample_step` makes.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_choice_init(choice: *mut plm_choice) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe {
        handle::create(choice, |place| {
            begun(&mut *place.cast());
            Ok(())
        })
    })
}

/// `plm_sample` in calls whose work costs about `budget`, 0 to `UINT32_MAX`; a cost of 1 takes
/// about as long as in `plm_step`. `PLM_PENDING` if there is more to do; `PLM_OK` once the token is
/// in `id`. Between the calls of a choice the session must not be used.
///
/// Errors: those of `plm_sample`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_sample_step(
    sampler: *mut plm_sampler,
    session: *mut plm_session,
    choice: *mut plm_choice,
    budget: u32,
    id: *mut u32,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    status(unsafe { sample_step(sampler, session, choice, budget, id) })
}

unsafe fn sample_step(
    sampler: *mut plm_sampler,
    session: *mut plm_session,
    choice: *mut plm_choice,
    budget: u32,
    id: *mut u32,
) -> Result<i32, Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut choice = Held::new(choice)?;
        choose(sampler, session, choice.value(), budget, id)
    }
}

/// Enters a token that was not sampled here, such as one of the prompt, in the window of penalties.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_accept(sampler: *mut plm_sampler, id: u32) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    let held = unsafe { Held::new(sampler) };
    // SAFETY: a sampler does not borrow itself.
    code(held.map(|mut sampler| unsafe { sampler.value() }.accept(id)))
}
