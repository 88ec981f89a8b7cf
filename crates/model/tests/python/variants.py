"""Tiny random models of every kind that is read, saved by transformers: python variants.py OUT ID,ID,...

For every model one line with its folder, then the logits of every position, one a line, computed in f32 from the weights
as they were saved."""
import json
import pathlib
import sys
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

out, ids = pathlib.Path(sys.argv[1]), [int(i) for i in sys.argv[2].split(",")]
base = dict(vocab_size=160, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, initializer_range=0.2)
llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
variants = [
    ("plain", LlamaForCausalLM, {}, torch.float32, None),
    ("sharded", LlamaForCausalLM, {}, torch.float32, "40KB"),
    ("tied-bf16", LlamaForCausalLM, dict(tie_word_embeddings=True), torch.bfloat16, None),
    ("f16", LlamaForCausalLM, dict(rope_theta=500000.0), torch.float16, "30KB"),
    ("biased", LlamaForCausalLM, dict(attention_bias=True, mlp_bias=True), torch.float32, None),
    ("linear", LlamaForCausalLM, dict(rope_scaling=dict(rope_type="linear", factor=2.5)), torch.float32, None),
    ("llama3", LlamaForCausalLM, dict(rope_scaling=llama3, rope_theta=500000.0), torch.float32, None),
    ("wide-heads", LlamaForCausalLM, dict(head_dim=20), torch.float32, None),
    ("mistral", MistralForCausalLM, dict(sliding_window=None, head_dim=10), torch.bfloat16, None),
    ("mistral-window", MistralForCausalLM, dict(sliding_window=64), torch.float32, None),
]
for i, (name, kind, changes, dtype, shard) in enumerate(variants):
    torch.manual_seed(i)
    settings = {**base, **changes}
    config = (MistralConfig if kind is MistralForCausalLM else LlamaConfig)(**settings)
    model = kind(config)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if path.endswith("bias") or "norm" in path:  # else zeros and ones
                weight.add_(torch.randn_like(weight) * 0.3)
    folder = out / name
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    print(folder)
    with torch.no_grad():
        for value in model(torch.tensor([ids])).logits.flatten().tolist():
            print(repr(value))
