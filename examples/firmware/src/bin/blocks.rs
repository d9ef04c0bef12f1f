#![no_std]
#![no_main]
//! Runs images whose weights are never in memory: they come from a device that is read in blocks of
//! 512 bytes, as an SD card is, through a buffer of 16 KB in the arena. Here the flash partition
//! plays the device.

use embedded_storage::nor_flash::{ErrorType, NorFlashErrorKind, ReadNorFlash, check_read};
use pocketlm::Error;
use pocketlm::model::{Kv, Model};
use pocketlm::run::{Digest, FlashImage, Plan, Session, Solo, Step};
use pocketlm_firmware::board::{self, eprintln, println};
use pocketlm_firmware::report::largest;
use pocketlm_firmware::sequence::{BUDGET, tokens};

const ARENA_BYTES: usize = 1 << 20;
/// Of those, for what of an image is in memory: the tokenizer more than anything.
const RESIDENT_BYTES: usize = 64 * 1024;
const WEIGHT_BUFFER: usize = 16 * 1024;

pocketlm_firmware::entry!(check, ARENA_BYTES);

struct Card(&'static [u8]);

impl ErrorType for Card {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Card {
    const READ_SIZE: usize = 512;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        let rest = self
            .0
            .get(offset as usize..)
            .ok_or(NorFlashErrorKind::OutOfBounds)?;
        bytes.copy_from_slice(
            rest.get(..bytes.len())
                .ok_or(NorFlashErrorKind::OutOfBounds)?,
        );
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.0.len()
    }
}

fn check(arena: &'static mut [u8]) -> bool {
    let device = board::partition();
    let mut start = 0;
    while device
        .get(start..)
        .is_some_and(|rest| rest.starts_with(b"pocketlm"))
    {
        match run(FlashImage::new(Card(device), start as u32), arena) {
            Ok(()) => {}
            Err(error) => {
                eprintln!("error: {error}");
                return false;
            }
        }
        let length = device
            .get(start + 16..start + 24)
            .and_then(|bytes| bytes.try_into().ok());
        start += length.map_or(0, u64::from_le_bytes) as usize;
    }
    true
}

fn run(mut card: FlashImage<Card>, memory: &mut [u8]) -> Result<(), Error> {
    let (resident, arena) = memory.split_at_mut(RESIDENT_BYTES);
    let model = Model::open_from(&mut card, resident, arena)?;
    println!("image {:08x}", model.checksum());
    let tokens = tokens(model.config().vocab_size);
    for kv in Kv::ALL {
        let name = kv.dtype().name();
        let plan = largest(Plan::new(model.header()))
            .kv(kv)
            .weight_buffer(WEIGHT_BUFFER);
        let mut session = Session::with_source(&model, &plan, arena, &Solo, &mut card)?;
        session.feed_each(&tokens, |index, logits| {
            let mut digest = Digest::new();
            digest.update(logits);
            println!("logits {name} {index} {:016x}", digest.value());
        })?;
        session.reset();
        session.start(&tokens)?;
        let mut digest = Digest::new();
        while let Step::Pending = session.step(BUDGET).map(|step| {
            if let Step::Done(logits) = &step {
                digest.update(logits);
            }
            step
        })? {}
        println!("sliced {name} {:016x}", digest.value());
    }
    Ok(())
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
