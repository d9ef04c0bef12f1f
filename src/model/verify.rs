//! [`Verify`]: images with a signature.

use super::Model;
use crate::Error;

/// Says whether an image may be used, once it has seen all of its bytes. A checksum finds damage, a
/// signature finds forgery; which scheme, which key and where the signature lies are the
/// application's (`examples/signed.rs` has one with Ed25519).
///
/// ```
/// use pocketlm::{Error, include_image, model::{Model, Verify}};
///
/// /// Stands for a signature: the sum of all bytes.
/// struct Sum(u64);
///
/// impl Verify for Sum {
///     fn update(&mut self, bytes: &[u8]) {
///         self.0 += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
///     }
///
///     fn verify(&mut self) -> bool {
///         self.0 == 0
///     }
/// }
///
/// let image = include_image!("../bin/pocketlm/story/story.plm");
/// assert_eq!(Model::open_verified(image, &mut Sum(0)).err(), Some(Error::Unverified));
/// ```
pub trait Verify {
    /// The next bytes of the image, from the first to the last, in pieces of any size.
    fn update(&mut self, bytes: &[u8]);

    /// Whether the image may be used. Called once, after its last byte.
    fn verify(&mut self) -> bool;
}

impl<'m> Model<'m> {
    /// [`open`](Model::open) with a check of the signature first: `verify` sees all bytes of the
    /// image before anything in them is used.
    ///
    /// # Errors
    /// [`Error::Unverified`] if `verify` refuses the image, and those of `open`.
    pub fn open_verified(image: &'m [u8], verify: &mut dyn Verify) -> Result<Model<'m>, Error> {
        verify.update(image);
        if verify.verify() {
            Model::open(image)
        } else {
            Err(Error::Unverified)
        }
    }
}
