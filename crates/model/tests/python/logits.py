"""Logits by transformers: python logits.py ID,ID,... MODEL_FOLDER...

For every folder one line that names missing or unexpected tensors (`[]` if there are none) and the special ids, then the
logits of every position, one a line."""
import sys
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

ids = [int(i) for i in sys.argv[1].split(",")]
for folder in sys.argv[2:]:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32)
    special = GenerationConfig.from_pretrained(folder)
    print(sorted(info["missing_keys"]) + sorted(info["unexpected_keys"]), special.bos_token_id, special.eos_token_id)
    with torch.no_grad():
        for value in model(torch.tensor([ids])).logits.flatten().tolist():
            print(repr(value))
