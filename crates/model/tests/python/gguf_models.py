"""Tiny random models in GGUF, written with the package gguf: python gguf_models.py OUT ID,ID,...

For every file one line with its path, then the logits of every position, one a line: those of transformers with the
weights as gguf dequantises them."""
import pathlib
import sys
import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from transformers import LlamaConfig, LlamaForCausalLM

out, ids = pathlib.Path(sys.argv[1]), [int(i) for i in sys.argv[2].split(",")]
out.mkdir(exist_ok=True)
D, FF, HEADS, KV, VOCAB, LAYERS, CONTEXT = 256, 512, 4, 2, 160, 2, 64
HEAD = D // HEADS


def neighbours(w, heads):
    """The order of rows that Meta's rotary embedding wants, from the one in halves."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def halves(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def k_blocks(rng, kind, shape):
    """Random blocks of a type that the package cannot quantise to, with scales that give numbers near 0.1."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    n = shape[0] * shape[1] // block
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    small = lambda scale: (rng.uniform(0.5, 1.5, n) * scale).astype(np.float16).view(np.uint8).reshape(n, 2)
    if kind == T.Q6_K:
        raw[:, 192:208] = rng.integers(1, 20, (n, 16), dtype=np.uint8)
        raw[:, 208:210] = small(0.1 / 200)
    else:
        steps = 15 if kind == T.Q4_K else 31
        raw[:, 0:2], raw[:, 2:4] = small(0.2 / 32 / steps), small(0.1 / 32)
    return raw.reshape(shape[0], -1)


def make(name, kind, tied=False, rope=None, bias=False, other=None):
    rng = np.random.default_rng(sum(name.encode()))
    other = other or kind
    settings = dict(vocab_size=VOCAB, hidden_size=D, intermediate_size=FF, num_hidden_layers=LAYERS,
                    num_attention_heads=HEADS, num_key_value_heads=KV, max_position_embeddings=CONTEXT,
                    rms_norm_eps=1e-5, tie_word_embeddings=tied, rope_theta=10000.0, attention_bias=bias)
    if rope:
        settings["rope_scaling"] = rope
    model = LlamaForCausalLM(LlamaConfig(**settings))
    path = str(out / f"{name}.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(D)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    if rope and rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope and rope["rope_type"] == "llama3":
        plain = 1.0 / 10000.0 ** (np.arange(0, HEAD, 2) / HEAD)
        inverse = model.model.rotary_emb.inv_freq.double().numpy()
        writer.add_tensor("rope_freqs.weight", (plain / inverse).astype(np.float32))

    def put(tensor_name, parameter, kind, heads=None):
        if parameter.dim() == 1:
            values = (1 + 0.3 * rng.standard_normal(parameter.shape)).astype(np.float32)
            writer.add_tensor(tensor_name, neighbours(values, heads) if heads else values)
        else:
            shape = tuple(parameter.shape)
            if kind in (T.Q4_K, T.Q5_K, T.Q6_K):
                raw = k_blocks(rng, kind, shape)
                stored = gguf.quants.dequantize(raw, kind)
            else:
                values = (0.1 * rng.standard_normal(shape)).astype(np.float32)
                raw = gguf.quants.quantize(neighbours(values, heads) if heads else values, kind)
                stored = gguf.quants.dequantize(raw, kind)
            values = halves(stored, heads) if heads else stored
            writer.add_tensor(tensor_name, raw, raw_dtype=kind)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))

    core = model.model
    put("token_embd.weight", core.embed_tokens.weight, other)
    put("output_norm.weight", core.norm.weight, kind)
    if not tied:
        put("output.weight", model.lm_head.weight, other)
    for i, layer in enumerate(core.layers):
        at, mlp = layer.self_attn, layer.mlp
        put(f"blk.{i}.attn_norm.weight", layer.input_layernorm.weight, kind)
        put(f"blk.{i}.ffn_norm.weight", layer.post_attention_layernorm.weight, kind)
        for part, linear, heads in [("attn_q", at.q_proj, HEADS), ("attn_k", at.k_proj, KV), ("attn_v", at.v_proj, None),
                                    ("attn_output", at.o_proj, None), ("ffn_gate", mlp.gate_proj, None),
                                    ("ffn_up", mlp.up_proj, None), ("ffn_down", mlp.down_proj, None)]:
            put(f"blk.{i}.{part}.weight", linear.weight, kind, heads)
            if linear.bias is not None:
                put(f"blk.{i}.{part}.bias", linear.bias, kind, heads)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(path)
    with torch.no_grad():
        for value in model(torch.tensor([ids])).logits.flatten().tolist():
            print(repr(value))


for kind in [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q4_K, T.Q5_K, T.Q6_K]:
    make(kind.name, kind)
make("tied-mixed", T.Q4_1, tied=True, other=T.Q8_0)
make("biased", T.F16, bias=True)
make("linear", T.F32, rope=dict(rope_type="linear", factor=4.0))
make("llama3", T.F32, rope=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                original_max_position_embeddings=32))
