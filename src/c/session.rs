//! How are tokens computed?

use core::ffi::c_void;
use core::ops::Range;
use core::ptr;

use pocketlm::Error;
use pocketlm::model::Model;
use pocketlm::run::{Digest, Plan, Session, Solo, Step, Workers};

use crate::handle::{self, Handle, Held};
use crate::memory;
use crate::model::{plm_limits, plm_model, plm_sizes};
use crate::source::{Cores, plm_source, plm_workers, runnable};
#[cfg(feature = "source")]
use crate::source::{Device, readable};
use crate::status::{Fault, PLM_ERROR_NULL, PLM_OK, PLM_PENDING, code, status};

/// Words of 8 bytes of a `plm_session`.
#[cfg(target_pointer_width = "32")]
pub const PLM_SESSION_WORDS: usize = 99;
/// Words of 8 bytes of a `plm_session`.
#[cfg(target_pointer_width = "64")]
pub const PLM_SESSION_WORDS: usize = 154;
/// Bytes of a `plm_session`.
pub const PLM_SESSION_BYTES: usize = PLM_SESSION_WORDS * 8;

/// One context of a model: the tokens so far with their keys and values, in an arena.
///
/// It stays where it is: a copy is refused. Its arena, and the contexts of its functions, must stay
/// until its last call has returned. Nothing has to be closed.
///
/// Threads: one at a time. Different sessions may run at the same time.
#[repr(C)]
pub struct plm_session {
    opaque: [u64; PLM_SESSION_WORDS],
}

/// Takes the next `bytes` bytes of a snapshot. Returns 0, or any other number if it cannot.
pub type plm_save_bytes =
    Option<unsafe extern "C" fn(context: *mut c_void, data: *const c_void, bytes: usize) -> i32>;

/// Fills `data` with the next `bytes` bytes of a snapshot. Returns 0, or any other number if it
/// cannot.
pub type plm_restore_bytes =
    Option<unsafe extern "C" fn(context: *mut c_void, data: *mut c_void, bytes: usize) -> i32>;

// What C takes for the sizes. `handle::create` sees to it that the values fit.
const _: () = assert!(size_of::<plm_session>() == PLM_SESSION_BYTES);

impl Handle for plm_session {
    type Value = Place;
    const KIND: usize = 0x2222_2222;
}

/// A session, and what it borrows.
pub struct Place {
    cores: Cores,
    #[cfg(feature = "source")]
    device: Device,
    /// The addresses of the arena.
    arena: Range<usize>,
    session: Session<'static, 'static>,
}

/// The session of a handle. Not by way of a reference to the place: it borrows other parts of that.
pub fn session(held: &mut Held<plm_session>) -> &mut Session<'static, 'static> {
    // SAFETY: `held` has the only use of the place, and the place is filled.
    unsafe { &mut (*held.pointer()).session }
}

/// Makes a session in `arena`, which starts at a multiple of 64, has `arena_bytes` bytes, as many
/// as `plm_plan` says, and may contain anything.
///
/// `workers` is NULL for the calling core alone. `source` is NULL if the weights are in memory.
/// Whichever computes: the logits are the same bits.
///
/// Errors: `PLM_ERROR_LIMITS`, `PLM_ERROR_SETTING`, `PLM_ERROR_ARENA_TOO_SMALL`,
/// `PLM_ERROR_UNALIGNED`, `PLM_ERROR_DISABLED` for a type of keys and values,
/// `PLM_ERROR_WEIGHT_BUFFER_TOO_SMALL`, `PLM_ERROR_NOT_MAPPED`, `PLM_ERROR_NO_SOURCE`,
/// `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`,
/// `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_session_init(
    session: *mut plm_session,
    model: *const plm_model,
    limits: *const plm_limits,
    arena: *mut c_void,
    arena_bytes: usize,
    workers: *const plm_workers,
    source: *const plm_source,
) -> i32 {
    let arena = (arena.cast(), arena_bytes);
    // SAFETY: the caller's promise, which the header states.
    code(unsafe {
        init(session, model, arena, workers, source, |model| {
            memory::value(limits)?.plan(model)
        })
    })
}

/// `plm_session_init` with the numbers of a header that `pocketlm plan --c-header` has written,
/// `PLM_SIZES`: what computes them takes no flash. The weights are in memory.
///
/// Errors: `PLM_ERROR_FOREIGN_PLAN` if the numbers are for another image; those of
/// `plm_session_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_session_init_sized(
    session: *mut plm_session,
    model: *const plm_model,
    sizes: *const plm_sizes,
    arena: *mut c_void,
    arena_bytes: usize,
    workers: *const plm_workers,
) -> i32 {
    let arena = (arena.cast(), arena_bytes);
    // SAFETY: the caller's promise, which the header states.
    code(unsafe {
        init(session, model, arena, workers, ptr::null(), |model| {
            memory::value(sizes)?.plan(model)
        })
    })
}

unsafe fn init(
    handle: *mut plm_session,
    model: *const plm_model,
    (arena, arena_bytes): (*mut u8, usize),
    workers: *const plm_workers,
    source: *const plm_source,
    plan: impl FnOnce(&Model<'static>) -> Result<Plan<'static>, Fault>,
) -> Result<(), Fault> {
    let part = memory::buffer(arena, arena_bytes);
    memory::must_be_apart(&[
        memory::buffer(handle, 1),
        memory::buffer(model, 1),
        part.clone(),
    ])?;
    // SAFETY: the caller's promise. The parts of the place that the session borrows are written
    // before it is made, and are not touched after that.
    unsafe {
        let model = handle::shared(model)?;
        let plan = plan(model)?;
        let cores = memory::optional(workers)?.map(runnable).transpose()?;
        let source = memory::optional(source)?;
        #[cfg(feature = "source")]
        let source = source.map(readable).transpose()?;
        let arena: &'static mut [u8] = memory::values_mut(arena, arena_bytes)?;
        // Not `handle::create`: its closure would be a function of its own.
        let place = handle::place(handle)?;
        (&raw mut (*place).arena).write(part);
        let engine: &'static dyn Workers = match cores {
            Some(cores) => {
                (&raw mut (*place).cores).write(Cores(cores));
                &(*place).cores
            }
            None => &Solo,
        };
        let session = &raw mut (*place).session;
        match source {
            None => {
                Session::check(model, &plan, arena)?;
                session.write(Session::after_check(model, &plan, arena, engine.into()));
            }
            #[cfg(feature = "source")]
            Some(source) => {
                (&raw mut (*place).device).write(Device(source));
                let device = &mut (*place).device;
                session.write(Session::with_source(model, &plan, arena, engine, device)?);
            }
            #[cfg(not(feature = "source"))]
            Some(_) => return Err(Fault::of(crate::status::PLM_ERROR_NO_SOURCE)),
        }
        handle::filled(handle);
        Ok(())
    }
}

/// The addresses of a session's arena.
pub fn arena(held: &Held<plm_session>) -> Range<usize> {
    // SAFETY: the place is filled, and `held` has the only use of it.
    unsafe { (*held.pointer()).arena.clone() }
}

/// Tokens to feed: not in the arena, which is written.
///
/// # Safety
/// That of [`memory::values`].
unsafe fn tokens<'t>(
    held: &Held<plm_session>,
    ids: *const u32,
    count: usize,
) -> Result<&'t [u32], Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        memory::must_be_apart(&[memory::buffer(ids, count), arena(held)])?;
        memory::values(ids, count)
    }
}

/// Adds `count` tokens to the context, for example a prompt or the token just sampled, and computes
/// the logits of the last one. On an error no token was added; the exception is
/// `PLM_ERROR_STORAGE`, after which `plm_step` goes on and `plm_abort` gives up.
///
/// Errors: `PLM_ERROR_NO_TOKENS`, `PLM_ERROR_CONTEXT_FULL`, `PLM_ERROR_TOKEN_OUT_OF_RANGE`,
/// `PLM_ERROR_BUSY`, `PLM_ERROR_STORAGE`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
/// `PLM_ERROR_LENGTH`, `PLM_ERROR_OVERLAP`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_feed(session: *mut plm_session, ids: *const u32, count: usize) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    status(unsafe { feed(session, ids, count) })
}

/// `Session::feed` by what `plm_start` and `plm_step` are made of: their code serves both.
unsafe fn feed(handle: *mut plm_session, ids: *const u32, count: usize) -> Result<i32, Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        start(handle, ids, count)?;
        loop {
            let status = step(handle, u32::MAX)?;
            if status != PLM_PENDING {
                return Ok(status);
            }
        }
    }
}

/// Gives `count` tokens to `plm_step`. They are copied.
///
/// Errors: those of `plm_feed` but for `PLM_ERROR_STORAGE`; nothing has changed then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_start(
    session: *mut plm_session,
    ids: *const u32,
    count: usize,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { start(session, ids, count) })
}

#[inline(never)]
unsafe fn start(handle: *mut plm_session, ids: *const u32, count: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut held = Held::new(handle)?;
        let ids = tokens(&held, ids, count)?;
        session(&mut held).start(ids)?;
    }
    Ok(())
}

/// Goes on with what `plm_start` began, until the work costs about `budget`, 0 to `UINT32_MAX`. A
/// cost of 1 is a row of a matrix as wide as the embedding, times one token. `PLM_PENDING` if there
/// is more to do, `PLM_OK` once the logits are there.
///
/// Errors: `PLM_ERROR_NO_TOKENS` if there is nothing to do; `PLM_ERROR_STORAGE`, after which the
/// next call tries again; `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_step(session: *mut plm_session, budget: u32) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    status(unsafe { step(session, budget) })
}

#[inline(never)]
unsafe fn step(handle: *mut plm_session, budget: u32) -> Result<i32, Fault> {
    // SAFETY: the caller's promise.
    let mut held = unsafe { Held::new(handle)? };
    Ok(match session(&mut held).step(budget)? {
        Step::Pending => PLM_PENDING,
        Step::Done(_) => PLM_OK,
    })
}

/// Drops the work that `plm_start` began; the context is as before. Does nothing without such work.
///
/// Errors: `PLM_ERROR_REWIND_TOO_FAR` if that is impossible: step to the end, or reset.
/// `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_abort(session: *mut plm_session) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { change(session, |session| session.abort()) })
}

unsafe fn change(
    handle: *mut plm_session,
    change: impl FnOnce(&mut Session<'static, 'static>) -> Result<(), Error>,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    let mut held = unsafe { Held::new(handle)? };
    Ok(change(session(&mut held))?)
}

/// Writes to `logits` where the logits of the last token are, and to `count` how many. The program
/// may read and change them until the next call with this session, which may overwrite them.
///
/// Errors: `PLM_ERROR_NO_CANDIDATE` if there are none: no token was fed, or the context was changed
/// in another way since. `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_logits(
    session: *mut plm_session,
    logits: *mut *mut f32,
    count: *mut usize,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_logits(session, logits, count) })
}

unsafe fn write_logits(
    handle: *mut plm_session,
    logits: *mut *mut f32,
    count: *mut usize,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let (logits, count) = (memory::result(logits)?, memory::result(count)?);
        let mut held = Held::new(handle)?;
        let found = session(&mut held).logits().ok_or(Error::NoCandidate)?;
        logits(found.as_mut_ptr());
        count(found.len());
    }
    Ok(())
}

/// Writes to `tokens` how many tokens the context holds.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_length(session: *mut plm_session, tokens: *mut usize) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_length(session, tokens) })
}

unsafe fn write_length(handle: *mut plm_session, tokens: *mut usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut held = Held::new(handle)?;
        memory::result(tokens)?(session(&mut held).len());
    }
    Ok(())
}

/// Writes to `tokens` where the ids of the context's tokens are, and to `count` how many. They stay
/// until the next call that changes this session.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_tokens(
    session: *mut plm_session,
    tokens: *mut *const u32,
    count: *mut usize,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_tokens(session, tokens, count) })
}

unsafe fn write_tokens(
    handle: *mut plm_session,
    tokens: *mut *const u32,
    count: *mut usize,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let (tokens, count) = (memory::result(tokens)?, memory::result(count)?);
        let mut held = Held::new(handle)?;
        let found = session(&mut held).tokens();
        tokens(found.as_ptr());
        count(found.len());
    }
    Ok(())
}

/// Takes back the last `tokens` tokens. This cannot fail for as many as the batch has, if they were
/// fed since the session was created or a context was restored.
///
/// Errors: `PLM_ERROR_REWIND_TOO_FAR` if there are not as many, or layers with a window have
/// overwritten what is needed; `PLM_ERROR_BUSY`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
/// `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_rewind(session: *mut plm_session, tokens: usize) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { change(session, |session| session.rewind(tokens)) })
}

/// Forgets all tokens, and work in progress.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_reset(session: *mut plm_session) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe {
        change(session, |session| {
            session.reset();
            Ok(())
        })
    })
}

/// Writes to `bytes` how long a snapshot of `tokens` tokens is at most.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_snapshot_bytes(
    session: *mut plm_session,
    tokens: u32,
    bytes: *mut usize,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_snapshot_bytes(session, tokens, bytes) })
}

unsafe fn write_snapshot_bytes(
    handle: *mut plm_session,
    tokens: u32,
    bytes: *mut usize,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut held = Held::new(handle)?;
        memory::result(bytes)?(session(&mut held).plan().snapshot_bytes(tokens));
    }
    Ok(())
}

/// Writes a snapshot of the context by calls of `save`, piece by piece. The same tokens give the
/// same bytes on every machine.
///
/// Errors: `PLM_ERROR_STORAGE` if `save` returned anything but 0; `PLM_ERROR_BUSY`,
/// `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_save(
    session: *mut plm_session,
    save: plm_save_bytes,
    context: *mut c_void,
) -> i32 {
    let Some(save) = save else {
        return PLM_ERROR_NULL;
    };
    let mut sink = |piece: &[u8]| {
        // SAFETY: the header says what the function must do.
        let result = unsafe { save(context, piece.as_ptr().cast(), piece.len()) };
        if result == 0 {
            Ok(())
        } else {
            Err(Error::Storage)
        }
    };
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { change(session, |session| session.save(&mut sink)) })
}

/// Replaces the context by that of a snapshot, which `restore` gives piece by piece. There are no
/// logits until the next token is fed.
///
/// Errors: `PLM_ERROR_NOT_A_SNAPSHOT`, `PLM_ERROR_SNAPSHOT_VERSION`, `PLM_ERROR_FOREIGN_SNAPSHOT`,
/// `PLM_ERROR_SNAPSHOT_KV` and `PLM_ERROR_CONTEXT_FULL` leave the session as it was. After
/// `PLM_ERROR_SNAPSHOT_DAMAGED` and `PLM_ERROR_STORAGE`, where `restore` returned anything but 0,
/// it may be empty. `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_restore(
    session: *mut plm_session,
    restore: plm_restore_bytes,
    context: *mut c_void,
) -> i32 {
    let Some(restore) = restore else {
        return PLM_ERROR_NULL;
    };
    let mut source = |piece: &mut [u8]| {
        // SAFETY: the header says what the function must do.
        let result = unsafe { restore(context, piece.as_mut_ptr().cast(), piece.len()) };
        if result == 0 {
            Ok(())
        } else {
            Err(Error::Storage)
        }
    };
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { change(session, |session| session.restore(&mut source)) })
}

/// Writes to `digest` the 64-bit FNV-1a digest of numbers by their bits: what a device and a host
/// compare instead of logits.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_digest(numbers: *const f32, count: usize, digest: *mut u64) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_digest(numbers, count, digest) })
}

unsafe fn write_digest(numbers: *const f32, count: usize, digest: *mut u64) -> Result<(), Fault> {
    let mut of = Digest::new();
    // SAFETY: the caller's promise.
    unsafe {
        of.update(memory::values(numbers, count)?);
        memory::result(digest)?(of.value());
    }
    Ok(())
}
