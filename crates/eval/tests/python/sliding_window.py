"""Extractive QA without a model: python sliding_window.py FILE en|zh

The sliding window of Richardson et al. ("MCTest", 2013) as Rajpurkar et al. ("SQuAD", 2016, section 5.1) use it: every span of
up to N words is a candidate; its score is the sum of the inverse counts ln(1 + 1 / count) of the words around it, in a window of
the question's length on each side, that the question has. Spans with a word of the question are left out. A second baseline
answers with the whole sentence that shares most with the question. Prints F1 and exact match for several N, in percent, by the
rules of SQuAD's script (en), or with every ideograph a word (zh)."""

import collections
import json
import math
import re
import string
import sys
import unicodedata


def words_en(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def words_zh(text):
    spaced = ""
    for c in text.lower():
        if unicodedata.category(c).startswith("P"):
            spaced += " "
        else:
            spaced += f" {c} " if "\u4e00" <= c <= "\u9fff" else c
    return spaced.split()


def f1(found, right):
    shared = sum((collections.Counter(found) & collections.Counter(right)).values())
    return 2 * shared / (len(found) + len(right)) if shared else float(found == right)


def span(context, question, longest):
    counts = collections.Counter(context)
    asked = set(question)
    scores = [math.log(1 + 1 / counts[word]) if word in asked else 0.0 for word in context]
    sums = [0.0]
    for score in scores:
        sums.append(sums[-1] + score)
    best, found = -1.0, []
    for start in range(len(context)):
        for end in range(start + 1, min(len(context), start + longest) + 1):
            if context[end - 1] in asked:
                break
            window = sums[min(len(context), end + len(question))] - sums[max(0, start - len(question))]
            if window > best + 1e-12:
                best, found = window, context[start:end]
    return found


def main(path, language):
    words = words_zh if language == "zh" else words_en
    with open(path, encoding="utf-8") as file:
        paragraphs = [p for article in json.load(file)["data"] for p in article["paragraphs"]]
    asked = [(p["context"], q["question"], [a["text"] for a in q["answers"]]) for p in paragraphs for q in p["qas"]]

    def report(name, answer):
        pairs = [(answer(c, words(q)), [words(a) for a in right]) for c, q, right in asked]
        mean = sum(max(f1(found, a) for a in right) for found, right in pairs) / len(pairs)
        exact = sum(found in right for found, right in pairs) / len(pairs)
        print(f"{name:<24} F1 {100 * mean:5.1f}  exact match {100 * exact:5.1f}  of {len(pairs)}")

    for longest in (1, 2, 4, 8, 12, 16):
        report(f"spans of up to {longest}", lambda c, q, n=longest: span(words(c), q, n))

    def sentence(context, question):
        counts = collections.Counter(words(context))
        of = [words(s) for s in re.split(r"(?<=[.!?。！？])\s*", context) if words(s)]
        return max(of, key=lambda s: sum(math.log(1 + 1 / counts[w]) for w in set(s) & set(question)))

    report("the best sentence", sentence)


main(*sys.argv[1:3])
