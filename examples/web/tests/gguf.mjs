// A small GGUF file: a Llama of one layer whose tokens are bytes. ggml's docs/gguf.md describes the
// format.

const number = (value, bytes = 4) => {
  const buffer = Buffer.alloc(bytes);
  if (bytes === 8) buffer.writeBigUInt64LE(BigInt(value));
  else buffer.writeUInt32LE(value);
  return buffer;
};
const float = (value) => Buffer.from(Float32Array.of(value).buffer);
const string = (text) => Buffer.concat([number(Buffer.byteLength(text), 8), Buffer.from(text)]);
const key = (name, type, value) => Buffer.concat([string(name), number(type), value]);
const list = (name, type, values) =>
  key(name, 9, Buffer.concat([number(type), number(values.length, 8), ...values]));

const TOKENS = ["<unk>", "<s>", "</s>"];
for (let byte = 0; byte < 256; byte += 1) {
  TOKENS.push(`<0x${byte.toString(16).padStart(2, "0").toUpperCase()}>`);
}

const KEYS = [
  key("general.architecture", 8, string("llama")),
  key("llama.context_length", 4, number(64)),
  key("llama.embedding_length", 4, number(32)),
  key("llama.block_count", 4, number(1)),
  key("llama.feed_forward_length", 4, number(64)),
  key("llama.attention.head_count", 4, number(2)),
  key("llama.attention.head_count_kv", 4, number(1)),
  key("llama.attention.layer_norm_rms_epsilon", 6, float(1e-5)),
  key("tokenizer.ggml.model", 8, string("llama")),
  list("tokenizer.ggml.tokens", 8, TOKENS.map(string)),
  list("tokenizer.ggml.scores", 6, TOKENS.map(() => float(0))),
  // Unknown, control, control, then bytes.
  list("tokenizer.ggml.token_type", 5, TOKENS.map((_, id) => number([2, 3, 3][id] ?? 6))),
  key("tokenizer.ggml.bos_token_id", 4, number(1)),
  key("tokenizer.ggml.eos_token_id", 4, number(2)),
];

const SHAPES = {
  "token_embd.weight": [32, TOKENS.length],
  "output_norm.weight": [32],
  "blk.0.attn_norm.weight": [32],
  "blk.0.attn_q.weight": [32, 32],
  "blk.0.attn_k.weight": [32, 16],
  "blk.0.attn_v.weight": [32, 16],
  "blk.0.attn_output.weight": [32, 32],
  "blk.0.ffn_norm.weight": [32],
  "blk.0.ffn_gate.weight": [32, 64],
  "blk.0.ffn_up.weight": [32, 64],
  "blk.0.ffn_down.weight": [64, 32],
};

/** The file: all tensors in f32. */
export function gguf() {
  const tables = [];
  const data = [];
  let offset = 0;
  for (const [name, shape] of Object.entries(SHAPES)) {
    tables.push(string(name), number(shape.length), ...shape.map((n) => number(n, 8)));
    tables.push(number(0), number(offset, 8));
    const count = shape.reduce((product, n) => product * n, 1);
    // Exact in f32, so that the file is the same everywhere.
    const values = Float32Array.from({ length: count }, (_, at) => ((at * 37) % 61) / 64 - 0.5);
    data.push(Buffer.from(values.buffer));
    offset += 4 * count;
  }
  const counts = [number(Object.keys(SHAPES).length, 8), number(KEYS.length, 8)];
  const head = Buffer.concat([Buffer.from("GGUF"), number(3), ...counts, ...KEYS, ...tables]);
  return Buffer.concat([head, Buffer.alloc(-head.length & 31), ...data]);
}
