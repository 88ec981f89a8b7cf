"""Frequencies of the rotary embedding by transformers: python frequencies.py CONFIG_JSON... Prints inv_freq, one config
a line."""
import sys
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

for path in sys.argv[1:]:
    print(*map(repr, LlamaRotaryEmbedding(LlamaConfig.from_json_file(path)).inv_freq.tolist()))
