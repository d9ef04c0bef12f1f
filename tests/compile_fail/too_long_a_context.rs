//! error: a context of 4294967295 tokens takes 4501125800064 bytes of RAM, and there are 65536; a
//! shorter context
use pocketlm::run::Plan;

const IMAGE: &[u8] = pocketlm::include_image!(env!("STORY"));
const PLAN: Plan = Plan::of(IMAGE).context(u32::MAX).within(64 * 1024);

fn main() {
    println!("{}", PLAN.bytes());
}
