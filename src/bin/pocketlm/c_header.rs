//! The C header of `pocketlm plan`: what one image needs, as constants.

use std::fmt::Write;
use std::path::Path;

use pocketlm::model::{ALIGNMENT, Kv, Model};
use pocketlm::run::Plan;

/// The first bytes of every such header.
pub const START: &str = "/* pocketlm plan: ";

/// The header of the image that `path` names, by which the user knows it.
pub fn header(path: &Path, image: &[u8], model: &Model, plan: &Plan) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!(
        "{START}{}\n * Written by `pocketlm plan --c-header`: do not edit. */\n\
         #ifndef PLM_IMAGE_CHECKSUM\n",
        // The name of a file must not end the comment.
        name.replace("*/", "* /")
    );
    text.push_str("\n/* The image: plm_open_expected refuses any other. */\n");
    let checksum = model.checksum();
    text.push_str(&format!("#define PLM_IMAGE_CHECKSUM 0x{checksum:08x}u\n"));
    define(&mut text, "IMAGE_BYTES", image.len() as u64);
    define(&mut text, "IMAGE_ALIGNMENT", ALIGNMENT as u64);
    let resident = model.header().resident_bytes();
    define(&mut text, "RESIDENT_BYTES", resident as u64);
    define(&mut text, "VOCAB_SIZE", model.config().vocab_size.into());
    text.push_str("\n/* The session. */\n");
    define(&mut text, "CONTEXT", plan.context_tokens().into());
    define(&mut text, "BATCH", plan.batch_tokens().into());
    text.push_str(&format!("#define PLM_KV {}\n", kv_name(plan.kv_type())));
    text.push_str("#define PLM_LIMITS {PLM_CONTEXT, PLM_BATCH, PLM_KV, 0}\n");
    define(&mut text, "ARENA_BYTES", plan.bytes() as u64);
    define(&mut text, "ARENA_ALIGNMENT", ALIGNMENT as u64);
    text.push_str(&sizes(plan));
    text.push_str("\n#endif\n");
    text
}

/// The plan's numbers, for `plm_session_init_sized`.
fn sizes(plan: &Plan) -> String {
    let parts = plan.parts().map(|part| part.bytes.to_string()).join(", ");
    let buffers = plan.buffers().iter();
    let buffers: Vec<_> = buffers
        .map(|[start, end]| format!("{{{start}, {end}}}"))
        .collect();
    let rows: Vec<_> = buffers.chunks(5).map(|row| row.join(", ")).collect();
    format!(
        "#define PLM_SIZES \\\n    {{PLM_IMAGE_CHECKSUM, PLM_LIMITS, \\\n     \
         {{{parts}}}, \\\n     \
         {{{}}}}}\n",
        rows.join(", \\\n      ")
    )
}

fn define(text: &mut String, name: &str, value: u64) {
    let suffix = if value > u32::MAX.into() { "ull" } else { "u" };
    writeln!(text, "#define PLM_{name} {value}{suffix}").expect("a String takes any text");
}

fn kv_name(kv: Kv) -> &'static str {
    match kv {
        Kv::F32 => "PLM_KV_F32",
        Kv::F16 => "PLM_KV_F16",
        Kv::Bf16 => "PLM_KV_BF16",
        Kv::Q8 => "PLM_KV_Q8",
    }
}
