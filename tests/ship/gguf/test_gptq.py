"""Four bits: what is written is what was computed, and calibration is better than rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ship_models import model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.gguf.gptq import calibrated, gptq
from windtunnel.ship.gguf.model import read, write
from windtunnel.ship.gguf.quantise import BLOCK
from windtunnel.ship.held_out import held_out
from windtunnel.ship.precisions import calibration

package = pytest.importorskip("gguf")


def _plain(weight: torch.Tensor) -> torch.Tensor:
    kind = package.GGMLQuantizationType.Q4_1
    return torch.from_numpy(package.dequantize(package.quantize(weight.numpy(), kind), kind))


def _gptq(weight: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    codes, scales, minima = gptq(weight, products)
    assert codes.min() >= 0 and codes.max() <= 15 and (codes == codes.round()).all()
    return codes * scales.repeat_interleave(BLOCK, 1) + minima.repeat_interleave(BLOCK, 1)


def test_inputs_without_correlation_leave_nothing_to_compensate() -> None:
    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(0))
    difference = (_gptq(weight, torch.eye(96) * 7) - _plain(weight)).abs()
    assert (difference > 2e-3).double().mean() < 0.01, "but where a number lies between two steps"


def test_correlated_inputs_are_compensated() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 12, generator=generator) @ torch.randn(12, 96, generator=generator)
    inputs += 0.1 * torch.randn(2000, 96, generator=generator)
    weight = torch.randn(64, 96, generator=generator)
    errors = [
        ((inputs @ (weight - rounded).T) ** 2).mean()
        for rounded in (_plain(weight), _gptq(weight, inputs.T @ inputs))
    ]
    assert errors[1] < 0.3 * errors[0]


def test_one_large_input_does_not_damp_the_others() -> None:
    """The damping is a share of the mean: with one of the largest, inputs that are small beside it
    would not be compensated.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 12, generator=generator) @ torch.randn(12, 96, generator=generator)
    inputs += 0.1 * torch.randn(2000, 96, generator=generator)
    inputs[:, -1] = 100 * torch.randn(2000, generator=generator)
    weight = torch.randn(64, 96, generator=generator)
    off = (weight - rounded for rounded in (_plain(weight), _gptq(weight, inputs.T @ inputs)))
    errors = [((inputs[:, :-1] @ part[:, :-1].T) ** 2).mean() for part in off]
    assert errors[1] < 0.5 * errors[0]


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    products = torch.diag(torch.cat([torch.zeros(32), torch.ones(32)]))
    assert (_gptq(weight, products) - weight).abs().max() < 0.3
    assert torch.equal(_gptq(torch.zeros(8, 64), torch.zeros(64, 64)), torch.zeros(8, 64))


@pytest.mark.parametrize("shape", ["tied", "grouped", "odd width", "experts"])
def test_blocks_are_read_back_as_they_were_computed(
    shape: str, corpus: Corpus, tmp_path: Path
) -> None:
    """In the file rows of query and key are in another order, and rows that blocks do not fill
    are not in blocks.
    """
    model = model_of(shape)
    weights = weights_of(model)
    encoded = calibrated(model, weights, calibration(corpus, 32, 2000))
    file = tmp_path / "x.gguf"
    write(file, portable_of(model, weights, corpus.tokenizer, 32), "Q4_1", encoded)
    found = read(file).weights
    whole = {
        "tied": 7 * 3,
        "grouped": 6 * 2,
        "odd width": 0,
        "experts": 7 * 3,
    }  # ffn 240 of grouped: down stays
    assert len(encoded) == whole[shape]
    for name, blocks in encoded.items():
        values = package.dequantize(blocks, package.GGMLQuantizationType.Q4_1)
        assert torch.equal(found[name], torch.from_numpy(values)), name
        assert (found[name] - weights[name]).abs().mean() < 0.2 * weights[name].abs().mean()


def test_every_expert_is_calibrated_by_itself(corpus: Corpus) -> None:
    """None is rounded plainly, and not all alike where all have the same weights."""
    model = model_of("experts")
    weights = weights_of(model)
    same = {name: t[:1].expand_as(t).clone() if t.dim() == 3 else t for name, t in weights.items()}
    encoded = calibrated(model, same, calibration(corpus, 32, 4000))
    for name in ("gate", "up", "down"):
        kind = package.GGMLQuantizationType.Q4_1
        made = [blocks.tobytes() for blocks in encoded[f"layers.0.{name}"]]
        made.append(package.quantize(same[f"layers.0.{name}"][0].numpy(), kind).tobytes())
        assert len(set(made)) == model.experts + 1, name


@pytest.mark.parametrize("shape", ["tied", "experts"])
def test_calibration_keeps_probabilities_nearer(shape: str, corpus: Corpus, tmp_path: Path) -> None:
    model = model_of(shape)
    weights = weights_of(model)
    held = held_out(corpus, 32, 1500, 10)
    ours = log_probabilities(model, weights, held.windows)
    differences = []
    for encoded in (None, calibrated(model, weights, calibration(corpus, 32, 4000))):
        file = tmp_path / "x.gguf"
        write(file, portable_of(model, weights, corpus.tokenizer, 32), "Q4_1", encoded)
        found = read(file)
        differences.append(
            np.abs(log_probabilities(model, found.weights, held.windows) - ours).mean()
        )
    assert differences[1] < 0.95 * differences[0], differences
