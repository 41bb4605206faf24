"""A language model tuned on 1,000 pairs "which section is this package in": python -m benchmarks.tuning --gguf FILE --data FILE.tsv.gz

Accuracy on packages of 300 unseen sources by greedy choice among the sections: the base, the tuned model, and TF-IDF with logistic
regression on the same descriptions.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import morphogen
from benchmarks.common import WORK, fresh, record
from morphogen.api.common import Watch

SECTIONS, TEST, LETTERS = 10, 300, 400
Pair = tuple[str, str, str]  # description, section, source


class Told(Watch):
    """Prints what tuning says."""

    def say(self, line: str, kind: str = "info") -> None:
        print(f"  {line}", flush=True)


def packages(path: Path, seed: int) -> tuple[list[Pair], list[str]]:
    """(one package of each source in the most frequent sections, shuffled; the sections)."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    frequent = [name for name, _ in Counter(r["section"] for r in rows).most_common(SECTIONS)]
    draw = random.Random(seed)
    draw.shuffle(rows)
    one = {r["source"]: (" ".join(r["long"].split())[:LETTERS], r["section"], r["source"]) for r in rows if r["section"] in frequent}
    pairs = list(one.values())
    draw.shuffle(pairs)
    return pairs, frequent


def question(text: str, sections: list[str]) -> list[dict[str, str]]:
    told = f"Name the section a package belongs to: {', '.join(sections)}."
    return [{"role": "system", "content": told}, {"role": "user", "content": text}]


def accuracy(path: Path, test: list[Pair], sections: list[str]) -> tuple[float, float]:
    """(share of right answers, share of answers that are a section)."""
    model = morphogen.load(path)
    asked = [model.prompt_of(question(text, sections)) for text, _, _ in test]
    answers = model.answers(asked, regex="|".join(map(re.escape, sections)), temperature=0.0, max_tokens=12)
    said = [found[0].text for found in answers]
    right = sum(a == section for a, (_, section, _) in zip(said, test))
    return right / len(test), sum(a in sections for a in said) / len(test)


def by_words(train: list[Pair], test: list[Pair]) -> float:
    """Accuracy of TF-IDF of words and pairs of words with logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    judge: Any = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000))
    judge.fit([text for text, _, _ in train], [section for _, section, _ in train])
    return float(judge.score([text for text, _, _ in test], [section for _, section, _ in test]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True, help="a decoder with a chat template")
    parser.add_argument("--data", type=Path, required=True, help="columns package, source, section, long, synopsis")
    parser.add_argument("--minutes", type=float, default=19.0)
    parser.add_argument("--n", type=int, default=1000, help="pairs to tune on")
    parser.add_argument("--test", type=int, default=TEST, help="unseen sources")
    parser.add_argument("--steps", type=int, default=None, help="instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=None)
    args = parser.parse_args()
    pairs, sections = packages(args.data, args.seed)
    test, train = pairs[: args.test], pairs[args.test : args.test + args.n]
    assert not {s for _, _, s in test} & {s for _, _, s in train}
    out = fresh(WORK / "tuning" / "model")
    rows = out.with_name("pairs.jsonl")
    with rows.open("w", encoding="utf-8") as file:
        for text, section, source in train:
            messages = [*question(text, sections), {"role": "assistant", "content": section}]
            file.write(json.dumps({"messages": messages, "source": source}) + "\n")
    begun = time.monotonic()
    options = {"training": {"lr": args.lr}} if args.lr else {}
    answer = morphogen.tune(args.gguf, rows, out, minutes=None if args.steps else args.minutes, steps=args.steps, seed=args.seed,
                            options=options, watch=Told())
    minutes = (time.monotonic() - begun) / 60
    base, tuned = accuracy(args.gguf, test, sections), accuracy(out, test, sections)
    figures = {
        "base": base[0], "tuned": tuned[0], "words": by_words(train, test), "format": tuned[1], "minutes": minutes,
        "steps": answer["steps"], "share": answer["share"], "merge_difference": answer["merge_difference"],
        "new_before": answer["new"]["base"] if "new" in answer else None, "new_after": answer["new"]["tuned"] if "new" in answer else None,
        "general_before": answer["general"]["base"], "general_after": answer["general"]["tuned"],
    }
    record("tuning", figures, pairs=len(train), test=len(test), sections=sections, base_file=args.gguf.name, seed=args.seed)


if __name__ == "__main__":
    main()
