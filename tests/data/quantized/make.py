"""Writes small quantised Hugging Face folders with random numbers, in each layout that the importer reads, and
expected.json: of each dequantised matrix ([out, in], f32, little-endian) its shape and the FNV-1a hash of its bytes.

Needs nothing but Python: `python3 make.py`. The layouts are written down here once more, apart from the importer.
Zero points, scales and group indices are random as well, so that no two mistakes cancel out.
"""

import json
import pathlib
import random
import struct

HERE = pathlib.Path(__file__).parent
HIDDEN, HEADS, KV_HEADS, HEAD, VOCAB = 32, 2, 1, 16, 16


def f16(numbers):
    return struct.pack(f"<{len(numbers)}e", *numbers)


def bf16(numbers):
    """Numbers that bf16 holds."""
    words = [struct.unpack("<I", struct.pack("<f", x))[0] for x in numbers]
    assert all(word & 0xFFFF == 0 for word in words)
    return struct.pack(f"<{len(words)}H", *(word >> 16 for word in words))


def i32(words):
    return struct.pack(f"<{len(words)}I", *words)


def pack(fields, bits):
    """Whole numbers into 32-bit words, lowest bits first; the last word is filled up with zeros."""
    each = 32 // bits
    fields = fields + [0] * (-len(fields) % each)
    return [sum(field << (bits * k) for k, field in enumerate(fields[i : i + each])) for i in range(0, len(fields), each)]


def transposed(rows):
    return [list(column) for column in zip(*rows)]


def flat(rows):
    return [x for row in rows for x in row]


class Case:
    def __init__(self, name, family, method, *, tied=False, inner=64, scale_type="F16", **quant):
        self.random = random.Random(name)
        self.name, self.family, self.method, self.quant, self.scale_type = name, family, method, quant, scale_type
        self.tensors, self.expected, self.plain, self.biases = {}, {}, [], ()
        self.config = {
            "model_type": family, "hidden_size": HIDDEN, "intermediate_size": inner, "num_hidden_layers": 1,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64, "rope_theta": 10000.0, "tie_word_embeddings": tied,
        }

    def numbers(self, count, places=8):
        """Random numbers of 8 bits, which every type holds."""
        return [self.random.randint(-127, 127) / 2**places for _ in range(count)]

    def add_plain(self, name, shape):
        count = 1
        for size in shape:
            count *= size
        self.tensors[name] = (self.scale_type, shape, (f16 if self.scale_type == "F16" else bf16)(self.numbers(count)))

    def expect(self, stem, rows):
        data = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
        value = 0xCBF29CE484222325
        for byte in data:
            value = (value ^ byte) * 0x100000001B3 % 2**64
        self.expected[stem] = {"shape": [len(rows), len(rows[0])], "fnv1a": f"{value:016x}"}

    def add_linear(self, stem, out, inputs):
        bits, symmetric = self.quant["bits"], self.quant["symmetric"]
        size = self.quant["group"] or inputs
        groups = -(-inputs // size)
        most = 2**bits - 1
        q = [[self.random.randint(0, most) for _ in range(inputs)] for _ in range(out)]
        z = [[2 ** (bits - 1) if symmetric else self.random.randint(0, most) for _ in range(groups)] for _ in range(out)]
        # As many bits as the type holds: products with zero points do not fit f16.
        least, step = (1025, 2**-16) if self.scale_type == "F16" else (129, 2**-13)
        s = [[self.random.randrange(least, 2 * least - 2) * self.random.choice([-step, step, step]) for _ in range(groups)]
             for _ in range(out)]
        group_of = [i // size for i in range(inputs)]
        if self.quant.get("scattered"):
            self.random.shuffle(group_of)
        self.expect(stem, [[s[o][group_of[i]] * (q[o][i] - z[o][group_of[i]]) for i in range(inputs)] for o in range(out)])
        halves = f16 if self.scale_type == "F16" else bf16

        def put(suffix, dtype, shape, data):
            self.tensors[f"{stem}.{suffix}"] = (dtype, shape, data)

        if self.method == "gptq":
            each = 32 // bits
            put("qweight", "I32", [inputs // each, out], i32(flat(transposed([pack(row, bits) for row in q]))))
            # GPTQModel takes 1 off all fields at once, so that a field of 0 borrows from the next.
            less = 0 if self.quant.get("v2") else (2**32 - 1) // most
            zeros = [(word - less) % 2**32 for row in transposed(z) for word in pack(row, bits)]
            put("qzeros", "I32", [groups, out // each], i32(zeros))
            put("scales", self.scale_type, [groups, out], halves(flat(transposed(s))))
            if self.quant.get("g_idx", True):
                put("g_idx", "I32", [inputs], i32(group_of))
        elif self.method == "awq":
            order = [0, 2, 4, 6, 1, 3, 5, 7]

            def mixed(row):
                return pack([row[o + k] for o in range(0, len(row), 8) for k in order], 4)

            put("qweight", "I32", [inputs, out // 8], i32(flat([mixed(row) for row in transposed(q)])))
            put("qzeros", "I32", [groups, out // 8], i32(flat([mixed(row) for row in transposed(z)])))
            put("scales", self.scale_type, [groups, out], halves(flat(transposed(s))))
        elif self.method == "packed":
            words = [pack(row, bits) for row in q]
            put("weight_packed", "I32", [out, len(words[0])], i32(flat(words)))
            put("weight_shape", "I64", [2], struct.pack("<2q", out, inputs))
            put("weight_scale", self.scale_type, [out, groups], halves(flat(s)))
            if not symmetric:
                words = transposed([pack(column, bits) for column in transposed(z)])
                put("weight_zero_point", "I32", [len(words), groups], i32(flat(words)))
        elif self.method == "bytes":
            put("weight", "I8", [out, inputs], bytes((x - 128) % 256 for x in flat(q)))
            put("weight_scale", self.scale_type, [out, groups], halves(flat(s)))

    def build(self):
        self.add_plain("model.embed_tokens.weight", [VOCAB, HIDDEN])
        self.add_plain("model.norm.weight", [HIDDEN])
        if not self.config["tie_word_embeddings"]:
            self.add_plain("lm_head.weight", [VOCAB, HIDDEN])
        layer = "model.layers.0."
        self.add_plain(layer + "input_layernorm.weight", [HIDDEN])
        self.add_plain(layer + "post_attention_layernorm.weight", [HIDDEN])
        query, key, inner = HEADS * HEAD, KV_HEADS * HEAD, self.config["intermediate_size"]
        if self.family == "phi3":
            linears = [("self_attn.qkv_proj", query + 2 * key, HIDDEN), ("mlp.gate_up_proj", 2 * inner, HIDDEN)]
        else:
            linears = [
                ("self_attn.q_proj", query, HIDDEN), ("self_attn.k_proj", key, HIDDEN), ("self_attn.v_proj", key, HIDDEN),
                ("mlp.gate_proj", inner, HIDDEN), ("mlp.up_proj", inner, HIDDEN),
            ]
        linears += [("self_attn.o_proj", HIDDEN, query), ("mlp.down_proj", HIDDEN, inner)]
        for stem, out, inputs in linears:
            if stem in self.plain:
                self.add_plain(layer + stem + ".weight", [out, inputs])
            else:
                self.add_linear(layer + stem, out, inputs)
            if self.family == "qwen2" and stem[-6] in "qkv":
                self.add_plain(layer + stem + ".bias", [out])
            elif self.biases == "zero":
                self.tensors[layer + stem + ".bias"] = ("F16", [out], f16([0.0] * out))
        return self

    def rename(self, prefix):
        self.tensors = {prefix + name: tensor for name, tensor in self.tensors.items()}
        return self

    def write(self, files=("model.safetensors",), index=False, beside=None):
        folder = HERE / self.name
        folder.mkdir(exist_ok=True)
        parts, places = [{} for _ in files], {}
        for i, name in enumerate(sorted(self.tensors)):
            parts[i % len(files)][name] = self.tensors[name]
            places[name] = files[i % len(files)]
        for file, part in zip(files, parts):
            header, data = {}, b""
            for name, (dtype, shape, piece) in part.items():
                header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(piece)]}
                data += piece
            text = json.dumps(header, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + data)
        if index:
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}, indent=1) + "\n")
        for name, value in {"config.json": self.config, "expected.json": self.expected, **(beside or {})}.items():
            (folder / name).write_text(json.dumps(value, indent=1) + "\n")


def quantized(case, **keys):
    case.config["quantization_config"] = keys
    return case


def gptq(**keys):
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True, **keys}


def compressed(format, **weights):
    group = {"targets": ["Linear"], "input_activations": None, "output_activations": None, "weights": {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False,
        "actorder": None, **weights,
    }}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "kv_cache_scheme": None}


TWO = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

# The oldest form: zero biases everywhere; the parts of a matrix are in different shards.
case = Case("gptq-symmetric-sharded", "llama", "gptq", bits=4, group=32, symmetric=True)
case.config["attention_bias"] = case.config["mlp_bias"] = False
case.biases = "zero"
quantized(case.build(), **gptq()).write(TWO, index=True)

# Groups that are scattered over the inputs, zero points as they are.
case = Case("gptq-scattered-v2", "llama", "gptq", bits=4, group=16, symmetric=False, scattered=True, v2=True)
quantized(case.build(), **gptq(group_size=16, desc_act=True, sym=False, checkpoint_format="gptq_v2")).write()

# A model of another type than its scales.
case = Case("gptq-8-bits-a-row", "qwen2", "gptq", bits=8, group=None, symmetric=False, scale_type="BF16")
quantized(case.build(), **gptq(bits=8, group_size=-1, sym=False, checkpoint_format="gptq")).write()

# All at once: no config but the quantiser's own, shards without an index, a wrapper's names, tied, with biases, no g_idx.
case = Case("gptq-wrapped-tied", "qwen2", "gptq", tied=True, bits=4, group=32, symmetric=False, g_idx=False)
own = {"bits": 4, "group_size": 32, "desc_act": False, "sym": False}
case.build().rename("module._orig_mod.").write(TWO, beside={"quantize_config.json": own})

case = Case("awq", "llama", "awq", bits=4, group=32, symmetric=False)
quantized(case.build(), quant_method="awq", bits=4, group_size=32, version="GEMM", zero_point=True).write()

# Query, key and value are one matrix; the config is AWQ's own.
case = Case("awq-fused", "phi3", "awq", bits=4, group=16, symmetric=False)
case.config.update({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
own = {"w_bit": 4, "q_group_size": 16, "zero_point": True, "version": "GEMM"}
case.build().write(beside={"quant_config.json": own})

case = Case("packed-symmetric", "llama", "packed", tied=True, scale_type="BF16", bits=4, group=32, symmetric=True)
quantized(case.build(), **compressed("pack-quantized")).write()

# Some matrices are not quantised.
case = Case("packed-zero-points", "llama", "packed", scale_type="BF16", bits=4, group=None, symmetric=False)
case.plain = ["self_attn.k_proj", "mlp.down_proj"]
quantized(case.build(), **compressed("pack-quantized", symmetric=False, strategy="channel", group_size=None)).write()

# The last word of a row, and of the zero points of a group, is not full.
case = Case("packed-odd-sizes", "llama", "packed", inner=36, scale_type="BF16", bits=4, group=None, symmetric=False)
quantized(case.build(), **compressed("pack-quantized", symmetric=False, strategy="channel", group_size=None)).write()

case = Case("packed-8-bits", "llama", "packed", bits=8, group=32, symmetric=True)
quantized(case.build(), **compressed("pack-quantized", num_bits=8)).write()

case = Case("bytes", "llama", "bytes", scale_type="BF16", bits=8, group=None, symmetric=True)
quantized(case.build(), **compressed("int-quantized", num_bits=8, strategy="channel", group_size=None)).write()
