//! What the caller lends: pointers and lengths, checked as far as that is possible.

use core::ffi::c_char;
use core::ops::Range;
use core::slice;

use crate::status::{Fault, PLM_ERROR_LENGTH, PLM_ERROR_MISALIGNED, PLM_ERROR_NULL};

/// Checks that a pointer can point to `count` values, which are read or written if there are any.
#[inline(never)]
pub fn check(address: usize, align: usize, bytes: Option<usize>) -> Result<(), Fault> {
    let Some(bytes) = bytes.filter(|&bytes| bytes <= isize::MAX as usize) else {
        return Err(Fault(PLM_ERROR_LENGTH));
    };
    if bytes == 0 {
        return Ok(());
    }
    if address == 0 {
        return Err(Fault(PLM_ERROR_NULL));
    }
    if address & (align - 1) != 0 {
        return Err(Fault(PLM_ERROR_MISALIGNED));
    }
    if address.checked_add(bytes).is_none() {
        return Err(Fault(PLM_ERROR_LENGTH));
    }
    Ok(())
}

/// Checks that a pointer can point to `count` values.
pub fn check_values<T>(pointer: *const T, count: usize) -> Result<(), Fault> {
    let bytes = count.checked_mul(size_of::<T>());
    check(pointer.addr(), align_of::<T>(), bytes)
}

/// `count` values to read. Nothing is asked of a pointer to no values.
///
/// # Safety
/// Where the checks succeed, the values are there, and nobody changes them while they are used.
pub unsafe fn values<'v, T>(pointer: *const T, count: usize) -> Result<&'v [T], Fault> {
    check_values(pointer, count)?;
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: neither null nor misaligned, no longer than memory; the caller promises the rest.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}

/// `count` values to read and write.
///
/// # Safety
/// Where the checks succeed, the values are there, and nobody else uses them meanwhile.
pub unsafe fn values_mut<'v, T>(pointer: *mut T, count: usize) -> Result<&'v mut [T], Fault> {
    check_values(pointer, count)?;
    if count == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as above.
    Ok(unsafe { slice::from_raw_parts_mut(pointer, count) })
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
    core::str::from_utf8(bytes).map_err(|_| Fault(crate::status::PLM_ERROR_UTF8))
}

/// Refuses buffers, each an address and a number of values, that share memory: one of them is
/// written.
pub fn must_be_apart<A, B>(a: (*const A, usize), b: (*const B, usize)) -> Result<(), Fault> {
    let (first, second) = (range(a), range(b));
    let apart = first.is_empty() || second.is_empty();
    if apart || first.end <= second.start || second.end <= first.start {
        Ok(())
    } else {
        Err(Fault(crate::status::PLM_ERROR_OVERLAP))
    }
}

/// The addresses of a buffer.
fn range<T>((start, count): (*const T, usize)) -> Range<usize> {
    let bytes = count.saturating_mul(size_of::<T>());
    start.addr()..start.addr().saturating_add(bytes)
}
