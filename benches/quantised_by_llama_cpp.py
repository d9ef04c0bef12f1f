"""What llama.cpp's quantisation costs in accuracy, on the text of `accuracy.rs -- small`.

    pip install llama-cpp-python==0.3.36 numpy
    python3 benches/quantised_by_llama_cpp.py MODEL.gguf TEXT...

For each type: the size of the file, the KL divergence from the same weights in f32 and how often
the best token is the same, on two pieces of 512 tokens of each text. "pure" is one type for all
matrices, without the exceptions that llama.cpp makes.
"""

import ctypes
import os
import sys
import tempfile

import llama_cpp
import numpy as np

TOKENS = 512
# Name, number of the file type, pure.
TYPES = [
    ("Q8_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, False),
    ("Q6_K", llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K, False),
    ("Q5_K_M", llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M, False),
    ("Q4_K_M", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, False),
    ("IQ4_NL", llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_NL, False),
    ("IQ4_NL pure", llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_NL, True),
    ("Q4_0 pure", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True),
    ("Q3_K_M", llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_M, False),
]


def quantize(source, target, file_type, pure):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.allow_requantize = True
    params.pure = pure
    params.nthread = os.cpu_count()
    status = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if status != 0:
        sys.exit(f"llama.cpp cannot quantise {source} to file type {file_type}")


def pieces(path):
    """Two pieces of a text, from the same bytes on as those of `accuracy.rs`."""
    with open(path, "rb") as file:
        text = file.read()
    for part in (1, 2):
        start = len(text) * part // 3
        while text[start] & 0xC0 == 0x80:
            start += 1
        yield text[start : start + 16 * TOKENS].decode(errors="ignore").encode()


def without_repacking(default_params=llama_cpp.llama_model_default_params):
    """Some builds stop at an illegal instruction in the AMX code, which reads repacked weights."""
    params = default_params()
    params.use_extra_bufts = False
    return params


llama_cpp.llama_model_default_params = without_repacking
llama_cpp.llama_cpp.llama_model_default_params = without_repacking


def log_probabilities(file, texts):
    """`[token][vocabulary]` for each piece of each text."""
    model = llama_cpp.Llama(
        file, n_ctx=TOKENS, n_batch=TOKENS, logits_all=True, verbose=False, n_threads=os.cpu_count()
    )
    for text in texts:
        for piece in pieces(text):
            ids = model.tokenize(piece, special=False)[:TOKENS]
            model.reset()
            model.eval(ids)
            logits = model.scores[: len(ids)].astype(np.float32)
            logits -= logits.max(axis=1, keepdims=True)
            yield text, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    model.close()


def compare(reference, file, texts):
    """KL and top-1 of each text."""
    sums = {text: [] for text in texts}
    for expected, (text, found) in zip(reference, log_probabilities(file, texts)):
        kl = (np.exp(expected) * (expected - found)).sum(axis=1, dtype=np.float64)
        same = expected.argmax(axis=1) == found.argmax(axis=1)
        sums[text].append((kl.mean(), same.mean()))
    return {text: np.mean(values, axis=0) for text, values in sums.items()}


def main():
    source, texts = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "model.gguf")
        quantize(source, target, llama_cpp.LLAMA_FTYPE_ALL_F32, False)
        reference = [found for _, found in log_probabilities(target, texts)]
        print("| type | MB |", " | ".join(os.path.basename(text) for text in texts), "| top-1 |")
        print("|---" * (3 + len(texts)) + "|")
        for name, file_type, pure in TYPES:
            quantize(source, target, file_type, pure)
            found = compare(reference, target, texts)
            kl = " | ".join(f"{found[text][0]:.4f}" for text in texts)
            top1 = ", ".join(f"{100 * found[text][1]:.1f}" for text in texts)
            size = os.path.getsize(target) / 1e6
            print(f"| {name} | {size:.1f} | {kl} | {top1} % |", flush=True)


main()
