//! Images that are not in memory: opened and run through a window, against the same in memory.

use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::model::{Kv, Model, Scrub, Verify, WeightSource};
use pocketlm::run::{Digest, Plan, Session, Solo, Step};

use super::bytes::Bytes;
use super::image::{MOST_ARENA, edit, images, repair, u64_at};

/// An image on a device: every so many reads one fails.
struct Device<'i> {
    image: &'i [u8],
    failing: Option<u32>,
    reads: u32,
    /// How often work is called in the meantime.
    calls: u8,
}

impl WeightSource for Device<'_> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.reads += 1;
        let start = usize::try_from(offset).map_err(|_| Error::Storage)?;
        let end = start
            .checked_add(buffer.len())
            .filter(|_| self.failing.is_none_or(|n| !self.reads.is_multiple_of(n)));
        buffer.copy_from_slice(
            end.and_then(|end| self.image.get(start..end))
                .ok_or(Error::Storage)?,
        );
        Ok(())
    }

    fn read_while(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
        work: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        let read = self.read(offset, buffer);
        (0..self.calls).for_each(|_| work());
        read
    }
}

/// Vouches for an image if all of it came, in order, and it is to be vouched for.
struct Vouched<'i> {
    rest: &'i [u8],
    good: bool,
}

impl Verify for Vouched<'_> {
    fn update(&mut self, bytes: &[u8]) {
        match self.rest.strip_prefix(bytes) {
            Some(rest) => self.rest = rest,
            None => self.good = false,
        }
    }

    fn verify(&mut self) -> bool {
        self.good && self.rest.is_empty()
    }
}

/// An image, how it is read, when reads fail, the memory that is lent (in units of 64 bytes); then
/// edits, as in `edits`.
pub fn source(data: &[u8]) {
    let mut choices = Bytes(data);
    let images = images();
    let mut image = AlignedBytes::copy_of(&images[choices.below(images.len())]);
    let how = choices.byte();
    let failing = choices.byte();
    let resident = choices.byte();
    let scratch = choices.byte();
    let window = choices.byte();
    while !choices.is_empty() {
        edit(&mut image, &mut choices);
    }
    if how & 1 == 0 {
        repair(&mut image);
    }
    let vouched = || Vouched {
        rest: &image,
        good: how & 2 == 0,
    };
    let mapped = Model::open_verified(&image, &mut vouched());
    if how & 2 != 0 {
        assert_eq!(mapped.err(), Some(Error::Unverified));
    }
    // 0: as much as it takes.
    let lent = |units: u8, enough: usize| {
        AlignedBytes::zeroed(if units == 0 {
            enough
        } else {
            64 * units as usize
        })
    };
    let mut resident = lent(resident, image.len() + 256);
    let mut scratch = lent(scratch, 4096);
    let failing = Some(u32::from(failing)).filter(|&n| n > 1);
    let mut device = Device {
        image: &image,
        failing,
        reads: 0,
        calls: how >> 2 & 3,
    };
    let read = match how & 16 {
        0 if how & 2 == 0 => Model::open_from(&mut device, &mut resident, &mut scratch),
        _ => Model::open_verified_from(&mut device, &mut resident, &mut scratch, &mut vouched()),
    };
    match &read {
        Err(Error::Storage | Error::ArenaTooSmall { .. } | Error::WeightBufferTooSmall { .. }) => {}
        // A device has no length of its own: it is as long as the image says.
        Err(_) if u64_at(&image, 16) != image.len() as u64 => assert!(mapped.is_err()),
        // Without a table of sections, the image is not shown to the verifier.
        Err(_) if how & 2 != 0 => {}
        Err(error) => assert_eq!(mapped.err(), Some(*error)),
        Ok(model) => assert_eq!(mapped.map(|mapped| mapped.checksum()), Ok(model.checksum())),
    }
    let (Ok(model), Ok(mapped)) = (read, mapped) else {
        return;
    };
    for model in [model, mapped] {
        let mut scrub = Scrub::new(&model);
        while !scrub
            .step(100 + window as usize)
            .expect("nothing has changed")
        {}
    }
    let kv = Kv::ALL[model.checksum() as usize % Kv::ALL.len()];
    let plan = Plan::new(model.header()).context(6).batch(3).kv(kv);
    let window = if window == 0 {
        16384
    } else {
        64 * window as usize
    };
    if plan.weight_buffer(window).bytes() > MOST_ARENA {
        return;
    }
    let ids: [u32; 5] = std::array::from_fn(|i| (i as u32 * 5 + 1) % model.config().vocab_size);
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    let mut session = Session::new(&mapped, &plan, &mut arena, &Solo).unwrap();
    let mut digest = Digest::new();
    digest.update(session.feed(&ids).unwrap());

    let plan = plan.weight_buffer(window);
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    arena.fill(0xff);
    let mut session = match Session::with_source(&model, &plan, &mut arena, &Solo, &mut device) {
        Err(error) => return assert!(matches!(error, Error::WeightBufferTooSmall { .. })),
        Ok(session) => session,
    };
    session.start(&ids).unwrap();
    for _ in 0..100_000 {
        match session.step(300) {
            Ok(Step::Done(logits)) => {
                let mut other = Digest::new();
                other.update(logits);
                return assert_eq!(other.value(), digest.value());
            }
            Ok(Step::Pending) => {}
            Err(error) => assert_eq!(error, Error::Storage),
        }
    }
    panic!("no end");
}
