"""Log-likelihoods of task items by transformers, written from the definition and nothing of ours:
python loglikelihoods.py MODEL_FOLDER KIND CUE LIMIT BATCH FILE

KIND is `choices` (rows with query, choices, gold) or `continuation` (rows with context, continuation). For each item one JSON
line {"log_probs": [..], "score": 0 or 1}; on stderr the items per second. The tokenizer is the folder's own. Every pair is
encoded as one text, and what follows the tokens of its context is scored (EleutherAI's lm-evaluation-harness)."""
import json
import sys
import time
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, kind, cue, limit, batch, path = sys.argv[1:7]
torch.set_num_threads(2)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
with open(path, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file if line.strip()][:int(limit)]

pairs = []
for row in rows:
    if kind == "choices":
        context, answers = row["query"].rstrip() + cue, [" " + choice for choice in row["choices"]]
    else:
        context, answers = row["context"].rstrip() + cue, [" " + row["continuation"].strip()]
    pairs.append([(tokenizer(context)["input_ids"], tokenizer(context + answer)["input_ids"]) for answer in answers])

start = time.perf_counter()
flat = [(context, whole) for item in pairs for context, whole in item]
order = sorted(range(len(flat)), key=lambda i: -len(flat[i][1]))
found = [None] * len(flat)
with torch.inference_mode():
    for at in range(0, len(order), int(batch)):
        chunk = order[at:at + int(batch)]
        longest = max(len(flat[i][1]) for i in chunk) - 1
        ids = torch.zeros(len(chunk), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chunk):
            inputs = flat[i][1][:-1]
            ids[row, :len(inputs)] = torch.tensor(inputs)
            mask[row, :len(inputs)] = 1
        logits = model(ids, attention_mask=mask).logits
        for row, i in enumerate(chunk):
            context, whole = flat[i]
            scored = torch.log_softmax(logits[row, len(context) - 1:len(whole) - 1].double(), -1)
            wanted = torch.tensor(whole[len(context):])
            found[i] = (scored[torch.arange(len(wanted)), wanted].sum().item(), bool((scored.argmax(-1) == wanted).all()))
print(f"{len(rows) / (time.perf_counter() - start):.2f} items/s", file=sys.stderr)
flat = iter(found)
for row, item in zip(rows, pairs):
    answers = [next(flat) for _ in item]
    sums = [answer[0] for answer in answers]
    right = sums.index(max(sums)) == row["gold"] if kind == "choices" else answers[0][1]
    print(json.dumps({"log_probs": sums, "score": int(right)}))
