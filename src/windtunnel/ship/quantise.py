"""Four bits for devices: group-wise, with the rounding errors of a layer's inputs compensated
(GPTQ), against plain rounding.

A group of 32 numbers along the input has a scale (max - min) / 15 and a minimum, both fp16: the
paper's appendix D, and what GGUF calls Q4_1. GPTQ (2210.17323) rounds one input column after the
other and lets the columns that are not yet rounded take up the error, weighted by the
correlations of the layer's inputs on calibration text. The layers before are rounded by then.
Norms and routers stay in full, tables in 8 bits. An expert is calibrated on the tokens that its
router sends to it; one that gets none is rounded plainly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from windtunnel.data.chat_format import format_of
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import Model
from windtunnel.ship import gguf
from windtunnel.ship.engine import LlamaCpp, Speed, apart
from windtunnel.ship.verify import (
    HeldOut,
    bits_per_byte,
    held_out,
    log_probabilities,
    scored,
    spread,
)
from windtunnel.train.loop import load_model
from windtunnel.train.run import Run, open_corpus

GROUP = 32  # numbers that share a scale: GGUF's block
_LEVELS = 15
_DAMPING = 0.01  # of the mean diagonal of H, added to it: GPTQ's own
_MATRICES = ("query", "key", "value", "output", "gate", "up", "down")
_EXPERTS_PRODUCT = torch.ops.windtunnel.grouped_product.default
_PRODUCTS = (Tensor.__matmul__, Tensor.matmul, torch.matmul, _EXPERTS_PRODUCT)
_TIMED = 128  # tokens generated for the speed
_ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One file: its size; on held-out text its bits a byte and the mean |difference| of its
    log-probabilities from our fp32, nats; tokens a second by llama.cpp, one after the other and
    of a prompt.
    """

    name: str
    file: Path
    bytes: int
    bits_per_byte: float
    difference: float
    generation: float
    prompt: float


def table_of(run: Run, folder: Path, tokens: int = 10_000) -> list[Row]:
    """The table of a run's last checkpoint, calibrated and measured on its own corpus, on about
    `tokens` held-out tokens. The files stay in `folder`. Raises InputError for a run without a
    checkpoint or a corpus.
    """
    corpus, context = open_corpus(run.lab, run.recipe), run.recipe.data.context
    weights = {name: weight.detach() for name, weight in load_model(run).named_parameters()}
    template = format_of(corpus.tokenizer).template
    about = gguf.About(run.recipe.name, context, template)
    folder.mkdir(parents=True, exist_ok=True)
    return table(
        run.recipe.model,
        weights,
        run.tokenizer,
        folder,
        about,
        calibration(corpus, context),
        held_out(corpus, context, tokens, lines=0),
    )


def table(
    model: Model,
    weights: Mapping[str, Tensor],
    tokenizer: Path,
    folder: Path,
    about: gguf.About,
    calibration: np.ndarray,
    held: HeldOut,
) -> list[Row]:
    """Write the model in every precision into `folder` and measure each with llama.cpp.
    `calibration` (n, T): windows of training text.
    """
    kinds = ("F32", "F16", "Q8_0", "Q5_1", "Q4_1", "Q4_0")
    files = [(kind, kind, folder / f"{about.name}-{kind}.gguf") for kind in kinds]
    for _, kind, file in files:
        gguf.write(model, weights, tokenizer, file, kind, about)
    best = ("Q4_1 calibrated", "Q4_1", folder / f"{about.name}-Q4_1-calibrated.gguf")
    gguf.write(
        model, weights, tokenizer, best[2], "Q4_1", about, calibrated(model, weights, calibration)
    )
    ours = log_probabilities(model, weights, held.windows)
    files = [*files, best]
    prompt = held.windows[0][: held.windows.shape[1] // 2].tolist()
    tokens = min(_TIMED, held.windows.shape[1] - len(prompt) - 1)
    speeds = apart(_speeds, folder, [file.name for _, _, file in files], prompt, tokens)
    return [
        _measure(name, file, held, ours, speed)
        for (name, _, file), speed in zip(files, speeds, strict=True)
    ]


def calibration(corpus: Corpus, context: int, tokens: int = 20_000) -> np.ndarray:
    """Windows (n, context) of about as many tokens, spread over every source's training text.
    Raises InputError.
    """
    sources = [source for source in corpus.sources.values() if source.train.tokens >= context]
    if not sources:
        raise InputError(f"{corpus.folder}: no source holds {context} tokens")
    each = max(1, tokens // context // len(sources))
    return spread([source.train for source in sources], each, context)


def markdown(rows: Sequence[Row]) -> str:
    """The table as people read it; changes are against the first row."""
    lines = [
        "| weights | MB | bits/byte | change | mean difference | tokens/s | prompt tokens/s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        change = row.bits_per_byte - rows[0].bits_per_byte
        lines.append(
            f"| {row.name} | {row.bytes / 1e6:.2f} | {row.bits_per_byte:.4f} | {change:+.4f} | {row.difference:.4f} "
            f"| {row.generation:,.0f} | {row.prompt:,.0f} |"
        )
    return "\n".join(lines)


@torch.no_grad()
def calibrated(
    model: Model, weights: Mapping[str, Tensor], windows: np.ndarray
) -> dict[str, np.ndarray]:
    """GPTQ of every matrix whose rows blocks fill, as rows of Q4_1 blocks (uint8), by our names.
    `windows` (n, T): ids of calibration text.
    """
    decoder = Decoder(model, windows.shape[1])
    decoder.load_state_dict({name: weight.float() for name, weight in weights.items()})
    tokens, encoded = torch.from_numpy(windows), {}
    for layer in range(model.depth):
        matrices = {
            f"layers.{layer}.{kind}": decoder.get_parameter(f"layers.{layer}.{kind}")
            for kind in _MATRICES
        }
        with _Inputs(matrices) as inputs:
            for part in tokens.split(max(1, 4096 // windows.shape[1])):
                decoder(part)
        for name, matrix in matrices.items():
            if matrix.shape[-1] % GROUP == 0:
                encoded[name] = _round(matrix, inputs.products[name])
    return encoded


def _round(matrix: Tensor, products: Tensor) -> np.ndarray:
    """Round a matrix, or each of several, in place to what its blocks say, and return these:
    (..., out, bytes).
    """
    if matrix.dim() > 2:
        return np.stack([_round(one, its) for one, its in zip(matrix, products, strict=True)])
    codes, scales, minima = gptq(matrix, products)
    matrix.copy_(_values(codes, scales, minima))
    return _blocks(codes, scales, minima)


def gptq(weight: Tensor, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """weight (out, in); products (in, in): sums of x x^T over its inputs -> codes (out, in)
    0..15, and scales and minima (out, in / GROUP), already rounded to fp16.
    """
    rest, size = weight.clone(), weight.shape[1]
    products = products.double() + torch.eye(size) * (
        _DAMPING * products.diagonal().mean().double() + 1e-12
    )
    # row j of this: how column j's error is spread over the columns behind it
    spread = torch.linalg.cholesky(
        torch.cholesky_inverse(torch.linalg.cholesky(products)), upper=True
    ).float()
    codes, scales, minima = torch.empty_like(rest), [], []
    for start in range(0, size, GROUP):
        end = start + GROUP
        scale, least = _grid(rest[:, start:end])
        errors = torch.empty_like(rest[:, start:end])
        for column in range(start, end):
            codes[:, column] = _nearest(rest[:, column], scale, least)
            errors[:, column - start] = (
                rest[:, column] - codes[:, column] * scale - least
            ) / spread[column, column]
            rest[:, column:end] -= errors[:, column - start, None] * spread[column, column:end]
        rest[:, end:] -= errors @ spread[start:end, end:]
        scales.append(scale)
        minima.append(least)
    return codes, torch.stack(scales, 1), torch.stack(minima, 1)


class _Inputs(TorchFunctionMode):
    """Sums x x^T over everything that is multiplied with these matrices while it is entered, as
    `x @ matrix.mT`, or as the rows of each expert with its own matrix: (in, in), or (experts, in,
    in).
    """

    def __init__(self, matrices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {matrix.data_ptr(): name for name, matrix in matrices.items()}
        self.products = {
            name: torch.zeros(*matrix.shape[:-2], matrix.shape[-1], matrix.shape[-1])
            for name, matrix in matrices.items()
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and args[1].data_ptr() in self._names:
            products = self.products[self._names[args[1].data_ptr()]]
            if func is _EXPERTS_PRODUCT:
                for each, rows in zip(
                    products, args[0].tensor_split(args[2][:-1].tolist()), strict=True
                ):
                    each.addmm_(rows.mT, rows)
            else:
                rows = args[0].flatten(0, -2)
                products.addmm_(rows.mT, rows)
        return func(*args, **(kwargs or {}))


def _grid(group: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum of each row, as fp16 holds them."""
    least, most = group.amin(1), group.amax(1)
    return ((most - least) / _LEVELS).half().float(), least.half().float()


def _nearest(values: Tensor, scale: Tensor, least: Tensor) -> Tensor:
    steps = torch.where(scale > 0, (values - least) / scale, torch.zeros_like(values))
    return steps.round().clamp(0, _LEVELS)


def _values(codes: Tensor, scales: Tensor, minima: Tensor) -> Tensor:
    groups = codes.unflatten(1, (-1, GROUP))
    return (groups * scales[..., None] + minima[..., None]).flatten(1)


def _blocks(codes: Tensor, scales: Tensor, minima: Tensor) -> np.ndarray:
    """A block: scale and minimum as fp16, then 16 bytes, each with a code of the group's first
    half in its low bits and one of the second half in its high bits.
    """
    groups = codes.to(torch.uint8).unflatten(1, (-1, 2, GROUP // 2)).numpy()
    packed = groups[:, :, 0] | groups[:, :, 1] << 4
    heads = np.stack([scales.half().numpy(), minima.half().numpy()], -1).view(np.uint8)
    return np.concatenate([heads, packed], -1).reshape(len(groups), -1)


def _speeds(folder: Path, names: Sequence[str], prompt: list[int], tokens: int) -> list[Speed]:
    """Of each file the best of some rounds, in turns: a machine is slower for minutes at a time,
    and other programs only ever make it slower.
    """
    found: list[list[Speed]] = [[] for _ in names]
    for _ in range(_ROUNDS):
        for name, speeds in zip(names, found, strict=True):
            with LlamaCpp(folder / name) as engine:
                speeds.append(engine.speed(prompt, tokens))
    return [
        Speed(max(s.prompt for s in speeds), max(s.generation for s in speeds)) for speeds in found
    ]


def _measure(name: str, file: Path, held: HeldOut, ours: np.ndarray, speed: Speed) -> Row:
    theirs, _ = apart(scored, file, held.windows)
    difference = float(np.abs(ours - theirs).mean())
    return Row(
        name,
        file,
        file.stat().st_size,
        bits_per_byte(theirs, held),
        difference,
        speed.generation,
        speed.prompt,
    )
