"""Do the engines compute what we compute, of a model that was trained? Log-probabilities and
token ids in every layout.

    .venv/bin/python bench/export.py RUN [--lab DIR] [--lines 10000]

A run's last checkpoint (`tour`, after `make demo`) as hf, llama, minicpm and gguf (F32, Q8_0),
each read by the engine that is installed: transformers, llama.cpp. At least 2,000 tokens of the
validation splits, and lines of the corpus with odd Unicode among them. Needs a run that was trained
here, and the engines. Prints a table and, last, one JSON list; exit code 1 where a bound is not
kept.
"""

import sys
import tempfile
from pathlib import Path

from claims import arguments, claim, end, header, row

from windtunnel.results.export import Agreement
from windtunnel.ship.export import export
from windtunnel.ship.held_out import TOKENS, held_out
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.subject import Subject
from windtunnel.ship.verify import verify
from windtunnel.train.run import find_run

ROUNDED = [("gguf", "Q8_0")]  # beside every layout in full precision


def main() -> None:
    """Export in every layout, and compare."""
    parser = arguments(__doc__)
    parser.add_argument("run", help="a run of the lab")
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--lines", type=int, default=10_000)
    given = parser.parse_args()
    found = measure(given.lab, given.run, given.lines)
    columns = ("layout", "engine", "tokens", "max difference", "mean", "bits/byte", "change")
    print(header(*columns, "ids of lines"))
    for one in found:
        differences = (f"{one.max_difference:.2g}", f"{one.mean_difference:.2g}")
        bits = (f"{one.bits_per_byte:.4f}", f"{one.bits_per_byte_change:+.2g}")
        ids = f"{one.lines - one.wrong_lines:,} of {one.lines:,}" if one.lines else "-"
        print(row(one.layout, one.engine, f"{one.tokens:,}", *differences, *bits, ids))
    end(
        claim(
            f"{one.layout}: largest |difference| of a log-probability",
            one.max_difference,
            "nats",
            one.most,
            one.good,
        )
        for one in found
    )


def measure(lab: Path, name: str, lines: int) -> list[Agreement]:
    """How each layout agrees with the run."""
    subject = Subject.of(find_run(lab, name))
    if subject.corpus is None:
        sys.exit(f"{name} is imported and has no corpus to hold text out of")
    context = min(257, subject.portable.context)
    held = held_out(subject.corpus, context, TOKENS, lines)
    found = []
    full = [(to, LAYOUTS[to].dtypes[0]) for to in LAYOUTS]
    with tempfile.TemporaryDirectory() as scratch:
        for to, dtype in [*full, *ROUNDED]:
            made = export(subject.run, to, Path(scratch) / f"{to}-{dtype}", dtype=dtype)
            written = next(made.path.glob("*.gguf"), made.path)
            found.append(verify(LAYOUTS[to], dtype, written, subject.portable, held))
    return found


if __name__ == "__main__":
    main()
