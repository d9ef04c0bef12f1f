//! libFuzzer over one target, named by `POCKETLM_FUZZ`. See `run`.
#![no_main]

use std::sync::OnceLock;

use pocketlm_fuzz::{TARGETS, Target};
use rayon::ThreadPoolBuilder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        // Packing shares its work in rayon: with the fuzzer's own thread as the only one nobody has
        // to be woken.
        ThreadPoolBuilder::new()
            .num_threads(1)
            .use_current_thread()
            .build_global()
            .unwrap();
        let name = std::env::var("POCKETLM_FUZZ").expect("POCKETLM_FUZZ names a target");
        TARGETS
            .iter()
            .find(|(other, _)| *other == name)
            .expect("there is such a target")
            .1
    });
    target(data);
});
