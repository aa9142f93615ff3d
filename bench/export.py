"""Do the engines compute what we compute, of a model that was trained? Log-probabilities and
token ids in every layout.

    .venv/bin/python bench/export.py RUN [--lab DIR] [--lines 10000]

A run's last checkpoint (`tour`, after `make demo`) as hf, llama, minicpm and gguf (F32, Q8_0),
each read by the engine that is installed: transformers, llama.cpp. At least 2,000 tokens of the
validation splits, and lines of the corpus with odd Unicode among them. Prints a table and, last,
one JSON list; exit code 1 where a bound is not kept.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from windtunnel.data.tokenizer import Tokenizer
from windtunnel.ship.export import To, export
from windtunnel.ship.verify import Agreement, held_out, verify
from windtunnel.train.loop import load_model
from windtunnel.train.run import context_of, find_run, open_corpus

LAYOUTS: tuple[tuple[To, str], ...] = (
    ("hf", "fp32"),
    ("llama", "fp32"),
    ("minicpm", "fp32"),
    ("gguf", "F32"),
    ("gguf", "Q8_0"),
)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("run")
    arguments.add_argument("--lab", type=Path, default=Path("lab"))
    arguments.add_argument("--lines", type=int, default=10_000)
    given = arguments.parse_args()
    found = measure(given.lab, given.run, given.lines)
    print(
        "| layout | engine | tokens | max difference | mean | bits/byte | change | ids of lines |\n"
        + "|---" * 8
        + "|"
    )
    for a in found:
        ids = f"{a.lines - a.wrong_lines:,} of {a.lines:,}" if a.lines else "-"
        print(
            f"| {a.layout} | {a.engine} | {a.tokens:,} | {a.max_difference:.2g} | {a.mean_difference:.2g} | "
            f"{a.bits_per_byte:.4f} | {a.bits_per_byte_change:+.2g} | {ids} |"
        )
    claims = [
        {
            "claim": f"{a.layout}: largest |difference| of a log-probability",
            "value": a.max_difference,
            "unit": "nats",
            "target": a.most,
            "ok": a.good,
            "machine": "any",
        }
        for a in found
    ]
    print(json.dumps(claims))
    sys.exit(0 if all(a.good for a in found) else 1)


def measure(lab: Path, name: str, lines: int) -> list[Agreement]:
    run = find_run(lab, name)
    weights = {name: p.detach() for name, p in load_model(run).named_parameters()}
    held = held_out(open_corpus(lab, run.recipe), min(257, context_of(run)), 2000, lines)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for to, dtype in LAYOUTS:
            made = export(run, to, Path(scratch) / f"{to}-{dtype}", dtype=dtype)
            written = next(made.path.glob("*.gguf")) if to == "gguf" else made.path
            found.append(
                verify(run.recipe.model, weights, to, written, Tokenizer.load(run.tokenizer), held)
            )
    return found


if __name__ == "__main__":
    main()
