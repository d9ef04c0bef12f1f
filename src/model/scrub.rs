//! [`Scrub`]: looking for damage after an image was opened.

use super::{Model, Section, extend_crc32};
use crate::Error;

/// Compares the checksums of an opened image again and again, some bytes a call. So it notices when
/// flash or RAM has changed since [`Model::open`]. Damage that is not noticed changes only the
/// logits: a session never reads outside of its image and its arena, whatever they hold.
///
/// ```
/// use pocketlm::{include_image, model::{Model, Scrub}};
///
/// let model = Model::open(include_image!("../bin/pocketlm/story/story.plm"))?;
/// let mut scrub = Scrub::new(&model);
/// // Between two tokens, or when there is time:
/// while !scrub.step(4096)? {}
/// # Ok::<(), pocketlm::Error>(())
/// ```
#[derive(Clone, Copy)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Scrub<'m> {
    model: Model<'m>,
    section: usize,
    /// Bytes of the section that have been looked at, and their checksum.
    at: usize,
    crc: u32,
}

impl<'m> Scrub<'m> {
    /// At the start of the image.
    pub fn new(model: &Model<'m>) -> Self {
        Scrub {
            model: *model,
            section: 0,
            at: 0,
            crc: 0,
        }
    }

    /// Looks at up to `bytes` more bytes (64 at least). `true` once the whole image has been found
    /// to be as it was opened; the next call starts over. The header is not looked at: a model
    /// keeps a copy of what it says. Nor are weights that are not in memory (`Model::open_from`).
    ///
    /// [`Error::Checksum`] names a section that has changed; the next call starts over, too.
    pub fn step(&mut self, bytes: usize) -> Result<bool, Error> {
        let mut left = bytes.max(64);
        while left > 0 {
            let Some(&section) = Section::ALL.get(self.section) else {
                break;
            };
            let rest = self
                .model
                .header()
                .section(section)
                .get(self.at..)
                .unwrap_or_default();
            let (now, after) = rest.split_at_checked(left).unwrap_or((rest, &[]));
            self.crc = extend_crc32(self.crc, now);
            self.at += now.len();
            left -= now.len();
            if after.is_empty() {
                // Weights that are not in memory have no bytes here.
                let elsewhere = section == Section::Weights && self.at == 0;
                if self.crc != self.model.header().section_checksum(section) && !elsewhere {
                    *self = Scrub::new(&self.model);
                    return Err(Error::Checksum(section));
                }
                *self = Scrub {
                    section: self.section + 1,
                    ..Scrub::new(&self.model)
                };
            }
        }
        let whole = self.section >= Section::ALL.len();
        if whole {
            *self = Scrub::new(&self.model);
        }
        Ok(whole)
    }
}
