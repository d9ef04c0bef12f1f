//! What is an image, and what memory does it need?

use core::ffi::c_void;

use pocketlm::model::{Kv, MAGIC, Model, Verify};
use pocketlm::run::{Plan, floats_are_ieee};

use crate::handle::{self, Handle};
use crate::memory;
use crate::status::{Fault, PLM_ERROR_NULL, PLM_ERROR_OTHER_IMAGE, PLM_ERROR_SETTING, code};

/// Keys and values are kept as they are computed.
pub const PLM_KV_F32: u32 = 0;
/// Keys and values are kept in binary16.
pub const PLM_KV_F16: u32 = 1;
/// Keys and values are kept in bfloat16.
pub const PLM_KV_BF16: u32 = 2;
/// Keys and values are kept in 8 bits.
pub const PLM_KV_Q8: u32 = 3;

/// Words of 8 bytes of a `plm_model`.
#[cfg(target_pointer_width = "32")]
pub const PLM_MODEL_WORDS: usize = 41;
/// Words of 8 bytes of a `plm_model`.
#[cfg(target_pointer_width = "64")]
pub const PLM_MODEL_WORDS: usize = 51;
/// Bytes of a `plm_model`.
pub const PLM_MODEL_BYTES: usize = PLM_MODEL_WORDS * 8;

/// An opened image. It holds no copy of the image, which must stay where it is for as long as the
/// model, or anything made from the model, is used. Sessions and tokenizers copy what they need of
/// the model: once they are made, its own memory may have another use.
///
/// Threads: once open, any number of threads may use it at the same time.
#[repr(C)]
pub struct plm_model {
    opaque: [u64; PLM_MODEL_WORDS],
}

// What C takes for the sizes. `handle::create` sees to it that the values fit.
const _: () = assert!(size_of::<plm_model>() == PLM_MODEL_BYTES);

impl Handle for plm_model {
    type Value = Model<'static>;
    const KIND: usize = 0x1111_1111;
}

/// What a session has to hold.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct plm_limits {
    /// Tokens of the context: 1 or more.
    pub context: u32,
    /// Tokens of a prompt that are computed together: 1 or more. More is faster and needs more
    /// memory; 1 to 8 are good on a microcontroller.
    pub batch: u32,
    /// The type of keys and values: `PLM_KV_F32`, `PLM_KV_F16`, `PLM_KV_BF16` or `PLM_KV_Q8`.
    pub kv: u32,
    /// Bytes of the buffer for weights that are not in memory. 0 if they are, and in a library
    /// without the feature `source`.
    pub weight_buffer: usize,
}

/// Parts of an arena.
pub const PLM_PARTS: usize = 9;
/// Buffers in a part of an arena.
pub const PLM_BUFFERS: usize = 15;

/// A plan as numbers, for an image whose weights are in memory: `PLM_SIZES` of the header that
/// `pocketlm plan --c-header` writes. `plm_session_init_sized` takes it, so that a device need not
/// compute the plan.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct plm_sizes {
    /// The checksum of the image's header.
    pub checksum: u32,
    /// What the session has to hold.
    pub limits: plm_limits,
    /// Bytes of the parts of the arena.
    pub parts: [usize; PLM_PARTS],
    /// Where the buffers in them start and end.
    pub buffers: [[usize; 2]; PLM_BUFFERS],
}

/// What an image says of itself.
#[repr(C)]
pub struct plm_model_info {
    /// The checksum of the image's header, which covers the checksums of all its parts.
    pub checksum: u32,
    /// Tokens of the vocabulary: a session has as many logits.
    pub vocab_size: u32,
    /// The context length that the model was trained with; 0 if the checkpoint did not say.
    pub trained_context: u32,
    /// Layers.
    pub layers: u32,
}

/// What the arena of a session is used for: bytes of its parts, in their order, each padded to a
/// multiple of 64.
#[repr(C)]
pub struct plm_arena_parts {
    /// The ids and positions of the context's tokens.
    pub tokens: usize,
    /// The residual stream of a batch.
    pub hidden: usize,
    /// What goes into the branches of a layer, and what comes back.
    pub branch: usize,
    /// Attention's queries and scores, or what the feed-forward computes: whichever is more.
    pub scratch: usize,
    /// The logits.
    pub logits: usize,
    /// Inputs of quantised matrices.
    pub groups: usize,
    /// The cosines and sines of a batch.
    pub rope: usize,
    /// Weights that are not in memory.
    pub weights: usize,
    /// Keys and values, and what convolutions keep.
    pub cache: usize,
}

/// A check of a signature over all bytes of an image. The scheme, the key and the place of the
/// signature are the caller's. The structure is read during the call that it is given to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct plm_verify {
    /// Takes the next bytes of the image, from the first to the last, in pieces of any size. Not
    /// NULL.
    pub update:
        Option<unsafe extern "C" fn(context: *mut c_void, data: *const c_void, bytes: usize)>,
    /// Returns 0 if the image may be used. Called once, after its last byte. Not NULL.
    pub verify: Option<unsafe extern "C" fn(context: *mut c_void) -> i32>,
    /// Given to both.
    pub context: *mut c_void,
}

/// The caller's check.
pub struct Check {
    update: unsafe extern "C" fn(context: *mut c_void, data: *const c_void, bytes: usize),
    verify: unsafe extern "C" fn(context: *mut c_void) -> i32,
    context: *mut c_void,
}

impl Check {
    /// A check whose functions are there.
    pub fn of(check: &plm_verify) -> Result<Check, Fault> {
        let (Some(update), Some(verify)) = (check.update, check.verify) else {
            return Err(Fault::of(PLM_ERROR_NULL));
        };
        Ok(Check {
            update,
            verify,
            context: check.context,
        })
    }
}

impl Verify for Check {
    fn update(&mut self, bytes: &[u8]) {
        // SAFETY: the header says what the function must do.
        unsafe { (self.update)(self.context, bytes.as_ptr().cast(), bytes.len()) }
    }

    fn verify(&mut self) -> bool {
        // SAFETY: the header says what the function must do.
        unsafe { (self.verify)(self.context) == 0 }
    }
}

impl plm_limits {
    fn kv(&self) -> Result<Kv, Fault> {
        Ok(match self.kv {
            PLM_KV_F32 => Kv::F32,
            PLM_KV_F16 => Kv::F16,
            PLM_KV_BF16 => Kv::Bf16,
            PLM_KV_Q8 => Kv::Q8,
            _ => return Err(Fault::of(PLM_ERROR_SETTING)),
        })
    }

    /// The plan of a session of `model`.
    pub fn plan(&self, model: &Model<'static>) -> Result<Plan<'static>, Fault> {
        let plan = Plan::new(model.header());
        let plan = plan.context(self.context).batch(self.batch).kv(self.kv()?);
        #[cfg(feature = "source")]
        let plan = plan.weight_buffer(self.weight_buffer);
        #[cfg(not(feature = "source"))]
        if self.weight_buffer > 0 {
            return Err(Fault::of(crate::status::PLM_ERROR_NO_SOURCE));
        }
        Ok(plan)
    }
}

impl plm_sizes {
    /// The plan of a session of `model`.
    pub fn plan(&self, model: &Model<'static>) -> Result<Plan<'static>, Fault> {
        let limits = [self.limits.context, self.limits.batch];
        let numbers = (&self.parts, &self.buffers);
        let kv = self.limits.kv()?;
        Ok(Plan::of_sizes(
            model.header(),
            self.checksum,
            limits,
            kv,
            numbers,
        ))
    }
}

/// Opens an image in memory and checks all of it: this reads every byte of it. After that the image
/// is trusted.
///
/// `model` is what is opened. `image` starts at a multiple of 64 and has `bytes` bytes, which do
/// not change while the model is used.
///
/// Errors: 100 to 110, `PLM_ERROR_OVERLAP`, `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED` (`model`),
/// `PLM_ERROR_LENGTH`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_open(
    model: *mut plm_model,
    image: *const c_void,
    bytes: usize,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { open(model, image, bytes, None) })
}

/// The same for one image alone: any other is refused before it is read. `checksum` is
/// `PLM_IMAGE_CHECKSUM` of the header that `pocketlm plan --c-header` writes. So the sizes in that
/// header are right for this image.
///
/// Errors: those of `plm_open`, and `PLM_ERROR_OTHER_IMAGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_open_expected(
    model: *mut plm_model,
    image: *const c_void,
    bytes: usize,
    checksum: u32,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { open(model, image, bytes, Some(checksum)) })
}

/// `plm_open` for a signed image: `verify` sees all bytes of the image before anything in them is
/// used.
///
/// Errors: those of `plm_open`, and `PLM_ERROR_UNVERIFIED` if `verify` refuses the image.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_open_verified(
    model: *mut plm_model,
    image: *const c_void,
    bytes: usize,
    verify: *const plm_verify,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { open_verified(model, (image.cast(), bytes), verify) })
}

unsafe fn open_verified(
    model: *mut plm_model,
    (image, bytes): (*const u8, usize),
    verify: *const plm_verify,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut check = Check::of(memory::value(verify)?)?;
        check.update(memory::values(image, bytes)?);
        if !check.verify() {
            return Err(pocketlm::Error::Unverified.into());
        }
        // Not `Model::open_verified`, which would have the code of `Model::open` a second time.
        open(model, image.cast(), bytes, None)
    }
}

#[inline(never)]
unsafe fn open(
    model: *mut plm_model,
    image: *const c_void,
    bytes: usize,
    checksum: Option<u32>,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let image: &'static [u8] = memory::values(image.cast(), bytes)?;
        memory::must_be_apart(&[
            memory::buffer(model, 1),
            memory::buffer(image.as_ptr(), bytes),
        ])?;
        handle::create(model, |place| {
            if let Some(expected) = checksum
                && image.starts_with(&MAGIC)
                && image.get(12..16) != Some(&expected.to_le_bytes())
            {
                return Err(Fault::of(PLM_ERROR_OTHER_IMAGE));
            }
            place.write(Model::open(image)?);
            Ok(())
        })
    }
}

/// Writes what an image says of itself to `info`.
///
/// Errors: `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`, `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_info(model: *const plm_model, info: *mut plm_model_info) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_info(model, info) })
}

unsafe fn write_info(model: *const plm_model, info: *mut plm_model_info) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let model = handle::shared(model)?;
        let config = model.config();
        memory::result(info)?(plm_model_info {
            checksum: model.checksum(),
            vocab_size: config.vocab_size,
            trained_context: config
                .max_position_embeddings
                .map_or(0, |tokens| tokens.get()),
            layers: config.num_decoder_blocks,
        });
    }
    Ok(())
}

/// Writes to `arena_bytes` how many bytes the arena of a session needs. It is what
/// `pocketlm plan --c-header` writes as `PLM_ARENA_BYTES` for the same limits.
///
/// Errors: `PLM_ERROR_LIMITS` if context or batch is 0 or no memory could hold this;
/// `PLM_ERROR_SETTING` for an unknown `kv`; `PLM_ERROR_NO_SOURCE` for a `weight_buffer` in a
/// library without the feature `source`; `PLM_ERROR_NULL`, `PLM_ERROR_MISALIGNED`,
/// `PLM_ERROR_HANDLE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_plan(
    model: *const plm_model,
    limits: *const plm_limits,
    arena_bytes: *mut usize,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_plan(model, limits, arena_bytes) })
}

unsafe fn write_plan(
    model: *const plm_model,
    limits: *const plm_limits,
    arena_bytes: *mut usize,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { memory::result(arena_bytes)?(possible(model, limits)?.bytes()) };
    Ok(())
}

/// Writes the parts of that arena to `parts`. Together they are `arena_bytes` of `plm_plan`.
///
/// Errors: those of `plm_plan`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_plan_parts(
    model: *const plm_model,
    limits: *const plm_limits,
    parts: *mut plm_arena_parts,
) -> i32 {
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { write_parts(model, limits, parts) })
}

unsafe fn write_parts(
    model: *const plm_model,
    limits: *const plm_limits,
    parts: *mut plm_arena_parts,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let found = possible(model, limits)?.parts().map(|part| part.bytes);
        let [
            tokens,
            hidden,
            branch,
            scratch,
            logits,
            groups,
            rope,
            weights,
            cache,
        ] = found;
        memory::result(parts)?(plm_arena_parts {
            tokens,
            hidden,
            branch,
            scratch,
            logits,
            groups,
            rope,
            weights,
            cache,
        });
    }
    Ok(())
}

/// The plan of a session that some memory can hold.
///
/// # Safety
/// What the pointers point to is there.
unsafe fn possible(
    model: *const plm_model,
    limits: *const plm_limits,
) -> Result<Plan<'static>, Fault> {
    // SAFETY: the caller's promise.
    unsafe {
        let limits = memory::value(limits)?;
        let plan = limits.plan(handle::shared(model)?)?;
        if limits.context == 0 || limits.batch == 0 || plan.bytes() == usize::MAX {
            return Err(pocketlm::Error::Limits.into());
        }
        Ok(plan)
    }
}

/// Whether `float` is computed as IEEE 754 asks. If not, the logits are not those of other
/// machines: some operating systems and some floating-point routines in ROM flush subnormal numbers
/// to zero. Call it once at the start, in the mode that the program computes in.
#[unsafe(no_mangle)]
pub extern "C" fn plm_floats_are_ieee() -> bool {
    floats_are_ieee()
}
