"""Makes the small reference models under fixtures/reference with Hugging Face's transformers.

Usage: python make_reference.py OUTPUT_FOLDER

Needs torch 2.9.0, transformers 5.24.0, safetensors. Two LLaMAs with random weights, float32 on the CPU, eager attention:
`llama3_untied` has grouped queries, a head_dim that is not d_model / n_heads and LLaMA 3.1's frequency scaling;
`tied` has one key head and tied embeddings. Beside each model lie

reference.safetensors  input_ids, labels_masked (-100 where ignored), logits and token_logprobs of the inputs, the
                       gradient of every tensor for the mean loss over labels_masked, greedy_ids, inv_freq
reference.json         the losses, ten AdamW steps, tolerances, and how far some plausible mistakes move the logits
"""
import copy, json, pathlib, sys
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
COMMON = dict(max_position_embeddings=128, rms_norm_eps=1e-5, attn_implementation="eager", bos_token_id=1, eos_token_id=2)
MODELS = {
    # transformers wants hidden_size to be a multiple of the heads even where head_dim is given.
    "llama3_untied": dict(seed=11, vocab_size=192, hidden_size=40, intermediate_size=104, num_hidden_layers=2,
                          num_attention_heads=4, num_key_value_heads=2, head_dim=12, rope_parameters=LLAMA3, tie_word_embeddings=False),
    "tied": dict(seed=16, vocab_size=160, hidden_size=32, intermediate_size=88, num_hidden_layers=3,
                 num_attention_heads=4, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
                 rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
}
ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
ROWS, LENGTH, PROMPT, NEW = 2, 40, 8, 24


def build(seed, **config):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**COMMON, **config)).float().eval()
    with torch.no_grad():  # wide enough that every part of the model moves the logits
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (0.4 if "embed" in name else 1.2 / p.shape[1] ** 0.5))
    return model


def shifted_loss(logits, labels):
    """Mean over the labels that are kept, each predicted from the position before, as transformers does."""
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


def groups(model):
    """Decay on every matrix, the embedding included, as `weight_decay_on_matrices` says; not on norms."""
    decay = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() != 2]
    return [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]


def adamw_run(model, inputs, labels):
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(groups(model), **ADAMW)
    losses, norms, first = [], [], {}
    for step in range(10):
        loss = shifted_loss(model(inputs).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
        if step == 0:
            for name in ("model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.k_proj.weight"):
                first["adamw_step1." + name] = model.get_parameter(name).detach().clone()
    return losses, norms, first


def greedy(model, prompt):
    ids, margin = prompt, float("inf")
    for _ in range(NEW):
        last = model(ids).logits[0, -1]
        best = last.topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        ids = torch.cat((ids, best.indices[:1][None]), 1)
    return ids, margin


def gradients(model, inputs, labels):
    model = copy.deepcopy(model)
    loss = shifted_loss(model(inputs).logits, labels)
    loss.backward()
    return loss.item(), {"grad." + n: p.grad.clone() for n, p in model.named_parameters()}


def mistakes(model, inputs, right):
    """How far the logits move for mistakes that a port might make: a check that misses these is worth nothing."""
    found = {}
    def differs(name, change):
        other = copy.deepcopy(model)
        change(other)
        found[name] = (other(inputs).logits - right).abs().max().item()
    def interleave(m):
        for layer in m.model.layers:
            for p in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                w = p.weight.data.view(-1, m.config.head_dim, p.weight.shape[1])
                half = m.config.head_dim // 2
                order = torch.arange(m.config.head_dim).view(half, 2).t().reshape(-1)
                p.weight.data = w[:, order].reshape(p.weight.shape)
    def no_scaling(m):
        d, theta = m.config.head_dim, m.config.rope_parameters["rope_theta"]
        m.model.rotary_emb.inv_freq = 1 / theta ** (torch.arange(0, d, 2).float() / d)
    def eps(m):
        for layer in m.model.layers:
            layer.input_layernorm.variance_epsilon = 1e-6
    differs("rope_interleaved", interleave)
    differs("no_rope", lambda m: m.model.rotary_emb.inv_freq.zero_())
    differs("no_rope_scaling", no_scaling)
    differs("eps_1e_6", eps)
    differs("gelu", lambda m: [setattr(l.mlp, "act_fn", torch.nn.GELU()) for l in m.model.layers])
    return found


def make(name, out):
    config = dict(MODELS[name])
    model = build(config.pop("seed"), **config)
    inputs = torch.randint(0, config["vocab_size"], (ROWS, LENGTH))
    labels = inputs.clone()
    labels[0, :7] = -100
    labels[:, 20:24] = -100
    labels[1, -3:] = -100
    with torch.no_grad():
        logits = model(inputs).logits
        double = copy.deepcopy(model).double()
        exact = double(inputs).logits
        greedy_ids, margin = greedy(model, inputs[:1, :PROMPT])
        wrong = mistakes(model, inputs, logits)
    loss_masked, grads = gradients(model, inputs, labels)
    _, exact_grads = gradients(double, inputs, labels)
    losses, norms, first = adamw_run(model, inputs, labels)
    log_p = logits.log_softmax(-1)[:, :-1].gather(2, inputs[:, 1:, None])[..., 0]
    out = out / name
    model.save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    tensors = {"input_ids": inputs, "labels_masked": labels, "logits": logits, "token_logprobs": log_p,
               "greedy_ids": greedy_ids, "inv_freq": model.model.rotary_emb.inv_freq.clone(), **grads, **first}
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "reference.safetensors")
    facts = {
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}, float32, eager attention, CPU",
        "params": sum(p.numel() for p in model.parameters()),
        "loss": shifted_loss(logits, inputs).item(),
        "loss_masked": loss_masked,
        "grad_norm_masked": torch.stack([g.norm() for g in grads.values()]).norm().item(),
        "adamw": {**ADAMW, "weight_decay_on_matrices": 0.1, "clip_grad_norm": 1.0, "labels": "labels_masked",
                  "losses_before_step": losses, "grad_norms": norms},
        "greedy": {"prompt_len": PROMPT, "new_tokens": NEW, "smallest_margin": margin},
        "logits_abs_max": logits.abs().max().item(),
        "float64_max_logit_diff": (exact - logits).abs().max().item(),
        "float64_max_grad_diff": max((exact_grads[k] - g).abs().max().item() for k, g in grads.items()),
        "suggested_tolerance": {"logits": 1e-4, "loss": 1e-5, "grad": 5e-5, "adamw_losses": 2e-4},
        "max_logit_diff_if_wrong": wrong,
    }
    (out / "reference.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(name, {k: v for k, v in facts.items() if k != "adamw"}, losses[0], losses[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in MODELS:
        make(name, pathlib.Path(sys.argv[1]))
