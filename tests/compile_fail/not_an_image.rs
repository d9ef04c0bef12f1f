//! error: this is not an image; `pocketlm pack` makes one from a checkpoint
use pocketlm::run::Plan;

const PLAN: Plan = Plan::of(pocketlm::include_image!(env!("SOURCE")));

fn main() {
    println!("{}", PLAN.bytes());
}
