//! Weights that are not in memory, and cores that share the work: functions of the caller.

use core::ffi::c_void;

#[cfg(feature = "source")]
use pocketlm::Error;
#[cfg(feature = "source")]
use pocketlm::model::{Model, WeightSource};
use pocketlm_kernels::Workers;

#[cfg(feature = "source")]
use crate::model::Check;
use crate::model::{plm_model, plm_verify};
use crate::status::{Fault, PLM_ERROR_NULL, code};
#[cfg(feature = "source")]
use crate::{handle, memory};

/// Where weights are read from: external flash without a memory-mapped window, an SD card, a file.
/// The structure is copied; what `context` points to must stay. The functions are called on the
/// thread that calls `plm_open_from` or computes with the session.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct plm_source {
    /// Fills `buffer` with `bytes` bytes of the image from `offset` on, a multiple of 4. Returns 0,
    /// or any other number if it cannot. What turns out to be no image may have been asked for from
    /// any offset. Not NULL.
    pub read: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            offset: u64,
            buffer: *mut c_void,
            bytes: usize,
        ) -> i32,
    >,
    /// The same, and calls `work(argument)` once while the bytes are on their way: starts a
    /// transfer, calls `work`, waits for the end of the transfer. NULL if there is no such thing.
    pub read_while: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            offset: u64,
            buffer: *mut c_void,
            bytes: usize,
            work: Option<unsafe extern "C" fn(argument: *mut c_void)>,
            argument: *mut c_void,
        ) -> i32,
    >,
    /// Given to both.
    pub context: *mut c_void,
}

/// Cores or threads that share the work. The structure is copied; what `context` points to must
/// stay. On cores without compare-and-swap (Armv6-M) the calling core computes alone.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct plm_workers {
    /// Calls `job(argument)` at least once, on as many cores as there are, and returns when all
    /// calls have returned. Each call takes what work is left, so that one call does it all. `job`
    /// may run on any thread, and on several at the same time. Not NULL.
    pub run: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            job: Option<unsafe extern "C" fn(argument: *mut c_void)>,
            argument: *mut c_void,
        ),
    >,
    /// Given to `run`.
    pub context: *mut c_void,
    /// How many cores that are: 1 or more. It changes no bit of the result.
    pub count: u32,
}

/// The caller's cores.
pub struct Cores(pub plm_workers);

// SAFETY: the header asks for functions and a context that any thread may use.
unsafe impl Sync for Cores {}

impl Workers for Cores {
    fn run(&self, job: &(dyn Fn() + Sync)) {
        unsafe extern "C" fn call(argument: *mut c_void) {
            // SAFETY: `run` below gives the address of a job, which lives until `run` returns.
            unsafe { (*argument.cast::<&(dyn Fn() + Sync)>())() }
        }
        let argument = (&raw const job).cast_mut().cast();
        if let Some(run) = self.0.run {
            // SAFETY: the header says what the function must do.
            unsafe { run(self.0.context, Some(call), argument) }
        }
    }

    fn count(&self) -> usize {
        self.0.count as usize
    }
}

/// The caller's device.
#[cfg(feature = "source")]
pub struct Device(pub plm_source);

// SAFETY: the header asks for a context that the thread of the session may use.
#[cfg(feature = "source")]
unsafe impl Send for Device {}

#[cfg(feature = "source")]
impl WeightSource for Device {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let read = self.0.read.ok_or(Error::Storage)?;
        let (to, bytes) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the header says what the function must do.
        match unsafe { read(self.0.context, offset, to, bytes) } {
            0 => Ok(()),
            _ => Err(Error::Storage),
        }
    }

    fn read_while(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
        work: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        unsafe extern "C" fn call(argument: *mut c_void) {
            // SAFETY: the address of the work, which lives until `read_while` returns.
            unsafe { (*argument.cast::<&mut dyn FnMut()>())() }
        }
        let Some(read) = self.0.read_while else {
            work();
            return self.read(offset, buffer);
        };
        let mut work = work;
        let argument = (&raw mut work).cast();
        let (to, bytes) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the header says what the function must do.
        match unsafe { read(self.0.context, offset, to, bytes, Some(call), argument) } {
            0 => Ok(()),
            _ => Err(Error::Storage),
        }
    }
}

/// Opens an image whose weights stay where they are. All the rest of it is read into `resident`,
/// which starts at a multiple of 64, has `resident_bytes` bytes (`PLM_RESIDENT_BYTES` of the header
/// that `pocketlm plan --c-header` writes), and is used as long as the model is. The weights are
/// read once, through `scratch`, which starts at a multiple of 64; an arena will do, before a
/// session has it.
///
/// The library must be built with the feature `source`.
///
/// Errors: those of `plm_open`; `PLM_ERROR_ARENA_TOO_SMALL` for `resident`,
/// `PLM_ERROR_WEIGHT_BUFFER_TOO_SMALL` for `scratch`; `PLM_ERROR_STORAGE`; `PLM_ERROR_OVERLAP`;
/// `PLM_ERROR_NO_SOURCE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_open_from(
    model: *mut plm_model,
    source: *const plm_source,
    resident: *mut c_void,
    resident_bytes: usize,
    scratch: *mut c_void,
    scratch_bytes: usize,
) -> i32 {
    let buffers = (
        (resident.cast(), resident_bytes),
        (scratch.cast(), scratch_bytes),
    );
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { open_from(model, source, buffers, None) })
}

/// `plm_open_from` for a signed image: `verify` sees all bytes of the image before anything in them
/// is used. What is resident stays as `verify` saw it. The weights are read again for every token,
/// so a device that can be exchanged can return others later.
///
/// Errors: those of `plm_open_from`, and `PLM_ERROR_UNVERIFIED` if `verify` refuses the image.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plm_open_verified_from(
    model: *mut plm_model,
    source: *const plm_source,
    resident: *mut c_void,
    resident_bytes: usize,
    scratch: *mut c_void,
    scratch_bytes: usize,
    verify: *const plm_verify,
) -> i32 {
    let buffers = (
        (resident.cast(), resident_bytes),
        (scratch.cast(), scratch_bytes),
    );
    // SAFETY: the caller's promise, which the header states.
    code(unsafe { open_from(model, source, buffers, Some(verify)) })
}

/// Memory, and how many bytes it has.
type Buffer = (*mut u8, usize);

#[cfg(not(feature = "source"))]
unsafe fn open_from(
    _: *mut plm_model,
    _: *const plm_source,
    _: (Buffer, Buffer),
    _: Option<*const plm_verify>,
) -> Result<(), Fault> {
    Err(Fault::of(crate::status::PLM_ERROR_NO_SOURCE))
}

#[cfg(feature = "source")]
unsafe fn open_from(
    model: *mut plm_model,
    source: *const plm_source,
    ((resident, resident_bytes), (scratch, scratch_bytes)): (Buffer, Buffer),
    verify: Option<*const plm_verify>,
) -> Result<(), Fault> {
    memory::must_be_apart(&[
        memory::buffer(model, 1),
        memory::buffer(resident, resident_bytes),
        memory::buffer(scratch, scratch_bytes),
    ])?;
    // SAFETY: the caller's promise.
    unsafe {
        let mut device = Device(readable(memory::value(source)?)?);
        let check = verify.map(|verify| Check::of(memory::value(verify)?));
        let check = check.transpose()?;
        let resident: &'static mut [u8] = memory::values_mut(resident, resident_bytes)?;
        let scratch = memory::values_mut(scratch, scratch_bytes)?;
        handle::create(model, |place| {
            place.write(match check {
                Some(mut check) => {
                    Model::open_verified_from(&mut device, resident, scratch, &mut check)?
                }
                None => Model::open_from(&mut device, resident, scratch)?,
            });
            Ok(())
        })
    }
}

/// A source that can be read.
#[cfg(feature = "source")]
pub fn readable(source: &plm_source) -> Result<plm_source, Fault> {
    if source.read.is_none() {
        return Err(Fault::of(PLM_ERROR_NULL));
    }
    Ok(*source)
}

/// Cores that can be given work.
pub fn runnable(workers: &plm_workers) -> Result<plm_workers, Fault> {
    if workers.run.is_none() {
        return Err(Fault::of(PLM_ERROR_NULL));
    }
    Ok(*workers)
}
