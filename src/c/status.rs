//! What functions return: one number.

use core::ffi::{CStr, c_char};
use core::num::NonZero;

use pocketlm::Error;

/// Done.
pub const PLM_OK: i32 = 0;
/// Not an error: there is more to do, call again.
pub const PLM_PENDING: i32 = 1;
/// The text has ended: the model chose a token that ends a text.
pub const PLM_ENDED_TOKEN: i32 = 2;
/// The text has ended: it came to a stop string.
pub const PLM_ENDED_STOP: i32 = 3;
/// The text has ended: it has as many tokens as were asked for.
pub const PLM_ENDED_LIMIT: i32 = 4;
/// The text has ended: the context has no room for another token.
pub const PLM_ENDED_CONTEXT: i32 = 5;
/// The text has ended: it is complete by its grammar, and nothing more may come.
pub const PLM_ENDED_COMPLETE: i32 = 6;

/// The first bytes are not those of an image.
pub const PLM_ERROR_NOT_AN_IMAGE: i32 = 100;
/// An image of a format version that this build does not read.
pub const PLM_ERROR_VERSION: i32 = 101;
/// Fewer bytes than the image says it has.
pub const PLM_ERROR_TRUNCATED: i32 = 102;
/// The image or the arena does not start at a multiple of 64 bytes.
pub const PLM_ERROR_UNALIGNED: i32 = 103;
/// A section of the image has a wrong place or length.
pub const PLM_ERROR_LAYOUT: i32 = 104;
/// The image is damaged: a checksum differs.
pub const PLM_ERROR_CHECKSUM: i32 = 105;
/// The image's config makes no model.
pub const PLM_ERROR_CONFIG: i32 = 106;
/// A tensor is missing, misplaced or of a type it cannot have.
pub const PLM_ERROR_TENSOR: i32 = 107;
/// A tensor holds an infinity or NaN.
pub const PLM_ERROR_NOT_FINITE: i32 = 108;
/// The library was built without the kernels of this type of weights, keys or values.
pub const PLM_ERROR_DISABLED: i32 = 109;
/// The chat template is not UTF-8.
pub const PLM_ERROR_CHAT_TEMPLATE: i32 = 110;
/// The image's signature was rejected.
pub const PLM_ERROR_UNVERIFIED: i32 = 111;
/// The library was built without convolutions, which some layers of the image are.
pub const PLM_ERROR_CONVOLUTION_DISABLED: i32 = 112;
/// The context or the batch is 0, or so large that sizes overflow.
pub const PLM_ERROR_LIMITS: i32 = 200;
/// The plan was made for another model.
pub const PLM_ERROR_FOREIGN_PLAN: i32 = 201;
/// The arena, or the memory for the resident parts of an image, is too small.
pub const PLM_ERROR_ARENA_TOO_SMALL: i32 = 202;
/// The buffer that weights are read into is too small.
pub const PLM_ERROR_WEIGHT_BUFFER_TOO_SMALL: i32 = 203;
/// The weights are not in memory, and no source was given.
pub const PLM_ERROR_NOT_MAPPED: i32 = 204;
/// There was nothing to do: no token was given.
pub const PLM_ERROR_NO_TOKENS: i32 = 205;
/// More tokens than the context has room for; nothing was fed.
pub const PLM_ERROR_CONTEXT_FULL: i32 = 206;
/// The position is not after that of the last token.
pub const PLM_ERROR_POSITION: i32 = 207;
/// Older keys have left the attention windows, so fewer tokens can be taken back.
pub const PLM_ERROR_REWIND_TOO_FAR: i32 = 208;
/// Tokens given earlier are still being computed.
pub const PLM_ERROR_BUSY: i32 = 209;
/// A function of the caller that reads or writes reported a failure.
pub const PLM_ERROR_STORAGE: i32 = 300;
/// The storage has too little room.
pub const PLM_ERROR_STORAGE_TOO_SMALL: i32 = 301;
/// There is no snapshot.
pub const PLM_ERROR_NOT_A_SNAPSHOT: i32 = 302;
/// A snapshot of a format version that this build does not read.
pub const PLM_ERROR_SNAPSHOT_VERSION: i32 = 303;
/// The snapshot was made with another image.
pub const PLM_ERROR_FOREIGN_SNAPSHOT: i32 = 304;
/// The snapshot keeps keys and values in another type.
pub const PLM_ERROR_SNAPSHOT_KV: i32 = 305;
/// The snapshot is cut short or damaged.
pub const PLM_ERROR_SNAPSHOT_DAMAGED: i32 = 306;
/// The tokenizer section is cut short.
pub const PLM_ERROR_TOKENIZER_TRUNCATED: i32 = 400;
/// The tokenizer section is damaged or of a newer version.
pub const PLM_ERROR_TOKENIZER_INVALID: i32 = 401;
/// The library was built without byte-level tokenizers.
pub const PLM_ERROR_BYTE_LEVEL_DISABLED: i32 = 402;
/// The library was built without NFC.
pub const PLM_ERROR_NFC_DISABLED: i32 = 403;
/// The scratch is too small for this text.
pub const PLM_ERROR_SCRATCH_TOO_SMALL: i32 = 404;
/// The token ids do not fit the output.
pub const PLM_ERROR_OUTPUT_TOO_SMALL: i32 = 405;
/// No logit is above minus infinity, or there are no logits: there is no token to choose.
pub const PLM_ERROR_NO_CANDIDATE: i32 = 406;
/// A token id that the vocabulary does not have.
pub const PLM_ERROR_TOKEN_OUT_OF_RANGE: i32 = 407;
/// The image holds no tokenizer.
pub const PLM_ERROR_NO_TOKENIZER: i32 = 408;
/// The first bytes are not those of a compiled grammar.
pub const PLM_ERROR_NOT_A_GRAMMAR: i32 = 409;
/// A grammar of a format version that this build does not read.
pub const PLM_ERROR_GRAMMAR_VERSION: i32 = 410;
/// The grammar is cut short or damaged.
pub const PLM_ERROR_GRAMMAR_DAMAGED: i32 = 411;
/// A pointer is NULL.
pub const PLM_ERROR_NULL: i32 = 500;
/// A pointer is not aligned for what it points to.
pub const PLM_ERROR_MISALIGNED: i32 = 501;
/// A length is larger than memory, or a stop string is longer than 64 bytes.
pub const PLM_ERROR_LENGTH: i32 = 502;
/// A handle is not open, is of another kind, was copied, or is in use by a generation or by the
/// call that runs this callback.
pub const PLM_ERROR_HANDLE: i32 = 503;
/// The text is not UTF-8.
pub const PLM_ERROR_UTF8: i32 = 504;
/// The image is not the one with the expected checksum.
pub const PLM_ERROR_OTHER_IMAGE: i32 = 505;
/// A setting has a value that means nothing.
pub const PLM_ERROR_SETTING: i32 = 506;
/// Buffers share memory.
pub const PLM_ERROR_OVERLAP: i32 = 507;
/// The library was built without weight sources (feature `source`).
pub const PLM_ERROR_NO_SOURCE: i32 = 508;
/// The library was built without grammars (feature `grammar`).
pub const PLM_ERROR_NO_GRAMMAR: i32 = 509;
/// The grammar names a special token that the tokenizer does not have.
pub const PLM_ERROR_OTHER_VOCABULARY: i32 = 510;

/// A number above 99.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(NonZero<i32>);

impl Fault {
    /// The number of an error.
    pub const fn of(code: i32) -> Fault {
        match NonZero::new(code) {
            Some(code) => Fault(code),
            // No error has the number 0.
            None => Fault(NonZero::<i32>::MAX),
        }
    }
}

impl From<Error> for Fault {
    #[inline(never)]
    fn from(error: Error) -> Self {
        Fault::of(i32::from(error.code()))
    }
}

/// The number that a function returns.
pub fn code(result: Result<(), Fault>) -> i32 {
    match result {
        Ok(()) => PLM_OK,
        Err(Fault(code)) => code.get(),
    }
}

/// The same for functions that return more than `PLM_OK`.
pub fn status(result: Result<i32, Fault>) -> i32 {
    match result {
        Ok(status) => status,
        Err(Fault(code)) => code.get(),
    }
}

/// A sentence that says what a number means: what is wrong, and what to do. It is UTF-8, static and
/// never NULL. A program that does not call this function links none of the sentences.
///
/// Any thread may call it at any time.
#[unsafe(no_mangle)]
pub extern "C" fn plm_error_text(code: i32) -> *const c_char {
    sentence(code).as_ptr()
}

fn sentence(code: i32) -> &'static CStr {
    match code {
        PLM_OK => c"done",
        PLM_PENDING => c"there is more to do: call again",
        PLM_ENDED_TOKEN => c"the text has ended",
        PLM_ENDED_STOP => c"the text has ended with a stop string",
        PLM_ENDED_LIMIT => c"the text has as many tokens as were asked for",
        PLM_ENDED_CONTEXT => c"the text has ended because the context is full",
        PLM_ENDED_COMPLETE => c"the text has ended because it is complete by its grammar",
        100..200 => of_an_image(code),
        200..300 => of_a_run(code),
        300..400 => of_storage(code),
        400..500 => of_text(code),
        500..600 => of_an_argument(code),
        _ => c"unknown number",
    }
}

fn of_an_image(code: i32) -> &'static CStr {
    match code {
        PLM_ERROR_NOT_AN_IMAGE => c"not a pocketlm image: the first 8 bytes are not \"pocketlm\"",
        PLM_ERROR_VERSION => c"unknown image format version: pack the checkpoint again",
        PLM_ERROR_TRUNCATED => c"the image is cut short or too long: copy or pack it again",
        PLM_ERROR_UNALIGNED => c"the image or arena must start at a multiple of 64 bytes",
        PLM_ERROR_LAYOUT => c"a section of the image has a wrong place or length: pack it again",
        PLM_ERROR_CHECKSUM => c"the image is damaged: copy it again",
        PLM_ERROR_CONFIG => c"the image's config makes no model: pack it again",
        PLM_ERROR_TENSOR => c"a tensor is missing, misplaced or of a type it cannot have",
        PLM_ERROR_NOT_FINITE => c"a tensor holds an infinity or NaN",
        PLM_ERROR_DISABLED => {
            c"the library has no kernels of this type: build it with the feature of its name"
        }
        PLM_ERROR_CHAT_TEMPLATE => c"the chat template is not UTF-8",
        PLM_ERROR_UNVERIFIED => c"the image's signature was rejected",
        PLM_ERROR_CONVOLUTION_DISABLED => {
            c"the library has no convolutions: build it with the feature convolution"
        }
        _ => c"unknown number",
    }
}

fn of_a_run(code: i32) -> &'static CStr {
    match code {
        PLM_ERROR_LIMITS => c"context and batch must be at least 1 and not too large",
        PLM_ERROR_FOREIGN_PLAN => c"the plan was made for another model",
        PLM_ERROR_ARENA_TOO_SMALL => {
            c"the memory is too small: plm_plan says how much a session needs"
        }
        PLM_ERROR_WEIGHT_BUFFER_TOO_SMALL => c"weight_buffer is too small: plan a larger one",
        PLM_ERROR_NOT_MAPPED => c"the weights are not in memory: give the session a source",
        PLM_ERROR_NO_TOKENS => c"no token was given",
        PLM_ERROR_CONTEXT_FULL => c"the context is full: plan a longer one, rewind or reset",
        PLM_ERROR_POSITION => c"the position is not after that of the last token",
        PLM_ERROR_REWIND_TOO_FAR => {
            c"older keys have left the attention windows: reset and feed again"
        }
        PLM_ERROR_BUSY => {
            c"earlier tokens are still being computed: step until they are done, abort or reset"
        }
        _ => c"unknown number",
    }
}

fn of_storage(code: i32) -> &'static CStr {
    match code {
        PLM_ERROR_STORAGE => c"the storage could not be read or written",
        PLM_ERROR_STORAGE_TOO_SMALL => c"the storage is too small",
        PLM_ERROR_NOT_A_SNAPSHOT => c"there is no snapshot here",
        PLM_ERROR_SNAPSHOT_VERSION => c"unknown snapshot format version: feed its tokens again",
        PLM_ERROR_FOREIGN_SNAPSHOT => {
            c"the snapshot was made with another image: feed its tokens again"
        }
        PLM_ERROR_SNAPSHOT_KV => {
            c"the snapshot keeps keys and values in another type: plan for that"
        }
        PLM_ERROR_SNAPSHOT_DAMAGED => {
            c"the snapshot is cut short or damaged: feed its tokens again"
        }
        _ => c"unknown number",
    }
}

fn of_text(code: i32) -> &'static CStr {
    match code {
        PLM_ERROR_TOKENIZER_TRUNCATED => c"the tokenizer section is cut short",
        PLM_ERROR_TOKENIZER_INVALID => c"the tokenizer section is damaged or of a newer version",
        PLM_ERROR_BYTE_LEVEL_DISABLED => {
            c"the library has no byte-level tokenizers: build it with the feature byte-level"
        }
        PLM_ERROR_NFC_DISABLED => c"the library has no NFC: build it with the feature nfc",
        PLM_ERROR_SCRATCH_TOO_SMALL => c"the scratch is too small: see PLM_SCRATCH_WORDS",
        PLM_ERROR_OUTPUT_TOO_SMALL => c"the token ids do not fit the output",
        PLM_ERROR_NO_CANDIDATE => c"there are no logits, or none above minus infinity",
        PLM_ERROR_TOKEN_OUT_OF_RANGE => c"the vocabulary does not have this token id",
        PLM_ERROR_NO_TOKENIZER => {
            c"the image holds no tokenizer: pack it with the tokenizer's files"
        }
        PLM_ERROR_NOT_A_GRAMMAR => c"not a compiled grammar: pocketlm grammar makes one",
        PLM_ERROR_GRAMMAR_VERSION => c"unknown grammar format version: compile it again",
        PLM_ERROR_GRAMMAR_DAMAGED => c"the grammar is cut short or damaged: copy it again",
        _ => c"unknown number",
    }
}

fn of_an_argument(code: i32) -> &'static CStr {
    match code {
        PLM_ERROR_NULL => c"a pointer is NULL",
        PLM_ERROR_MISALIGNED => c"a pointer is not aligned for what it points to",
        PLM_ERROR_LENGTH => c"a length is too large",
        PLM_ERROR_HANDLE => c"the handle is not open, of another kind, copied or in use",
        PLM_ERROR_UTF8 => c"the text is not UTF-8",
        PLM_ERROR_OTHER_IMAGE => {
            c"this is another image than the expected one: flash it, or plan again"
        }
        PLM_ERROR_SETTING => c"a setting has a value that means nothing",
        PLM_ERROR_OVERLAP => c"buffers share memory",
        PLM_ERROR_NO_SOURCE => {
            c"the library has no weight sources: build it with the feature source"
        }
        PLM_ERROR_NO_GRAMMAR => c"the library has no grammars: build it with the feature grammar",
        PLM_ERROR_OTHER_VOCABULARY => {
            c"the grammar names a special token that the model does not have: compile one for it"
        }
        _ => c"unknown number",
    }
}
