"""Preference losses against their papers' formulas, worked out by hand, and how records are found
in a window.
"""

import math

import pytest
import torch

from windtunnel.errors import InputError
from windtunnel.recipe import OBJECTIVES, PREFERENCE_LOSSES, Preferred, Seen
from windtunnel.recipe.objective import compare
from windtunnel.recipe.preference import CHOSEN, MISMATCHED, REJECTED, Compared


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def one(first: float, second: float, good: bool = True) -> Compared:
    def shaped(value: object) -> torch.Tensor:
        return torch.tensor([[value]])

    return Compared(
        first=shaped(first), second=shaped(second), good=shaped(good), there=shaped(True)
    )


BY_HAND = {
    "sigmoid": -math.log(s(0.5 * (2 - -1))),
    "ipo": (2 - -1 - 1 / (2 * 0.5)) ** 2,
    "hinge": max(0.0, 1 - 0.5 * (2 - -1)),
    "nca": -math.log(s(0.5 * 2)) - math.log(s(-0.5 * 2)) / 2 - math.log(s(0.5)) / 2,
    "kto": 1 - s(0.5 * (2 - 0)),  # the divergence is never below zero
}


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_of_one_record(name: str) -> None:
    loss = PREFERENCE_LOSSES[name].smoothed(one(2.0, -1.0), torch.tensor(0.5), 0.0)
    assert loss.item() == pytest.approx(BY_HAND[name])


def test_a_bad_answer_is_held_below_the_divergence() -> None:
    loss = PREFERENCE_LOSSES["kto"].smoothed(one(2.0, 0.5, good=False), torch.tensor(0.5), 0.0)
    assert loss.item() == pytest.approx(1 - s(0.5 * (0.5 - 2)))


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_smoothing_expects_some_judgements_to_be_wrong(name: str) -> None:
    kind, beta = PREFERENCE_LOSSES[name], torch.tensor(0.5)
    right, wrong = one(2.0, -1.0), one(-1.0, 2.0)
    if kind.needs == "judged":
        wrong = one(2.0, -1.0, good=False)
    expected = 0.9 * kind.loss(right, beta) + 0.1 * kind.loss(wrong, beta)
    assert torch.allclose(kind.smoothed(right, beta, 0.1), expected)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_at_a_tie_there_is_a_way_to_go(name: str) -> None:
    """Where training begins, the chosen answer is pulled and the rejected one pushed."""
    first, second = torch.zeros(1, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
    yes = torch.ones(1, 1, dtype=torch.bool)
    compared = Compared(first=first, second=second, good=yes, there=yes)
    PREFERENCE_LOSSES[name].loss(compared, torch.tensor(0.1)).sum().backward()
    assert first.grad is not None and first.grad.item() < 0
    if name == "sigmoid":
        assert first.grad.item() == pytest.approx(-0.05)
    if PREFERENCE_LOSSES[name].needs == "pairs":
        assert second.grad is not None and second.grad.item() > 0


def test_far_from_a_tie_nothing_overflows() -> None:
    for name, kind in PREFERENCE_LOSSES.items():
        for first in (-1e4, 1e4):
            loss = kind.loss(one(first, -first), torch.tensor(1.0))
            assert torch.isfinite(loss).all(), name


def test_records_are_found_in_windows() -> None:
    """Two windows of 8 targets: documents 4 to 7, which are two records, and 8 and 9, which are
    one; what is not learnt counts for nothing.
    """
    documents = torch.tensor([[4, 4, 5, 5, 6, 6, 7, 7], [8, 8, 8, 9, 9, 9, 9, 9]])
    learnt = torch.ones(2, 8, dtype=torch.bool)
    learnt[:, 0] = False
    learnt[1, 5:] = False
    nats = torch.arange(16.0).view(2, 8)
    roles = torch.tensor([CHOSEN, REJECTED] * 3 + [CHOSEN, MISMATCHED, REJECTED, MISMATCHED])
    told = Preferred(
        loss=PREFERENCE_LOSSES["sigmoid"],
        beta=torch.tensor(0.1),
        smoothing=0.0,
        per_token=False,
        reference=torch.arange(10) * 100.0,
        roles=roles.to(torch.uint8),
    )
    seen = Seen(learnt=learnt, documents=documents, preferred=told)
    found = compare(nats, seen)
    assert found.there.tolist() == [[True, True, False, False], [True, False, False, False]]
    # the reference's nats less the model's
    assert found.first[0, :2].tolist() == [400 - 1, 600 - (4 + 5)]
    assert found.second[0, :2].tolist() == [500 - (2 + 3), 700 - (6 + 7)]
    assert found.first[1, 0] == 800 - (9 + 10) and found.second[1, 0] == 900 - (11 + 12)
    assert found.good[0, :2].tolist() == [True, True] and not found.good[1, 0]
    assert OBJECTIVES["preferences"].size(seen).item() == 3

    by_token = Seen(
        learnt=learnt,
        documents=documents,
        preferred=Preferred(**{**told.__dict__, "per_token": True}),
    )
    assert compare(nats, by_token).first[0, :2].tolist() == [399, 591 / 2]


def test_an_unknown_loss_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"sigmoid, ipo, hinge, kto, nca.*did you mean 'hinge'"):
        PREFERENCE_LOSSES["hing"]
