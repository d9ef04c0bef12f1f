"""Makes the folders beside it: tiny models with random weights, and what transformers computes with them.

Needs torch and transformers 5.23.0. They cover forms of the config that decide over the logits and that few published
models use: partial rotary embedding, scalings of the two tables of Gemma 3, windows of SmolLM3 and Qwen 3, ...
"""
import pathlib

import torch
from safetensors.torch import save_file
from transformers import (
    Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GraniteConfig, GraniteForCausalLM,
    LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config,
    Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, SmolLM3Config, SmolLM3ForCausalLM,
)

SIZES = dict(
    vocab_size=24, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=8.0, original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", factor=8.0, rope_theta=500.0, original_max_position_embeddings=16)
TURN = dict(rope_type="default", rope_theta=100.0)
SLIDING = dict(use_sliding_window=True, sliding_window=5)

CASES = {
    "gemma2-bias-erf": (Gemma2ForCausalLM, Gemma2Config(
        **SIZES, head_dim=10, sliding_window=5, attention_bias=True, hidden_activation="gelu", query_pre_attn_scalar=20)),
    "gemma3-two-scalings": (Gemma3ForCausalLM, Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=5, sliding_window_pattern=2, final_logit_softcapping=6.0,
        # Read by transformers, and not applied.
        attn_logit_softcapping=1.0,
        rope_parameters=dict(full_attention=dict(**LLAMA3, rope_theta=10000.0),
                             sliding_attention=dict(rope_type="linear", factor=2.0, rope_theta=300.0)))),
    "granite-multipliers": (GraniteForCausalLM, GraniteConfig(
        **SIZES, embedding_multiplier=6.0, residual_multiplier=0.3, attention_multiplier=0.11, logits_scaling=0.2,
        attention_bias=True, mlp_bias=True)),
    "llama-linear-gelu": (LlamaForCausalLM, LlamaConfig(
        **SIZES, hidden_act="gelu", attention_bias=True,
        rope_parameters=dict(rope_type="linear", factor=0.5, rope_theta=100.0))),
    "llama-yarn-mscale": (LlamaForCausalLM, LlamaConfig(
        **SIZES, head_dim=32, rope_parameters=dict(**YARN, mscale=0.7, mscale_all_dim=1.3, beta_fast=16, beta_slow=2))),
    "llama-yarn-untruncated": (LlamaForCausalLM, LlamaConfig(
        **SIZES, head_dim=32, rope_parameters=dict(**YARN, truncate=False, attention_factor=1.21))),
    "mistral-unwindowed": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=None)),
    "phi3-odd-rotary": (Phi3ForCausalLM, Phi3Config(**SIZES, rope_parameters=dict(**TURN, partial_rotary_factor=0.4))),
    "phi3-partial-rotary": (Phi3ForCausalLM, Phi3Config(
        **{**SIZES, "hidden_size": 32}, sliding_window=7, rope_parameters=dict(**TURN, partial_rotary_factor=0.75))),
    "qwen2-windows-yarn": (Qwen2ForCausalLM, Qwen2Config(**SIZES, **SLIDING, max_window_layers=1, rope_parameters=YARN)),
    "qwen3-windows-bias": (Qwen3ForCausalLM, Qwen3Config(
        **SIZES, **SLIDING, head_dim=10, max_window_layers=1, attention_bias=True)),
    "smollm3-windows": (SmolLM3ForCausalLM, SmolLM3Config(
        **SIZES, **SLIDING, no_rope_layer_interval=2, attention_bias=True, mlp_bias=True)),
}

for name, (model_class, config) in CASES.items():
    torch.manual_seed(sum(map(ord, name)))
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            if "norm" in parameter_name:
                values = values * 0.3 + (0 if "gemma" in name else 1)
            elif parameter_name.endswith("bias") or "embed" in parameter_name:
                values = values * 0.5
            else:
                values = values * 1.5 / parameter.shape[-1] ** 0.5
            parameter.copy_(values.bfloat16().float())
        model.tie_weights()
        ids = torch.randint(0, config.vocab_size, (1, 14))
        for _ in range(4):
            logits = model(ids).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    folder = pathlib.Path(__file__).parent / name
    model.bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    expected = dict(input_ids=ids[0, :14], logits=logits[0, :14], greedy_ids=ids[0, 14:], greedy_logits=logits[0, 13:])
    save_file({key: value.clone().contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    margin = logits[0, 13:].topk(2).values
    print(name, "std", float(logits.std()), "margin", float((margin[:, 0] - margin[:, 1]).min()))
