"""What lm-evaluation-harness makes of rows: prompts, and scores of answers. Prints NO HARNESS where it is not installed.

usage: harness.py prompts FILE   FILE has JSON lines {"task", "row"}; prints per line the requests [[context, continuation], ..]
       harness.py answers FILE   {"language", "written", "answer"}; prints [exact_match, f1, strict, flexible]
"""

import collections
import json
import os
import re
import string
import sys

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
try:
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
except ImportError:
    print("NO HARNESS")
    sys.exit(0)

root = os.path.dirname(lm_eval.tasks.__file__)


def configuration(name):
    """The YAML of a task with its includes, functions resolved."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for folder, _, files in os.walk(root):
        for file in files:
            path = os.path.join(folder, file)
            if file.endswith(".yaml") and re.search(rf"^task: {name}$|^\"task\": \"{name}\"$", open(path, encoding="utf-8").read(), re.M):
                # The scoring of xquad needs a module that transformers no longer has; its prompt needs no function.
                config = load_yaml(path, resolve_func=not name.startswith("xquad"))
                if name.startswith("xquad"):
                    config.pop("process_results")
                return config
    raise SystemExit(f"no task {name}")


def prompts(file):
    import datasets

    names = {"mmlu": "mmlu_abstract_algebra", "lambada": "lambada_openai"}
    for line in open(file, encoding="utf-8"):
        asked = json.loads(line)
        config = configuration(names.get(asked["task"], asked["task"]))
        data = datasets.Dataset.from_list([asked["row"]])
        ConfigurableTask.download = lambda self, *_, **__: setattr(
            self, "dataset", {split: data for split in ["train", "validation", "test", "dev"]}
        )
        config = {k: v for k, v in config.items() if k not in ("tag", "group", "task_alias", "include")}
        task = ConfigurableTask(config=config)
        document = list(task.eval_docs)[0]
        context = task.fewshot_context(document, 0)
        made = task.construct_requests(document, context, metadata=(None, 0, 1))
        made = made if isinstance(made, list) else [made]
        print(json.dumps([[str(r.args[0]), r.args[1] if isinstance(r.args[1], str) else ""] for r in made], ensure_ascii=False))


def squad(text):
    """Words as SQuAD's evaluate-v2.0.py compares them."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(written, answer):
    written, answer = squad(written), squad(answer)
    if not written or not answer:
        return float(written == answer)
    common = sum((collections.Counter(written) & collections.Counter(answer)).values())
    return 2 * common / (len(written) + len(answer))


def answers(file):
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter
    from lm_eval.tasks.mlqa import utils as mlqa

    gsm = configuration("gsm8k")
    ignored = gsm["metric_list"][0]["regexes_to_ignore"]
    filters = [
        {k: v for k, v in f["filter"][0].items() if k != "function"} for f in gsm["filter_list"]
    ]
    for line in open(file, encoding="utf-8"):
        row = json.loads(line)
        language, written, answer = row["language"], row["written"], row["answer"]
        if language == "en":
            scores = [float(squad(written) == squad(answer)), squad_f1(written, answer)]
        else:
            scores = [mlqa.exact_match_score(written, answer, language), mlqa.f1_score(written, answer, language)]
        for arguments in filters:
            found = RegexFilter(**arguments).apply([[written]], [{}])
            found = list(found)[0][0]
            scores.append(exact_match_hf_evaluate(
                [found], [answer], regexes_to_ignore=ignored, ignore_case=True)["exact_match"])
        print(json.dumps([float(score) for score in scores]))


{"prompts": prompts, "answers": answers}[sys.argv[1]](sys.argv[2])
