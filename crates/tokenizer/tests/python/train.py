"""Trains sentencepiece's own BPE beside ours, and encodes with our model.

Usage: train.py OURS.model IN.json OUT.json
IN.json:  {"text": ..., "vocab_size": n, "texts": [...]}
OUT.json: {"whole": tokens of the text with their model, "lines": of its lines one by one,
           "train_secs": ..., "encode_secs": of the whole text,
           "ours_whole": ids with our model, "ours_texts": [ids, ...]}
"""

import io
import json
import sys
import time

import sentencepiece


def main() -> None:
    ours, source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as f:
        work = json.load(f)
    text = work["text"]
    # Not splitlines, which also splits at U+2028 and such.
    lines = text.split("\n")
    model = io.BytesIO()
    start = time.perf_counter()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=work["vocab_size"],
        character_coverage=0.9995,
        split_digits=True,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=max(len(line.encode()) for line in lines) + 10,
        minloglevel=2,
    )
    train_secs = time.perf_counter() - start
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    start = time.perf_counter()
    whole = theirs.encode(text)
    encode_secs = time.perf_counter() - start
    mine = sentencepiece.SentencePieceProcessor(model_file=ours)
    result = {
        "whole": len(whole),
        "lines": sum(len(theirs.encode(line)) for line in lines),
        "train_secs": train_secs,
        "encode_secs": encode_secs,
        "ours_whole": mine.encode(text),
        "ours_texts": [mine.encode(text) for text in work["texts"]],
    }
    with open(target, "w", encoding="utf-8") as f:
        json.dump(result, f)


main()
