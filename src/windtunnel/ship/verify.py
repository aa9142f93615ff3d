"""What was written, loaded by the engine that people will load it with, against our own forward
pass in fp32: the log-probabilities of held-out tokens, and the ids of lines of text.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from windtunnel.data.shards import Corpus, Source, TokenStream
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import Model
from windtunnel.ship.engine import LlamaCpp, apart, version
from windtunnel.ship.extras import package
from windtunnel.ship.gguf_file import metadata

Layout = Literal["hf", "minicpm", "llama", "gguf"]

# How far an engine's arithmetic of fp32 weights may be from ours, nats: the largest difference of
# a log-probability.
_MOST: dict[str, float] = {"hf": 1e-4, "llama": 1e-4, "minicpm": 1e-4, "F32": 5e-4}
# Rounded weights: the change in bits a byte, as a share. A wrong multiplier or a lost tensor
# changes far more.
_CHANGE = {
    "F16": 0.001,
    "BF16": 0.005,
    "Q8_0": 0.005,
    "Q5_1": 0.03,
    "Q5_0": 0.03,
    "Q4_1": 0.1,
    "Q4_0": 0.1,
}
_PART = 20_000  # tokens decoded at once
ODD_LINES = (
    "<|end|><|user|>special tokens, written out<|assistant|>",
    "tabs\tand  two   three spaces, trailing  ",
    "12345 1,234.5 ½ Ⅷ ٣٤٥ 四十二 ²³ x₁",
    "I'm, they'll, WE'VE, 'tis, don’t — “quoted” … ¿qué?",
    "naïve café, Ελληνικά, кириллица, עברית, العربية, हिन्दी, ไทย, 한국어, 日本語, 繁體中文",
    "e\u0301 (combining) \u00a0 (no break) \u200b (no width) \u2028 (line) \u3000 (wide) \ufeff (mark)",
    "🙂 👩‍👩‍👧‍👦 🇫🇷 👍🏽 ﷽ \U0001f9ff \U00020000 \U000e0041",
    "a\u0000b \u0001\u001f\u007f\u0085 \ufffd \ufdd0",
)


@dataclass(frozen=True)
class HeldOut:
    """Text that no training saw: `windows` (n, context) ids, the bytes of text of all of their
    tokens but the first, and lines of text.
    """

    windows: np.ndarray
    bytes: int
    lines: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """That have a log-probability."""
        return self.windows[:, 1:].size


@dataclass(frozen=True)
class Agreement:
    """`max_difference` and `mean_difference` of log-probabilities, nats; `bits_per_byte` with our
    forward pass in fp32, and what the engine's is more. `most`, `most_change`: what they may be
    at most; `lines`: whose ids were compared.
    """

    layout: str
    engine: str
    tokens: int
    max_difference: float
    mean_difference: float
    bits_per_byte: float
    bits_per_byte_change: float
    most: float | None
    most_change: float | None
    lines: int
    wrong_lines: int

    @property
    def good(self) -> bool:
        near = self.most is None or self.max_difference <= self.most
        same = (
            self.most_change is None
            or abs(self.bits_per_byte_change) <= self.most_change * self.bits_per_byte
        )
        return near and same and not self.wrong_lines and math.isfinite(self.max_difference)

    def __str__(self) -> str:
        allowed = f" (at most {self.most:g})" if self.most is not None else ""
        change = f" (at most {self.most_change:.1%})" if self.most_change is not None else ""
        ids = (
            f"; ids of {self.lines - self.wrong_lines:,} of {self.lines:,} lines are ours"
            if self.lines
            else ""
        )
        return (
            f"{self.layout}: {self.engine}: |difference| of {self.tokens:,} held-out log-probabilities: "
            f"max {self.max_difference:.2g}{allowed}, mean {self.mean_difference:.2g}; "
            f"{self.bits_per_byte:.4f} bits/byte {self.bits_per_byte_change:+.2g}{change}{ids}"
        )


def held_out(corpus: Corpus, context: int, tokens: int = 2000, lines: int = 1000) -> HeldOut:
    """At least `tokens` tokens to score out of every source's validation split, spread over it,
    and lines of its text, odd ones first. Raises InputError where no split holds a window.
    """
    sources = [source for source in corpus.sources.values() if source.validation.tokens >= context]
    if not sources:
        raise InputError(f"{corpus.folder}: no validation split holds {context} tokens")
    each = math.ceil(tokens / (context - 1) / len(sources))
    windows = spread([source.validation for source in sources], each, context)
    text = _lines(corpus, sources, lines - len(ODD_LINES))
    sizes = corpus.tokenizer.token_bytes[windows[:, 1:]]
    return HeldOut(windows, int(sizes.sum()), (*ODD_LINES, *text)[:lines])


def spread(streams: Sequence[TokenStream], each: int, length: int) -> np.ndarray:
    """Windows (n, length) of ids: `each` of every stream, evenly over it, or as many different
    ones as it has.
    """
    starts = [
        np.unique(np.linspace(0, stream.tokens - length, each).astype(np.int64))
        for stream in streams
    ]
    return np.concatenate(
        [stream.read(at, length) for stream, at in zip(streams, starts, strict=True)]
    )


def verify(
    model: Model,
    weights: Mapping[str, Tensor],
    layout: Layout,
    path: Path,
    tokenizer: Tokenizer,
    held: HeldOut,
) -> Agreement:
    """Load what was written at `path`, a folder or a file, and compare. Raises InputError where
    the engine is not installed or does not load it.
    """
    ours = log_probabilities(model, weights, held.windows)
    name, theirs, ids = _ENGINES[layout](path, held)
    kind = _quantisation(path) if layout == "gguf" else layout
    wrong = sum(
        tokenizer.encode(line).tolist() != found
        for line, found in zip(held.lines, ids, strict=False)
    )
    difference, loss = np.abs(ours - theirs), bits_per_byte(ours, held)
    return Agreement(
        layout=layout if layout == kind else f"{layout} {kind}",
        engine=name,
        tokens=held.tokens,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        bits_per_byte=loss,
        bits_per_byte_change=bits_per_byte(theirs, held) - loss,
        most=_MOST.get(kind),
        most_change=_CHANGE.get(kind),
        lines=len(ids),
        wrong_lines=wrong,
    )


def bits_per_byte(log_probabilities: np.ndarray, held: HeldOut) -> float:
    """Of held-out text whose tokens have these log-probabilities."""
    return float(-log_probabilities.sum() / math.log(2) / max(1, held.bytes))


@torch.no_grad()
def log_probabilities(
    model: Model, weights: Mapping[str, Tensor], windows: np.ndarray
) -> np.ndarray:
    """Our forward pass in fp32: windows (n, T + 1) of ids -> log-probability of each but the
    first (n, T), nats.
    """
    decoder = Decoder(model, windows.shape[1])
    decoder.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return np.concatenate([_chosen(decoder.logits(part[:, :-1]), part) for part in _rows(windows)])


def scored(
    file: Path, windows: np.ndarray, lines: Sequence[str] = ()
) -> tuple[np.ndarray, list[list[int]]]:
    """By llama.cpp: log-probabilities of windows (n, T + 1), (n, T), and the ids of lines."""
    with LlamaCpp(file, windows.shape[1], exact=True) as engine:
        return engine.log_probabilities(windows), engine.tokenise(lines)


def _transformers(folder: Path, held: HeldOut) -> tuple[str, np.ndarray, list[list[int]]]:
    transformers = package("transformers")
    # else it warns of every line that is longer than a window
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    loaded.eval()
    with torch.no_grad():
        theirs = np.concatenate(
            [_chosen(loaded(part[:, :-1]).logits, part) for part in _rows(held.windows)]
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = [
        tokenizer.encode(line, add_special_tokens=False, split_special_tokens=True)
        for line in held.lines
    ]
    return f"transformers {transformers.__version__} {type(loaded).__name__}", theirs, ids


def _llama_cpp(file: Path, held: HeldOut) -> tuple[str, np.ndarray, list[list[int]]]:
    return version(), *apart(scored, file, held.windows, held.lines)


def _read_back(folder: Path, held: HeldOut) -> tuple[str, np.ndarray, list[list[int]]]:
    """No installed engine reads MiniCPM's layout without code out of the checkpoint itself, which
    is never run.
    """
    from windtunnel.ship.huggingface import read

    there = read(folder)
    return (
        "read back by windtunnel",
        log_probabilities(there.model, there.weights, held.windows),
        [],
    )


_ENGINES = {"hf": _transformers, "llama": _transformers, "minicpm": _read_back, "gguf": _llama_cpp}


def _quantisation(file: Path) -> str:
    kind = metadata(file)["general.file_type"]
    return package("gguf").LlamaFileType(kind).name.split("_", 1)[1]


def _chosen(logits: Tensor, windows: Tensor) -> np.ndarray:
    return logits.double().log_softmax(-1).gather(-1, windows[:, 1:, None])[..., 0].cpu().numpy()


def _rows(windows: np.ndarray, tokens: int = 4096) -> Iterator[Tensor]:
    rows = max(1, tokens // windows.shape[1])
    yield from torch.from_numpy(windows).split(rows)


def _lines(corpus: Corpus, sources: Sequence[Source], count: int) -> list[str]:
    """Lines of every source, of each as many as it has and the others leave."""
    lines: list[str] = []
    smallest_first = sorted(sources, key=lambda source: source.validation.tokens)
    for left, source in zip(range(len(sources), 0, -1), smallest_first, strict=True):
        lines += islice(_lines_of(corpus, source), math.ceil(max(0, count - len(lines)) / left))
    return lines


def _lines_of(corpus: Corpus, source: Source) -> Iterator[str]:
    """The lines of its validation split that are not empty, and behind them those of its training
    text.
    """
    end = corpus.tokenizer.eos
    for stream in (source.validation, source.train):
        for start in range(0, stream.tokens, _PART):
            ids = stream.read(np.array([start]), min(_PART, stream.tokens - start))[0]
            for document in np.split(ids, np.flatnonzero(ids == end)):
                text = corpus.tokenizer.decode(document[document != end])
                yield from filter(None, text.split("\n"))
