"""`windtunnel export --table`: a run's model as GGUF in every precision, each measured with
llama.cpp.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.results.export import Precision
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.gguf.gptq import calibrated
from windtunnel.ship.gguf.model import write
from windtunnel.ship.held_out import HeldOut, held_out, spread
from windtunnel.ship.layouts import plain_name
from windtunnel.ship.llama_cpp import LlamaCpp, Speed, apart, scored
from windtunnel.ship.portable import PortableModel
from windtunnel.ship.subject import Subject

_DTYPES = ("F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q4_K_M", "Q4_1", "Q4_0")
_CALIBRATED = "Q4_1"  # what GPTQ rounds to
_HELD_OUT = 10_000  # tokens
_TIMED = 128  # tokens generated for the speed
_ROUNDS = 5


def precisions(subject: Subject, folder: Path) -> list[Precision]:
    """Write the subject in every precision into `folder`, and measure each on held-out text of its
    corpus. Raises InputError for an imported model, which has no corpus.
    """
    run, corpus = subject.run, subject.corpus
    if corpus is None:
        raise InputError(
            f"{run.recipe.name}: --table calibrates on the run's corpus, and an imported model has "
            "none: branch it first"
        )
    context = run.recipe.data.context
    # No lines: all files have the same tokenizer, which `--to gguf` compares.
    held = held_out(corpus, context, _HELD_OUT, lines=0)
    return table(subject.portable, folder, calibration(corpus, context), held)


def table(
    portable: PortableModel, folder: Path, calibration: np.ndarray, held: HeldOut
) -> list[Precision]:
    """Write the model in every precision into `folder`, and measure each with llama.cpp on
    held-out text. `calibration` (n, T): windows of training text.
    """
    files = {}
    for dtype in _DTYPES:
        files[dtype] = folder / f"{plain_name(portable.name)}-{dtype}.gguf"
        write(files[dtype], portable, dtype)
    name = f"{_CALIBRATED} calibrated"
    files[name] = folder / f"{plain_name(portable.name)}-{_CALIBRATED}-calibrated.gguf"
    encoded = calibrated(portable.model, portable.weights, calibration)
    write(files[name], portable, _CALIBRATED, encoded)
    ours = log_probabilities(portable.model, portable.weights, held.windows)
    # Half of a window is the prompt, and what is generated must fit into the rest of the context.
    window = held.windows[0].tolist()
    prompt = window[: len(window) // 2]
    timed = min(_TIMED, len(window) - len(prompt) - 1)
    names = [file.name for file in files.values()]
    speeds = apart(_speeds, folder, names, prompt, timed)
    return [
        _measure(name, file, held, ours, speed)
        for (name, file), speed in zip(files.items(), speeds, strict=True)
    ]


def calibration(corpus: Corpus, context: int, tokens: int = 20_000) -> np.ndarray:
    """Windows (n, context) of about `tokens` tokens, spread over every source's training text.
    Raises InputError where no source holds a window.
    """
    sources = [source for source in corpus.sources.values() if source.train.tokens >= context]
    if not sources:
        raise InputError(f"{corpus.folder}: no source holds {context} tokens")
    each = max(1, tokens // context // len(sources))
    return spread([source.train for source in sources], each, context)


def markdown(rows: Sequence[Precision]) -> str:
    """The table as people read it; changes are against the first row."""
    lines = [
        "| weights | MB | bits/byte | change | mean difference | tokens/s | prompt tokens/s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [
            row.name,
            f"{row.bytes / 1e6:.2f}",
            f"{row.bits_per_byte:.4f}",
            f"{row.bits_per_byte - rows[0].bits_per_byte:+.4f}",
            f"{row.difference:.4f}",
            f"{row.generation:,.0f}",
            f"{row.prompt:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _speeds(folder: Path, names: Sequence[str], prompt: list[int], tokens: int) -> list[Speed]:
    """The best speed of each file over some rounds, in which the files take turns: a machine is
    slower for minutes at a time, and other programs only ever make it slower.
    """
    found: list[list[Speed]] = [[] for _ in names]
    for _ in range(_ROUNDS):
        for name, speeds in zip(names, found, strict=True):
            with LlamaCpp(folder / name) as engine:
                speeds.append(engine.speed(prompt, tokens))
    best = []
    for speeds in found:
        prompt_speed = max(speed.prompt for speed in speeds)
        generation = max(speed.generation for speed in speeds)
        best.append(Speed(prompt=prompt_speed, generation=generation))
    return best


def _measure(name: str, file: Path, held: HeldOut, ours: np.ndarray, speed: Speed) -> Precision:
    theirs = apart(scored, file, held.windows)
    return Precision(
        name=name,
        file=file,
        bytes=file.stat().st_size,
        bits_per_byte=held.bits_per_byte(theirs),
        difference=float(np.abs(ours - theirs).mean()),
        generation=speed.generation,
        prompt=speed.prompt,
    )
