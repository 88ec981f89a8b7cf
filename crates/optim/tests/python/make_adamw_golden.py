"""Prints tests/golden/adamw.json: six clipped AdamW steps under a cosine schedule, by torch in float64.

Usage: python crates/optim/tests/python/make_adamw_golden.py > crates/optim/tests/golden/adamw.json
Made with torch 2.9.0. Initial values and gradients are exact in float32, everything else is float64:
`params`, `exp_avg` and `exp_avg_sq` are those after the last step.
"""
import json
import math

import torch

torch.manual_seed(11)
PEAK, LOW, WARMUP, STEPS, MAX_NORM = 0.02, 0.002, 2, 8, 1.0
shapes = {"embed.weight": (5, 2), "blocks.0.wq.weight": (3, 4), "head.norm.weight": (4,)}
decays = {"blocks.0.wq.weight"}


def lr(step):
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    return LOW + (PEAK - LOW) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2


draw = lambda shape: torch.randn(shape, dtype=torch.float32)
init = {k: draw(s) for k, s in shapes.items()}
# Loud and quiet steps, so that clipping acts in some and not in others; zeros and values near eps.
size = [3.0, 0.01, 1.0, 0.2, 1e-4, 5.0]
grads = [{k: draw(s) * a for k, s in shapes.items()} for a in size]
for g in grads:
    g["head.norm.weight"][0] = 0.0
    g["head.norm.weight"][1] = 1e-9

params = {k: torch.nn.Parameter(v.double()) for k, v in init.items()}
groups = [{"params": [p], "weight_decay": 0.1 if k in decays else 0.0} for k, p in params.items()]
adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
norms, rates = [], []
for step, g in enumerate(grads):
    for k, p in params.items():
        p.grad = g[k].double()
    norms.append(torch.nn.utils.clip_grad_norm_(params.values(), MAX_NORM).item())
    rates.append(lr(step))
    for group in adamw.param_groups:
        group["lr"] = rates[-1]
    adamw.step()

flat = lambda t: t.detach().flatten().tolist()
print(json.dumps({
    "peak_lr": PEAK, "min_lr": LOW, "warmup_steps": WARMUP, "steps": STEPS, "max_norm": MAX_NORM,
    "weight_decay": 0.1, "betas": [0.9, 0.95], "eps": 1e-8,
    "norms": norms, "lr": rates,
    "tensors": [{
        "path": k, "shape": list(shapes[k]), "init": flat(init[k]), "grads": [flat(g[k]) for g in grads],
        "params": flat(params[k]), "exp_avg": flat(adamw.state[params[k]]["exp_avg"]),
        "exp_avg_sq": flat(adamw.state[params[k]]["exp_avg_sq"]),
    } for k in shapes],
}, indent=1))
