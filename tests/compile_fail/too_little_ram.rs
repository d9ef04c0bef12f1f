//! error: a context of 256 tokens takes 342144 bytes of RAM, and there are 65536; a shorter
//! context, a smaller batch or `Kv::Q8` needs less
use pocketlm::run::{Plan, StaticArena};

const IMAGE: &[u8] = pocketlm::include_image!(env!("STORY"));
const PLAN: Plan = Plan::of(IMAGE).context(256).within(64 * 1024);
static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();

fn main() {
    ARENA.take();
}
