//! Handles: Rust values in memory of the caller. A word in front of each says what it is.
//!
//! The word is made from the kind of the value and its address. So memory that was never opened, a
//! handle of another kind, and a handle that was copied elsewhere are refused. While a call changes
//! a value, the word says neither, so a callback cannot use a value that is in use.

use core::mem::MaybeUninit;
use core::num::NonZero;

use crate::memory;
use crate::status::{Fault, PLM_ERROR_HANDLE};

/// A type of the C interface that holds a Rust value.
pub trait Handle: Sized {
    /// What it holds.
    type Value;
    /// A number that no other type has. All of its bytes are the same: such a constant is a part
    /// of an instruction of Thumb-2.
    const KIND: usize;
}

/// What is in the memory of a handle.
#[repr(C)]
struct Slot<T> {
    tag: usize,
    value: MaybeUninit<T>,
}

/// The tag of a value that may be used.
fn open_tag<H: Handle>(handle: *const H) -> usize {
    handle.addr() ^ H::KIND
}

/// The tag of a value that `borrower` has for itself, call after call.
fn lent_tag<H: Handle, B>(handle: *const H, borrower: *const B) -> usize {
    open_tag(handle) ^ borrower.addr().rotate_left(7)
}

/// Whether memory is that of a handle, which has the tag `tag`. It is one function for all kinds,
/// to save flash.
///
/// # Safety
/// Where the checks of the pointer succeed, the memory is there.
#[inline(never)]
unsafe fn check(tag_place: *const usize, align: NonZero<usize>, tag: usize) -> Result<(), Fault> {
    memory::check(tag_place.cast_mut().cast(), align, size_of::<usize>(), 1)?;
    // SAFETY: the caller's promise.
    if unsafe { tag_place.read() } == tag {
        Ok(())
    } else {
        Err(Fault::of(PLM_ERROR_HANDLE))
    }
}

/// [`check`] for a value that a call will have for itself: the tag says so from then on. It is one
/// function for all kinds, too.
///
/// # Safety
/// Where the checks of the pointer succeed, the memory is there and nobody else uses it.
#[inline(never)]
unsafe fn hold(tag_place: *mut usize, align: NonZero<usize>, tag: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        check(tag_place, align, tag)?;
        tag_place.write(0);
    }
    Ok(())
}

/// Makes a value in the memory of a handle. What was there before is forgotten. `make` gets the
/// place where the value will stay, and fills it.
///
/// # Safety
/// Where the checks of the pointer succeed, the memory is there and nobody else uses it.
pub unsafe fn create<H: Handle>(
    handle: *mut H,
    make: impl FnOnce(*mut H::Value) -> Result<(), Fault>,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise; `make` fills the place.
    unsafe {
        make(place(handle)?)?;
        filled(handle);
    }
    Ok(())
}

/// The place of a value to be made. What was there before is forgotten.
///
/// # Safety
/// That of [`create`].
pub unsafe fn place<H: Handle>(handle: *mut H) -> Result<*mut H::Value, Fault> {
    const {
        assert!(size_of::<Slot<H::Value>>() <= size_of::<H>());
        assert!(align_of::<Slot<H::Value>>() <= align_of::<H>());
    }
    memory::check_values(handle, 1)?;
    let slot = handle.cast::<Slot<H::Value>>();
    // SAFETY: the slot fits the handle, by the assertions above, and the handle is the caller's.
    unsafe {
        (&raw mut (*slot).tag).write(0);
        Ok((&raw mut (*slot).value).cast())
    }
}

/// Says that a value is in its [`place`].
///
/// # Safety
/// It is, and nobody else uses the handle.
pub unsafe fn filled<H: Handle>(handle: *mut H) {
    let slot = handle.cast::<Slot<H::Value>>();
    // SAFETY: the caller's promise: `place` has checked the handle.
    unsafe { (&raw mut (*slot).tag).write(open_tag(handle)) };
}

/// A value that others may read at the same time.
///
/// # Safety
/// Where the checks of the pointer succeed, the memory is there and nobody changes it.
pub unsafe fn shared<'h, H: Handle>(handle: *const H) -> Result<&'h H::Value, Fault> {
    let slot = handle.cast::<Slot<H::Value>>();
    // SAFETY: a slot is not larger than its handle, and starts with the tag, which says that
    // `create` has put a value there.
    unsafe {
        check(handle.cast(), memory::alignment::<H>(), open_tag(handle))?;
        Ok((*slot).value.assume_init_ref())
    }
}

/// A value that this call has for itself, until it is dropped.
pub struct Held<H: Handle> {
    handle: *mut H,
    /// What the tag will be again.
    tag: usize,
}

impl<H: Handle> Held<H> {
    /// Takes a value that is not in use.
    ///
    /// # Safety
    /// That of [`create`].
    pub unsafe fn new(handle: *mut H) -> Result<Self, Fault> {
        // SAFETY: the caller's promise.
        unsafe { Self::with_tag(handle, open_tag(handle)) }
    }

    /// Takes a value that [`lend`](Held::lend) has lent to `borrower`.
    ///
    /// # Safety
    /// That of [`create`].
    pub unsafe fn lent<B>(handle: *mut H, borrower: *const B) -> Result<Self, Fault> {
        // SAFETY: the caller's promise.
        unsafe { Self::with_tag(handle, lent_tag(handle.cast_const(), borrower)) }
    }

    /// Takes a value whose tag is `tag`.
    unsafe fn with_tag(handle: *mut H, tag: usize) -> Result<Self, Fault> {
        // SAFETY: a slot is not larger than its handle, which is the caller's, and starts with the
        // tag.
        unsafe { hold(handle.cast(), memory::alignment::<H>(), tag)? };
        Ok(Held { handle, tag })
    }

    /// Where the value is.
    pub fn pointer(&self) -> *mut H::Value {
        let slot = self.handle.cast::<Slot<H::Value>>();
        // SAFETY: the place of a field; nothing is read.
        unsafe { (&raw mut (*slot).value).cast() }
    }

    /// The value.
    ///
    /// # Safety
    /// No part of the value borrows another part of it.
    pub unsafe fn value(&mut self) -> &mut H::Value {
        // SAFETY: the tag said that there is a value, and this is the only use of it. The caller
        // promises the rest.
        unsafe { &mut *self.pointer() }
    }

    /// Lends the value to `borrower` when this call is over.
    pub fn lend<B>(&mut self, borrower: *const B) {
        self.tag = lent_tag(self.handle.cast_const(), borrower);
    }

    /// Whoever has borrowed the value gives it back when this call is over.
    pub fn give_back(&mut self) {
        self.tag = open_tag(self.handle);
    }
}

impl<H: Handle> Drop for Held<H> {
    fn drop(&mut self) {
        let slot = self.handle.cast::<Slot<H::Value>>();
        // SAFETY: `with_tag` has read the tag here.
        unsafe { (&raw mut (*slot).tag).write(self.tag) };
    }
}
