"""Log-likelihoods by transformers, one sequence at a time, and nothing shared: what `caravan_eval` has to equal.

usage: score.py tiny FOLDER        writes a small random model in FOLDER, with a byte-level tokenizer
       score.py score FOLDER ITEMS prints one JSON line per item of ITEMS: [[log-likelihood, greedy], ..]
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def tiny(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = ["the caravan of llamas crosses the high pass and the salt flat, then the pass again"] * 4
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    tokenizer.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@torch.no_grad()
def score(folder, items):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    limit = model.config.max_position_embeddings

    def encode(text):
        return [tokenizer.bos_token_id] + tokenizer(text, add_special_tokens=False).input_ids

    def one(context, continuation):
        n = len(context) - len(context.rstrip())
        if n:
            context, continuation = context[:-n], context[-n:] + continuation
        whole, before = encode(context + continuation), encode(context)
        wanted = torch.tensor(whole[len(before):])
        inputs = (before + wanted.tolist())[-(limit + 1):][:-1]
        logits = model(torch.tensor([inputs])).logits[0, -len(wanted):].double()
        log_probs = torch.log_softmax(logits, -1)
        picked = log_probs.gather(1, wanted[:, None]).sum().item()
        return picked, bool((logits.argmax(-1) == wanted).all())

    for line in open(items, encoding="utf-8"):
        item = json.loads(line)
        requests = item["requests"] if "requests" in item else [item["request"]]
        print(json.dumps([one(*request) for request in requests]))


if sys.argv[1] == "tiny":
    tiny(sys.argv[2])
else:
    score(*sys.argv[2:])
