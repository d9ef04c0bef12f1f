"""Writes ggml_blocks.safetensors: for each element type of ggml that is read, random blocks and the f32 values they
stand for, as the `gguf` package (0.19.0, `pip install gguf safetensors`) decodes them. Its decoders do the operations
of ggml's reference `dequantize_row_*` in the same order, in f32, so that the values are expected bit for bit. The
package does not decode Q1_0 and Q2_0: they are decoded here, as `dequantize_row_q1_0` and `dequantize_row_q2_0` do it.

    python3 tests/data/ggml_blocks.py
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from safetensors.numpy import save_file

# Where the f16 scales (and minima) of a block are.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
}
BLOCKS = {32: 4, 256: 2}

rng = np.random.default_rng(20)
tensors = {}
for name, places in SCALES.items():
    kind = GGMLQuantizationType[name]
    length, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (BLOCKS[length], size), dtype=np.uint8)
    for place in places:
        # Ordinary scales of both signs, and one that is subnormal in f16.
        scales = rng.uniform(-0.1, 0.1, len(blocks)).astype(np.float16)
        scales[-1] = np.float16(3e-6)
        blocks[:, place : place + 2] = scales.reshape(-1, 1).view(np.uint8)
    tensors[f"{name}.blocks"] = blocks
    tensors[f"{name}.values"] = quants.dequantize(blocks.reshape(-1), kind).reshape(len(blocks), length)

for name, dtype in [("F32", np.float32), ("F16", np.float16)]:
    values = np.array([0.0, -0.0, 1.5, -3e-6, 6e4, 0.1, *rng.normal(size=10)], dtype=dtype)
    tensors[f"{name}.blocks"] = values.view(np.uint8).reshape(16, -1)
    tensors[f"{name}.values"] = values.astype(np.float32).reshape(16, 1)
patterns = rng.integers(0, 0x7F80, 16, dtype=np.uint16) | rng.integers(0, 2, 16, dtype=np.uint16) << 15
tensors["BF16.blocks"] = patterns.view(np.uint8).reshape(16, 2)
tensors["BF16.values"] = (patterns.astype(np.uint32) << 16).view(np.float32).reshape(16, 1)

# f16 scale d, then 16 bytes of codes of 1 or 2 bits, the low ones of a byte first: d or -d, and d (code - 1).
rng = np.random.default_rng(21)
for name, width in [("Q1_0", 1), ("Q2_0", 2)]:
    blocks = rng.integers(0, 256, (4, 18), dtype=np.uint8)
    scales = rng.uniform(-0.1, 0.1, 4).astype(np.float16)
    scales[-1] = np.float16(3e-6)
    blocks[:, :2] = scales.reshape(-1, 1).view(np.uint8)
    codes = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").reshape(4, -1, width)
    d = scales.astype(np.float32).reshape(4, 1)
    if width == 1:
        values = np.where(codes[:, :, 0] == 1, d, -d)
    else:
        values = (codes[:, :, 0] + 2.0 * codes[:, :, 1] - 1).astype(np.float32) * d
    tensors[f"{name}.blocks"] = blocks
    tensors[f"{name}.values"] = values.astype(np.float32)

save_file(tensors, Path(__file__).with_suffix(".safetensors"))
