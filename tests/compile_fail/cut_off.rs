//! error: the image has 1000000 bytes and should have 1491392; copy it again
use pocketlm::run::Plan;

const IMAGE: &[u8] = pocketlm::include_image!(env!("STORY"));
const PLAN: Plan = Plan::of(IMAGE.split_at(1_000_000).0);

fn main() {
    println!("{}", PLAN.bytes());
}
