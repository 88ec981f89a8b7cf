"""Encodes texts and decodes ids with the Python library, as a witness.

Usage: encode.py (sentencepiece|tokenizers) FILE IN.json OUT.json
IN.json:  {"texts": [text, ...], "ids": [[id, ...], ...]}
OUT.json: [[ids of each text], [text of each list of ids], seconds for all texts]
"""

import json
import os
import sys
import time

# Rates are of one thread.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def main() -> None:
    kind, file, source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as f:
        work = json.load(f)
    if kind == "sentencepiece":
        import sentencepiece

        tokenizer = sentencepiece.SentencePieceProcessor(model_file=file)
        start = time.perf_counter()
        ids = [tokenizer.encode(text) for text in work["texts"]]
        seconds = time.perf_counter() - start
        texts = [tokenizer.decode(ids) for ids in work["ids"]]
    else:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(file)
        start = time.perf_counter()
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in work["texts"]]
        seconds = time.perf_counter() - start
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in work["ids"]]
    with open(target, "w", encoding="utf-8") as f:
        json.dump([ids, texts, seconds], f)


main()
