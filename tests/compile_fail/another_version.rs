//! error: the image has version 7 of the format, this pocketlm reads version 1; pack it again
use pocketlm::run::Plan;

const PLAN: Plan = Plan::of(b"pocketlm\x07\0\0\0");

fn main() {
    println!("{}", PLAN.bytes());
}
