"""The table of roles against the papers' own numbers, and the initial weights against the table."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.model.init import initial_tensors
from windtunnel.model.roles import multipliers, role_of, rules
from windtunnel.model.shape import tensor_shapes
from windtunnel.recipe import PARAMETRIZATIONS, Model, Multipliers, Parametrization, Rule


def shape(**model: Any) -> Model:
    return Model.model_validate(
        {"width": 64, "depth": 2, "heads": 2, "vocab": 200, "base_width": 16} | model
    )


THE_2_4B = {
    "width": 2304,
    "depth": 40,
    "heads": 36,
    "kv_heads": 36,
    "vocab": 122_753,
    "base_width": 256,
}
THE_9M = {"width": 320, "depth": 8, "heads": 5, "kv_heads": 5, "vocab": 122_753, "base_width": 256}
GAIN = Rule(mean=1.0, std=0.0, lr=1.0, eps=1.0, weight_decay=0.0)


def is_rule(rule: Rule, std: float, lr: float, eps: float = 1.0) -> bool:
    expected = (0.0, std, lr, eps, 1.0)
    return (rule.mean, rule.std, rule.lr, rule.eps, rule.weight_decay) == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_of_a_shape_has_a_role_by_its_kind(tied: bool) -> None:
    for parametrization in PARAMETRIZATIONS:
        model = shape(tied=tied, parametrization=parametrization)
        table = rules(model)
        for name, extent in tensor_shapes(model).items():
            assert (role_of(name) == "gain") == (len(extent) == 1), name
            assert role_of(name) in table
    matrices = {name.split(".")[-1] for name in tensor_shapes(model) if role_of(name) == "matrix"}
    assert matrices == {"query", "key", "value", "output", "gate", "up", "down"}


def test_minicpms_2_4b_is_as_in_the_paper() -> None:
    model = shape(**THE_2_4B)
    table = rules(model)
    assert is_rule(table["matrix"], std=0.1 / 3, lr=1 / 9)
    assert 0.01 * table["matrix"].lr == pytest.approx(0.00111, abs=1e-5)
    assert is_rule(table["head"], std=0.1 / 3, lr=1 / 9)
    assert is_rule(table["embedding"], std=0.1, lr=1.0)
    assert table["gain"] == GAIN
    m = multipliers(model)
    assert (m.embedding, m.residual, m.attention, m.logits) == pytest.approx(
        (12, 0.2214, 1 / 8, 1 / 9), abs=5e-5
    )


def test_minicpms_9m_is_as_in_the_paper() -> None:
    model = shape(**THE_9M)
    table, m = rules(model), multipliers(model)
    assert is_rule(table["matrix"], std=0.08944, lr=0.8)
    assert is_rule(table["embedding"], std=0.1, lr=1.0)
    assert (m.embedding, m.residual, m.attention, m.logits) == pytest.approx(
        (12, 0.4950, 1 / 8, 0.8), abs=5e-5
    )


def test_an_embedding_can_be_taken_as_a_matrix() -> None:
    table = rules(shape(**THE_2_4B, embedding_as="matrix"))
    assert is_rule(table["embedding"], std=0.1 / 3, lr=1 / 9)
    assert table["embedding"] == table["matrix"]


def test_completep_at_four_times_the_width_and_depth() -> None:
    """alpha = 1 of arXiv 2505.01618: a hidden matrix's rate by 1/m, its eps and a gain's by 1/(m
    mL), the others' eps by 1/m, residual branches by 1/mL.
    """
    model = shape(parametrization="completep", width=64, depth=32, base_width=16, base_depth=8)
    table = rules(model)
    assert is_rule(table["matrix"], std=0.05, lr=1 / 4, eps=1 / 16)
    assert is_rule(table["embedding"], std=0.1, lr=1.0, eps=1 / 4)
    assert is_rule(table["head"], std=0.1, lr=1.0, eps=1 / 4)
    assert table["gain"] == replace(GAIN, eps=1 / 16)
    at_base = 1.4 / math.sqrt(8)
    m = multipliers(model)
    assert (m.embedding, m.residual, m.attention, m.logits) == pytest.approx(
        (12, at_base / 4, 32**-0.5, 1 / 4)
    )


@pytest.mark.parametrize("depth", [2, 8])
def test_at_its_base_shape_completep_is_minicpm(depth: int) -> None:
    base = {"width": 64, "base_width": 64, "depth": depth, "base_depth": depth}
    ours, theirs = (shape(**base, parametrization=name) for name in ("completep", "minicpm"))
    assert vars(multipliers(ours)) == pytest.approx(vars(multipliers(theirs)))
    assert rules(ours) == rules(theirs)


def test_standard_has_one_rate_and_no_multipliers() -> None:
    model = shape(parametrization="standard")
    table = rules(model)
    assert is_rule(table["matrix"], std=0.05, lr=1.0)
    assert is_rule(table["head"], std=0.05, lr=1.0)
    assert is_rule(table["embedding"], std=0.1, lr=1.0)
    assert table["gain"] == GAIN
    assert multipliers(model) == Multipliers(
        embedding=1.0, residual=1.0, attention=1 / math.sqrt(32), logits=1.0
    )


# --- one more table of rules


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> str:
    """completep with embeddings drawn half as wide and an alpha of 3/4."""
    completep = PARAMETRIZATIONS["completep"]

    def half_rules(model: Model) -> Any:
        table = completep.rules(model)
        return table | {"embedding": replace(table["embedding"], std=model.init_std / 2)}

    def half_multipliers(model: Model) -> Multipliers:
        residual = model.scale_depth * (model.base_depth / model.depth) ** 0.75
        return replace(completep.multipliers(model), residual=residual)

    record = Parametrization(
        name="half",
        help="for this test",
        rules=half_rules,
        multipliers=half_multipliers,
        orthogonal_lr=completep.orthogonal_lr,
        residual_exponent=0.75,
    )
    monkeypatch.setitem(PARAMETRIZATIONS, record.name, record)
    return record.name


def test_an_added_parametrization_has_its_own_rules_everywhere(half: str) -> None:
    model = shape(parametrization=half, tied=False, depth=8, base_depth=4)
    weights = initial_tensors(model, 0)
    assert weights["embedding"].std().item() == pytest.approx(0.05, rel=0.05)
    assert weights["head"].std().item() == pytest.approx(0.1, rel=0.05)
    decoder = Decoder(model, context=8)
    assert decoder.residual_multiplier.item() == pytest.approx(1.4 * 0.5**0.75)
    assert decoder.logit_multiplier.item() == pytest.approx(1 / 4)


def test_an_unknown_parametrization_is_refused() -> None:
    known = "expected one of minicpm, completep, standard"
    with pytest.raises(InputError, match=f"parametrization 'mup': {known}"):
        rules(shape().model_copy(update={"parametrization": "mup"}))


# --- initial weights


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_initial_weights_are_normal_with_the_rules_deviation(parametrization: str) -> None:
    model = shape(parametrization=parametrization, tied=False, width=128, vocab=500, init_std=0.07)
    table = rules(model)
    for name, tensor in initial_tensors(model, 0).items():
        assert tuple(tensor.shape) == tensor_shapes(model)[name] and tensor.dtype == torch.float32
        rule, n = table[role_of(name)], tensor.numel()
        if rule.std == 0:
            assert bool((tensor == rule.mean).all())
            continue
        unit = (tensor - rule.mean) / rule.std
        assert abs(unit.mean().item()) < 5 / math.sqrt(n)
        assert abs(unit.std().item() - 1) < 5 / math.sqrt(2 * n)
        assert abs((unit.abs() < 1).double().mean().item() - 0.6827) < 5 * 0.4654 / math.sqrt(n)


def test_no_two_tensors_are_alike() -> None:
    tensors = initial_tensors(shape(tied=False), 0)
    flat = {name: tensor.flatten()[:512] for name, tensor in tensors.items() if tensor.dim() == 2}
    correlations = torch.corrcoef(torch.stack(list(flat.values())))
    assert (correlations - torch.eye(len(flat))).abs().max() < 6 / math.sqrt(512)


@pytest.mark.parametrize(
    "change", [{"depth": 5}, {"vocab": 999}, {"ffn": 32}, {"tied": False}, {"kv_heads": 1}]
)
def test_a_tensor_does_not_depend_on_the_depth_nor_on_other_tensors(change: dict[str, Any]) -> None:
    before, after = initial_tensors(shape(), 0), initial_tensors(shape(**change), 0)
    same = [name for name in before if before[name].shape == after[name].shape]
    assert "layers.1.query" in same
    assert all(torch.equal(before[name], after[name]) for name in same)


def test_seeds_differ_and_a_seed_is_always_the_same() -> None:
    first, again, other = (initial_tensors(shape(), seed) for seed in (0, 0, 1))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        if role_of(name) != "gain":
            assert (tensor == other[name]).double().mean() < 0.01


def test_torchs_own_seed_does_not_matter() -> None:
    torch.manual_seed(1)
    before = initial_tensors(shape(), 0)
    torch.manual_seed(2)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in initial_tensors(shape(), 0).items()
    )
