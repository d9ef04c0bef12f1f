//! How does text become tokens, and tokens text?

use core::ffi::{c_char, c_void};

use pocketlm::Error;
use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};

use crate::handle::{self, Handle, Held};
use crate::memory;
use crate::model::plm_model;
use crate::status::{Fault, PLM_ERROR_NULL, PLM_ERROR_SETTING, code};

/// Begin with the token that starts a text, and add what else the tokenizer asks for.
pub const PLM_ADD_SPECIAL: u32 = 1;
/// Read special tokens that are written out in the text. Not for text from people who are not to
/// write control tokens.
pub const PLM_PARSE_SPECIAL: u32 = 2;

/// Words of 8 bytes of a `plm_tokenizer`.
#[cfg(target_pointer_width = "32")]
pub const PLM_TOKENIZER_WORDS: usize = 42;
/// Words of 8 bytes of a `plm_tokenizer`.
#[cfg(target_pointer_width = "64")]
pub const PLM_TOKENIZER_WORDS: usize = 72;
/// Bytes of a `plm_tokenizer`.
pub const PLM_TOKENIZER_BYTES: usize = PLM_TOKENIZER_WORDS * 8;

/// Words of 8 bytes of a `plm_decoder`.
#[cfg(target_pointer_width = "32")]
pub const PLM_DECODER_WORDS: usize = 43;
/// Words of 8 bytes of a `plm_decoder`.
#[cfg(target_pointer_width = "64")]
pub const PLM_DECODER_WORDS: usize = 73;
/// Bytes of a `plm_decoder`.
pub const PLM_DECODER_BYTES: usize = PLM_DECODER_WORDS * 8;

/// The tokenizer of an image, which must stay where it is. It is copied where it is needed.
///
/// Threads: once open, any number of threads may use it at the same time.
#[repr(C)]
pub struct plm_tokenizer {
    opaque: [u64; PLM_TOKENIZER_WORDS],
}

/// Turns tokens into text, one at a time. It stays where it is: a copy is refused.
///
/// Threads: one at a time.
#[repr(C)]
pub struct plm_decoder {
    opaque: [u64; PLM_DECODER_WORDS],
}

/// Takes text: whole UTF-8 characters, `bytes` bytes without a NUL at the end. `text` is valid
/// during the call.
pub type plm_write =
    Option<unsafe extern "C" fn(context: *mut c_void, text: *const c_char, bytes: usize)>;

// What C takes for the sizes. `handle::create` sees to it that the values fit.
const _: () = assert!(size_of::<plm_tokenizer>() == PLM_TOKENIZER_BYTES);
const _: () = assert!(size_of::<plm_decoder>() == PLM_DECODER_BYTES);

impl Handle for plm_tokenizer {
    type Value = Tokenizer<'static>;
    const KIND: usize = 0x5555_5555;
}

impl Handle for plm_decoder {
    type Value = Decoder<'static>;
    const KIND: usize = 0x6666_6666;
}

/// Opens the tokenizer of a model and checks all of it. `model` is not needed after that.
///
/// Errors: `PLM_ERROR_NO_TOKENIZER`, 400 to 403, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
/// `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_tokenizer_open(
    tokenizer: *mut plm_tokenizer,
    model: *const plm_model,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { open(tokenizer, model) })
}

unsafe fn open(tokenizer: *mut plm_tokenizer, model: *const plm_model) -> Result<(), Fault> {
    // SAFETY: the caller's promise. In the closure, so that it is made where it will stay.
    unsafe {
        handle::create(tokenizer, |place| {
            place.write(handle::shared(model)?.tokenizer()?);
            Ok(())
        })
    }
}

/// Turns text into token ids. `text` has `bytes` bytes of UTF-8. `flags` is 0 or the sum of
/// `PLM_ADD_SPECIAL` and `PLM_PARSE_SPECIAL`. `scratch` has `scratch_words` words:
/// `PLM_SCRATCH_WORDS(bytes)` are enough, for a tokenizer with NFC (Qwen)
/// `PLM_NFC_SCRATCH_WORDS(bytes)`. `ids` has room for `ids_count` ids. Writes to `count` how many
/// ids the text has; after `PLM_ERROR_OUTPUT_TOO_SMALL` too, when `ids` holds the first of them.
///
/// Errors: `PLM_ERROR_UTF8`, `PLM_ERROR_SCRATCH_TOO_SMALL`, `PLM_ERROR_OUTPUT_TOO_SMALL`,
/// `PLM_ERROR_SETTING` for unknown flags, `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`,
/// `PLM_ERROR_MISALIGNED`, `PLM_ERROR_LENGTH`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_encode(
    tokenizer: *const plm_tokenizer,
    text: *const c_char,
    bytes: usize,
    flags: u32,
    scratch: *mut u32,
    scratch_words: usize,
    ids: *mut u32,
    ids_count: usize,
    count: *mut usize,
) -> i32 {
    let lent = ((scratch, scratch_words), (ids, ids_count));
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { encode(tokenizer, (text, bytes), flags, lent, count) })
}

unsafe fn encode(
    tokenizer: *const plm_tokenizer,
    (text, bytes): (*const c_char, usize),
    flags: u32,
    ((scratch, scratch_words), (ids, ids_count)): ((*mut u32, usize), (*mut u32, usize)),
    count: *mut usize,
) -> Result<(), Fault> {
    if flags & !(PLM_ADD_SPECIAL | PLM_PARSE_SPECIAL) != 0 {
        return Err(Fault::of(PLM_ERROR_SETTING));
    }
    let options = EncodeOptions {
        add_special_tokens: flags & PLM_ADD_SPECIAL != 0,
        parse_special: flags & PLM_PARSE_SPECIAL != 0,
    };
    memory::must_be_apart(&[
        memory::buffer(scratch, scratch_words),
        memory::buffer(ids, ids_count),
        memory::buffer(text, bytes),
        memory::buffer(tokenizer, 1),
    ])?;
    // SAFETY: the caller's promise.
    unsafe {
        let tokenizer = handle::shared(tokenizer)?;
        let text = memory::text(text, bytes)?;
        let scratch = memory::values_mut(scratch, scratch_words)?;
        let ids = memory::values_mut(ids, ids_count)?;
        let count = memory::result(count)?;
        match tokenizer.encode(text, options, scratch, ids) {
            Ok(found) => count(found),
            Err(error) => {
                if let Error::OutputTooSmall { needed, .. } = error {
                    count(needed);
                }
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Writes to `ends` whether a token ends a text.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_ends_text(
    tokenizer: *const plm_tokenizer,
    id: u32,
    ends: *mut bool,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_ends_text(tokenizer, id, ends) })
}

unsafe fn write_ends_text(
    tokenizer: *const plm_tokenizer,
    id: u32,
    ends: *mut bool,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let tokenizer = handle::shared(tokenizer)?;
        memory::result(ends)?(tokenizer.is_eos(id));
    }
    Ok(())
}

/// Makes a decoder at the start of a text. `tokenizer` is copied. With `skip_special`, special
/// tokens are left out of the text.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_decoder_init(
    decoder: *mut plm_decoder,
    tokenizer: *const plm_tokenizer,
    skip_special: bool,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { init_decoder(decoder, tokenizer, skip_special) })
}

unsafe fn init_decoder(
    decoder: *mut plm_decoder,
    tokenizer: *const plm_tokenizer,
    skip_special: bool,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let made = Decoder::new(handle::shared(tokenizer)?).skip_special(skip_special);
        handle::create(decoder, |place| {
            place.write(made);
            Ok(())
        })
    }
}

/// Gives the text that token `id` adds to `write`, in no, one or several calls. A character whose
/// bytes are not complete waits for the next token.
///
/// Errors: `PLM_ERROR_TOKEN_OUT_OF_RANGE`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
/// `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_decode(
    decoder: *mut plm_decoder,
    id: u32,
    write: plm_write,
    context: *mut c_void,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { decode(decoder, Some(id), write, context) })
}

/// Gives what is left at the end of a text to `write`: a replacement character if it ends within a
/// character. The decoder is at a start again.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_decode_end(
    decoder: *mut plm_decoder,
    write: plm_write,
    context: *mut c_void,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { decode(decoder, None, write, context) })
}

/// The text that a token adds, or what is left at the end.
#[inline(never)]
unsafe fn decode(
    decoder: *mut plm_decoder,
    id: Option<u32>,
    write: plm_write,
    context: *mut c_void,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let write = writer(write, context)?;
        let mut held = Held::new(decoder)?;
        let decoder = held.value();
        let text = match id {
            Some(id) => decoder.push(id)?,
            None => decoder.finish(),
        };
        text.chunks(write);
    }
    Ok(())
}

/// A function of the caller that takes text.
///
/// # Safety
/// The function does what the header says.
pub unsafe fn writer(write: plm_write, context: *mut c_void) -> Result<impl Fn(&str), Fault> {
    let write = write.ok_or(Fault::of(PLM_ERROR_NULL))?;
    // SAFETY: the caller's promise.
    Ok(move |text: &str| unsafe { write(context, text.as_ptr().cast(), text.len()) })
}
