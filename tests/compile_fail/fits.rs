//! What the others do wrong, right: this one compiles.
use pocketlm::model::Kv;
use pocketlm::run::{Plan, StaticArena};

const IMAGE: &[u8] = pocketlm::include_image!(env!("STORY"));
const PLAN: Plan = Plan::of(IMAGE).context(256).kv(Kv::Q8).within(128 * 1024);
static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();

fn main() {
    ARENA.take();
}
