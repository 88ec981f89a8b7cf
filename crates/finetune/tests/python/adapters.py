"""Adapters by Hugging Face's PEFT: python adapters.py BASE OURS THEIRS ID,ID,...

Prints the logits of BASE with the adapter OURS, one a line, then those with a random adapter that it saves to THEIRS.
Says `NOT RUN: why` where the package is missing."""
import sys

base, ours, theirs = sys.argv[1:4]
try:
    import peft
except ImportError:
    sys.exit(print("NOT RUN: the Python package peft is missing"))
import torch
from transformers import AutoModelForCausalLM

ids = torch.tensor([[int(i) for i in sys.argv[4].split(",")]])


def load():
    return AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32)


def show(model):
    with torch.no_grad():
        for value in model(ids).logits.flatten().tolist():
            print(repr(value))


show(peft.PeftModel.from_pretrained(load(), ours))
torch.manual_seed(3)
config = peft.LoraConfig(r=5, lora_alpha=10, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
model = peft.get_peft_model(load(), config)
show(model)
model.save_pretrained(theirs)
