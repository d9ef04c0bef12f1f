//! Makes an image of a GGUF file, in memory. `../lib/gguf.js` calls this module: it asks for room,
//! writes the file there, has it packed, and reads the image or the error. A module packs one file.

use std::sync::Mutex;

use pocketlm::host::{AlignedBytes, RefusedParts};
use pocketlm::import::{Checkpoint, ImportError, PackOptions, gguf, pack_to_memory};

static FILE: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static RESULT: Mutex<Result<Option<AlignedBytes>, String>> = Mutex::new(Ok(None));

/// Room for a file of `bytes` bytes; null if there is not as much memory.
#[unsafe(no_mangle)]
pub extern "C" fn room(bytes: usize) -> *mut u8 {
    let mut place = FILE.lock().unwrap();
    *place = Vec::new();
    if place.try_reserve_exact(bytes).is_err() {
        return std::ptr::null_mut();
    }
    place.resize(bytes, 0);
    place.as_mut_ptr()
}

/// Packs the file. Whether that worked: the result is the image, or a sentence of what is wrong.
#[unsafe(no_mangle)]
pub extern "C" fn pack() -> bool {
    let result = image(&FILE.lock().unwrap());
    let is_image = result.is_ok();
    *RESULT.lock().unwrap() = result.map(Some).map_err(|error| error.to_string());
    is_image
}

fn image(file: &[u8]) -> Result<AlignedBytes, ImportError> {
    let checkpoint = gguf::open_bytes(file)?;
    // A model without its tokenizer is of no use here.
    if let Some(error) = RefusedParts::of(checkpoint.description()).tokenizer {
        return Err(error);
    }
    pack_to_memory(&checkpoint, &PackOptions::default(), &mut |_, _| {})
}

/// Where the result is.
#[unsafe(no_mangle)]
pub extern "C" fn result() -> *const u8 {
    with_result(<[u8]>::as_ptr)
}

/// Bytes of the result.
#[unsafe(no_mangle)]
pub extern "C" fn result_bytes() -> usize {
    with_result(<[u8]>::len)
}

fn with_result<T>(look: impl FnOnce(&[u8]) -> T) -> T {
    match &*RESULT.lock().unwrap() {
        Ok(image) => look(image.as_deref().unwrap_or_default()),
        Err(text) => look(text.as_bytes()),
    }
}
