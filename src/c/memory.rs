//! What the caller lends: pointers and lengths, checked as far as that is possible.

use core::ffi::c_char;
use core::num::NonZero;
use core::ops::Range;
use core::ptr::NonNull;
use core::slice;

use crate::status::{
    Fault, PLM_ERROR_LENGTH, PLM_ERROR_MISALIGNED, PLM_ERROR_NULL, PLM_ERROR_OVERLAP,
    PLM_ERROR_UTF8,
};

/// Checks that a pointer can point to `count` values of `size` bytes. It is one function for all
/// types, to save flash. Returns the address, or for no values one that Rust accepts.
#[inline(never)]
pub fn check(
    pointer: *mut u8,
    align: NonZero<usize>,
    size: usize,
    count: usize,
) -> Result<NonNull<u8>, Fault> {
    if count == 0 {
        return Ok(NonNull::without_provenance(align));
    }
    let (address, align) = (pointer.addr(), align.get());
    let bytes = count.checked_mul(size);
    let Some(bytes) = bytes.filter(|&bytes| bytes <= isize::MAX as usize) else {
        return Err(Fault::of(PLM_ERROR_LENGTH));
    };
    let Some(pointer) = NonNull::new(pointer) else {
        return Err(Fault::of(PLM_ERROR_NULL));
    };
    if address & (align - 1) != 0 {
        return Err(Fault::of(PLM_ERROR_MISALIGNED));
    }
    if address.checked_add(bytes).is_none() {
        return Err(Fault::of(PLM_ERROR_LENGTH));
    }
    Ok(pointer)
}

/// What the address of a value is a multiple of.
pub fn alignment<T>() -> NonZero<usize> {
    NonZero::new(align_of::<T>()).unwrap_or(NonZero::<usize>::MIN)
}

/// Checks that a pointer can point to `count` values.
pub fn check_values<T>(pointer: *const T, count: usize) -> Result<NonNull<T>, Fault> {
    let align = alignment::<T>();
    let pointer = pointer.cast_mut().cast();
    Ok(check(pointer, align, size_of::<T>(), count)?.cast())
}

/// `count` values to read. Nothing is asked of a pointer to no values.
///
/// # Safety
/// Where the checks succeed, the values are there, and nobody changes them while they are used.
pub unsafe fn values<'v, T>(pointer: *const T, count: usize) -> Result<&'v [T], Fault> {
    let pointer = check_values(pointer, count)?;
    // SAFETY: neither null nor misaligned, no longer than memory; the caller promises the rest.
    Ok(unsafe { slice::from_raw_parts(pointer.as_ptr(), count) })
}

/// `count` values to read and write.
///
/// # Safety
/// Where the checks succeed, the values are there, and nobody else uses them meanwhile.
pub unsafe fn values_mut<'v, T>(pointer: *mut T, count: usize) -> Result<&'v mut [T], Fault> {
    let pointer = check_values(pointer, count)?;
    // SAFETY: as above.
    Ok(unsafe { slice::from_raw_parts_mut(pointer.as_ptr(), count) })
}

/// One value to read.
///
/// # Safety
/// That of [`values`].
pub unsafe fn value<'v, T>(pointer: *const T) -> Result<&'v T, Fault> {
    check_values(pointer, 1)?;
    // SAFETY: as above.
    Ok(unsafe { &*pointer })
}

/// One value to read, or none where the pointer is NULL.
///
/// # Safety
/// That of [`values`].
pub unsafe fn optional<'v, T>(pointer: *const T) -> Result<Option<&'v T>, Fault> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { value(pointer).map(Some) }
}

/// The place of a result.
///
/// # Safety
/// That of [`values_mut`]. What is there is not read.
pub unsafe fn result<T>(pointer: *mut T) -> Result<impl FnOnce(T), Fault> {
    check_values(pointer, 1)?;
    // SAFETY: as above.
    Ok(move |value| unsafe { pointer.write(value) })
}

/// Text that must be UTF-8.
///
/// # Safety
/// That of [`values`].
pub unsafe fn text<'v>(text: *const c_char, bytes: usize) -> Result<&'v str, Fault> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { values(text.cast::<u8>(), bytes)? };
    core::str::from_utf8(bytes).map_err(|_| Fault::of(PLM_ERROR_UTF8))
}

/// The addresses of a buffer. Where sizes overflow, they are not; [`check`] refuses such a buffer.
pub fn buffer<T>(start: *const T, count: usize) -> Range<usize> {
    let bytes = count.wrapping_mul(size_of::<T>());
    start.addr()..start.addr().wrapping_add(bytes)
}

/// Refuses buffers of which any two share memory: one of the two is written.
#[inline(never)]
pub fn must_be_apart(buffers: &[Range<usize>]) -> Result<(), Fault> {
    let mut rest = buffers;
    while let [first, others @ ..] = rest {
        for other in others {
            if first.start.max(other.start) < first.end.min(other.end) {
                return Err(Fault::of(PLM_ERROR_OVERLAP));
            }
        }
        rest = others;
    }
    Ok(())
}
