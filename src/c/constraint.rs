//! What is a place in a text that obeys a grammar, and how does a generation use it?

use pocketlm::generate::Generation;

use crate::generation::plm_generation;
#[cfg(feature = "grammar")]
use crate::grammar::place;
#[cfg(feature = "grammar")]
use crate::handle::Held;
use crate::status::Fault;

/// Words of 8 bytes of a `plm_constraint`.
#[cfg(target_pointer_width = "32")]
pub const PLM_CONSTRAINT_WORDS: usize = 56;
/// Words of 8 bytes of a `plm_constraint`.
#[cfg(target_pointer_width = "64")]
pub const PLM_CONSTRAINT_WORDS: usize = 90;
/// Bytes of a `plm_constraint`.
pub const PLM_CONSTRAINT_BYTES: usize = PLM_CONSTRAINT_WORDS * 8;

/// A grammar, and a place in a text that obeys it: which tokens may come next. It stays where it
/// is: a copy is refused. Its functions are in libraries with the feature `grammar`.
///
/// `plm_generate_start` can lend it to a generation. Then calls with it are refused with
/// `PLM_ERROR_HANDLE` until the text has ended, or until `plm_generate_stop`; after that it is at
/// the end of the text.
///
/// Threads: one at a time.
#[repr(C)]
pub struct plm_constraint {
    opaque: [u64; PLM_CONSTRAINT_WORDS],
}

// What C takes for the sizes. `handle::create` sees to it that the values fit.
const _: () = assert!(size_of::<plm_constraint>() == PLM_CONSTRAINT_BYTES);

/// A generation, as the C interface has it.
pub type Text = Generation<'static, 'static, 'static, 'static>;

/// The constraint of a generation, if it has one.
pub struct Lent {
    #[cfg(feature = "grammar")]
    held: Option<Held<plm_constraint>>,
}

#[cfg(feature = "grammar")]
impl Lent {
    /// Takes a constraint that is not in use.
    ///
    /// # Safety
    /// Where it is not null, its memory is there.
    pub unsafe fn new(constraint: *mut plm_constraint) -> Result<Lent, Fault> {
        let is_there = !constraint.is_null();
        // SAFETY: the caller's promise.
        let held = is_there.then(|| unsafe { Held::new(constraint) });
        Ok(Lent {
            held: held.transpose()?,
        })
    }

    /// Takes the constraint of a generation.
    ///
    /// # Safety
    /// That of `new`.
    pub unsafe fn of(
        constraint: *mut plm_constraint,
        generation: *const plm_generation,
    ) -> Result<Lent, Fault> {
        let is_there = !constraint.is_null();
        // SAFETY: the caller's promise.
        let held = is_there.then(|| unsafe { Held::lent(constraint, generation) });
        Ok(Lent {
            held: held.transpose()?,
        })
    }

    /// Says that a text obeys the grammar. Not inlined, as `limited`.
    ///
    /// # Safety
    /// A generation is there, and nobody else uses it.
    #[inline(never)]
    pub unsafe fn constrain(&mut self, generation: *mut Text) {
        if let Some(held) = &mut self.held {
            let constraint = *place(held);
            // SAFETY: the caller's promise; what is read is written again.
            unsafe { generation.write(generation.read().grammar(constraint)) };
        }
    }

    pub fn lend(&mut self, generation: *const plm_generation) {
        if let Some(held) = &mut self.held {
            held.lend(generation);
        }
    }

    /// Gives it back, at the end of the text.
    pub fn give_back(&mut self, generation: &Text) {
        if let (Some(held), Some(end)) = (&mut self.held, generation.constraint()) {
            *place(held) = end;
            held.give_back();
        }
    }
}

// Without the feature there are no constraints.
#[cfg(not(feature = "grammar"))]
#[allow(missing_docs, clippy::missing_safety_doc)]
impl Lent {
    pub unsafe fn new(constraint: *mut plm_constraint) -> Result<Lent, Fault> {
        if constraint.is_null() {
            Ok(Lent {})
        } else {
            Err(Fault::of(crate::status::PLM_ERROR_NO_GRAMMAR))
        }
    }

    pub unsafe fn of(_: *mut plm_constraint, _: *const plm_generation) -> Result<Lent, Fault> {
        Ok(Lent {})
    }

    pub unsafe fn constrain(&mut self, _: *mut Text) {}

    pub fn lend(&mut self, _: *const plm_generation) {}

    pub fn give_back(&mut self, _: &Text) {}
}
