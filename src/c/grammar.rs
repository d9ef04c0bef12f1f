//! Which tokens may come next, given a grammar? The functions, in libraries with the feature
//! `grammar`.

use core::ffi::c_void;

use pocketlm::grammar::{Constraint, Grammar, Vocabulary};
use pocketlm::text::Tokenizer;

use crate::constraint::plm_constraint;
use crate::handle::{self, Handle, Held};
use crate::memory;
use crate::status::{Fault, PLM_ERROR_OTHER_VOCABULARY, code};
use crate::text::plm_tokenizer;

impl Handle for plm_constraint {
    type Value = Place;
    const KIND: usize = 0x8888_8888;
}

/// A constraint, and what it borrows.
pub struct Place {
    tokenizer: Tokenizer<'static>,
    vocabulary: Vocabulary<'static>,
    grammar: Grammar<'static>,
    constraint: Constraint<'static>,
}

/// Opens a grammar that `pocketlm grammar` has compiled, checks all of it, and goes to the start of
/// a text. `tokenizer` is copied. `grammar` has `bytes` bytes at any address, which do not change
/// while the constraint is used.
///
/// Errors: 409 to 411, `PLM_ERROR_OTHER_VOCABULARY`, `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`,
/// `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_constraint_open(
    constraint: *mut plm_constraint,
    tokenizer: *const plm_tokenizer,
    grammar: *const c_void,
    bytes: usize,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { open(constraint, tokenizer, (grammar.cast(), bytes)) })
}

unsafe fn open(
    handle: *mut plm_constraint,
    tokenizer: *const plm_tokenizer,
    (grammar, bytes): (*const u8, usize),
) -> Result<(), Fault> {
    // SAFETY: the caller's promise. What is borrowed lies in the handle, which stays.
    unsafe {
        let copied = *handle::shared(tokenizer)?;
        memory::must_be_apart(&[
            memory::buffer(handle, 1),
            memory::buffer(tokenizer, 1),
            memory::buffer(grammar, bytes),
        ])?;
        let grammar = Grammar::open(memory::values(grammar, bytes)?)?;
        must_have_specials(&copied, &grammar)?;
        handle::create(handle, |place| {
            (&raw mut (*place).tokenizer).write(copied);
            (&raw mut (*place).vocabulary).write(Vocabulary::new(&(*place).tokenizer));
            (&raw mut (*place).grammar).write(grammar);
            let start = Constraint::new(&(*place).grammar, &(*place).vocabulary);
            (&raw mut (*place).constraint).write(start);
            Ok(())
        })
    }
}

/// Refuses a grammar with a special token that no text of this tokenizer can contain.
fn must_have_specials(tokenizer: &Tokenizer<'_>, grammar: &Grammar<'_>) -> Result<(), Fault> {
    let is_known = |text| {
        let id = tokenizer.token_to_id(text);
        id.is_some_and(|id| tokenizer.is_special(id))
    };
    if grammar.specials().all(is_known) {
        Ok(())
    } else {
        Err(Fault::of(PLM_ERROR_OTHER_VOCABULARY))
    }
}

/// The place in the text. Not by way of a reference to all of the value: it borrows other parts of
/// that.
pub fn place(held: &mut Held<plm_constraint>) -> &mut Constraint<'static> {
    // SAFETY: `held` has the only use of the value, and the value is there.
    unsafe { &mut (*held.pointer()).constraint }
}

/// Goes to the start of a text.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_constraint_reset(constraint: *mut plm_constraint) -> i32 {
    // SAFETY: the caller's promise, which the header states. The references are to what lies in the
    // handle, which stays.
    code(unsafe {
        Held::new(constraint).map(|mut held| {
            let value = held.pointer();
            *place(&mut held) = Constraint::new(&(*value).grammar, &(*value).vocabulary);
        })
    })
}

/// Writes to `allowed` whether token `id` may come next.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_constraint_allows(
    constraint: *mut plm_constraint,
    id: u32,
    allowed: *mut bool,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { ask(constraint, allowed, |constraint| constraint.allows(id)) })
}

/// Moves on over token `id`. Writes to `accepted` whether it was allowed; if not, nothing changes.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_constraint_accept(
    constraint: *mut plm_constraint,
    id: u32,
    accepted: *mut bool,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { ask(constraint, accepted, |constraint| constraint.accept(id)) })
}

/// Writes to `complete` whether the text may end here.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_constraint_is_complete(
    constraint: *mut plm_constraint,
    complete: *mut bool,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { ask(constraint, complete, |constraint| constraint.is_complete()) })
}

/// Writes to `at_end` whether the text must end here: only tokens that end a text are allowed.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_constraint_is_at_end(
    constraint: *mut plm_constraint,
    at_end: *mut bool,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { ask(constraint, at_end, |constraint| constraint.is_at_end()) })
}

unsafe fn ask(
    constraint: *mut plm_constraint,
    answer: *mut bool,
    question: impl FnOnce(&mut Constraint<'static>) -> bool,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        memory::must_be_apart(&[memory::buffer(constraint, 1), memory::buffer(answer, 1)])?;
        let answer = memory::result(answer)?;
        let mut held = Held::new(constraint)?;
        answer(question(place(&mut held)));
    }
    Ok(())
}

/// Makes the logits of all tokens that may not come next minus infinity: those of `plm_logits`,
/// before `plm_sample`. `logits` has `count` floats.
///
/// Errors: `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`,
/// `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_constraint_mask(
    constraint: *mut plm_constraint,
    logits: *mut f32,
    count: usize,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { mask(constraint, logits, count) })
}

unsafe fn mask(
    constraint: *mut plm_constraint,
    logits: *mut f32,
    count: usize,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        memory::must_be_apart(&[memory::buffer(constraint, 1), memory::buffer(logits, count)])?;
        let logits = memory::values_mut(logits, count)?;
        let mut held = Held::new(constraint)?;
        place(&mut held).mask(logits);
    }
    Ok(())
}
