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

from windtunnel.results.export import Agreement
from windtunnel.ship.export import export
from windtunnel.ship.held_out import TOKENS, held_out
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.subject import Subject
from windtunnel.ship.verify import verify
from windtunnel.train.run import find_run

ROUNDED = [("gguf", "Q8_0")]  # beside every layout in full precision


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
            f"| {a.layout} | {a.engine} | {a.tokens:,} | {a.max_difference:.2g} "
            f"| {a.mean_difference:.2g} | {a.bits_per_byte:.4f} | {a.bits_per_byte_change:+.2g} "
            f"| {ids} |"
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
    subject = Subject.of(find_run(lab, name))
    if subject.corpus is None:
        sys.exit(f"{name} is imported and has no corpus to hold text out of")
    context = min(257, subject.portable.context)
    held = held_out(subject.corpus, context, TOKENS, lines)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for to, dtype in [*((to, LAYOUTS[to].dtypes[0]) for to in LAYOUTS), *ROUNDED]:
            made = export(subject.run, to, Path(scratch) / f"{to}-{dtype}", dtype=dtype)
            written = next(made.path.glob("*.gguf"), made.path)
            found.append(verify(LAYOUTS[to], dtype, written, subject.portable, held))
    return found


if __name__ == "__main__":
    main()
