"""Frequencies of the rotary embedding by transformers: python frequencies.py CONFIG_JSON. Prints inv_freq, one a line."""
import sys
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

for value in LlamaRotaryEmbedding(LlamaConfig.from_json_file(sys.argv[1])).inv_freq.tolist():
    print(repr(value))
