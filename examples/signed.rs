//! An image that is used only if it is signed: Ed25519 over all of its bytes, the signature beside them.
//!
//! `cargo run --example signed`
//!
//! A device holds the public key alone. It checks before anything in the image is read, in place and without a copy:
//! `ed25519-compact` is `no_std` and hashes the image where it lies, in flash or mapped.

use ed25519_compact::{KeyPair, PublicKey, Seed, Signature};
use pocketlm::Error;
use pocketlm::model::Model;

static STORY: &[u8] = pocketlm::include_image!("../src/bin/pocketlm/story/story.plm");

/// What a device does at start.
fn open<'m>(image: &'m [u8], signature: &[u8], key: &PublicKey) -> Result<Model<'m>, Error> {
    Model::open_verified(image, |bytes| {
        Signature::from_slice(signature).is_ok_and(|signature| key.verify(bytes, &signature).is_ok())
    })
}

fn main() -> Result<(), Error> {
    // What a release does, where the secret key is kept; a real one comes from a generator, not from a text.
    let keys = KeyPair::from_seed(Seed::new(*b"not a secret: an example's seed!"));
    let signature = keys.sk.sign(STORY, None);

    let model = open(STORY, &*signature, &keys.pk)?;
    println!("signed: a model of {} layers", model.config().num_decoder_blocks);

    // Whoever repairs the checksums of a changed image still has no signature for it.
    let mut forged = pocketlm::model::Aligned([0; 64]);
    forged.0.copy_from_slice(&STORY[..64]);
    assert_eq!(open(&forged.0, &*signature, &keys.pk).err(), Some(Error::Unverified));
    let stranger = KeyPair::from_seed(Seed::new([7; 32]));
    assert_eq!(open(STORY, &*stranger.sk.sign(STORY, None), &keys.pk).err(), Some(Error::Unverified));
    println!("forged: refused");
    Ok(())
}
