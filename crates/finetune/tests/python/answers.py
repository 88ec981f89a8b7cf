"""One update on answers alone, by PyTorch: python answers.py MODEL CONVERSATIONS LR

CONVERSATIONS is JSON: lists of [ids, is_answer]. Every conversation goes through the model by itself, unpadded. Prints the mean
negative log-probability of the answers' ids, before and after an update by AdamW with the gradient's norm cut to 1.
Says `NOT RUN: why` where a package is missing."""
import json
import sys

try:
    import torch
    from transformers import AutoModelForCausalLM
except ImportError as error:
    sys.exit(print(f"NOT RUN: {error}"))

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation="eager", dtype=torch.float32)
conversations = json.loads(sys.argv[2])
n = sum(sum(is_answer[1:]) for _, is_answer in conversations)


def loss():
    total = 0.0
    for ids, is_answer in conversations:
        logits = model(torch.tensor([ids])).logits[0, :-1]
        labels = torch.tensor([i if a else -100 for i, a in zip(ids, is_answer)])[1:]
        total = total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    return total / n


with torch.no_grad():
    print(loss().item())
decay = [p for name, p in model.named_parameters() if p.dim() > 1 and "embed" not in name]
other = [p for name, p in model.named_parameters() if p.dim() < 2 or "embed" in name]
groups = [{"params": decay, "weight_decay": 0.01}, {"params": other, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=float(sys.argv[3]), betas=(0.9, 0.95), eps=1e-8)
loss().backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
with torch.no_grad():
    print(loss().item())
