//! An image that is used only if it is signed: Ed25519 over all of its bytes, the signature beside
//! them.
//!
//! `cargo run --example signed`
//!
//! A device holds the public key alone. It checks before anything in the image is read:
//! `ed25519-compact` is `no_std` and takes the image in pieces, where it lies in flash or mapped,
//! or as it comes from a card (`Model::open_verified_from`).

use ed25519_compact::{KeyPair, PublicKey, Seed, Signature, VerifyingState};
use pocketlm::Error;
use pocketlm::model::{Model, Verify};

static STORY: &[u8] = pocketlm::include_image!("../src/bin/pocketlm/story/story.plm");

/// A check that is under way.
struct Ed25519(VerifyingState);

impl Verify for Ed25519 {
    fn update(&mut self, bytes: &[u8]) {
        self.0.absorb(bytes);
    }

    fn verify(&mut self) -> bool {
        self.0.verify().is_ok()
    }
}

/// What a device does at start.
fn open<'m>(image: &'m [u8], signature: &[u8], key: &PublicKey) -> Result<Model<'m>, Error> {
    let signature = Signature::from_slice(signature).map_err(|_| Error::Unverified)?;
    let check = key
        .verify_incremental(&signature)
        .map_err(|_| Error::Unverified)?;
    Model::open_verified(image, &mut Ed25519(check))
}

fn main() -> Result<(), Error> {
    // What a release does, where the secret key is kept; a real one comes from a generator, not
    // from a text.
    let keys = KeyPair::from_seed(Seed::new(*b"not a secret: an example's seed!"));
    let signature = keys.sk.sign(STORY, None);

    let model = open(STORY, &*signature, &keys.pk)?;
    println!(
        "signed: a model of {} layers",
        model.config().num_decoder_blocks
    );

    // Whoever repairs the checksums of a changed image still has no signature for it.
    let mut forged = pocketlm::model::Aligned([0; 64]);
    forged.0.copy_from_slice(&STORY[..64]);
    assert_eq!(
        open(&forged.0, &*signature, &keys.pk).err(),
        Some(Error::Unverified)
    );
    let stranger = KeyPair::from_seed(Seed::new([7; 32]));
    assert_eq!(
        open(STORY, &*stranger.sk.sign(STORY, None), &keys.pk).err(),
        Some(Error::Unverified)
    );
    println!("forged: refused");
    Ok(())
}
