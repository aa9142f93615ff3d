"""The arms of a design."""

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.tunnel.ablate.arms import (
    WAYS,
    Arm,
    Way,
    arms_of,
    base_arm,
    natural_mixture,
    upweighted,
)
from windtunnel.tunnel.ablate.design import Design


def test_a_source_gets_its_share_more_and_the_others_less(corpus: Corpus) -> None:
    natural = natural_mixture(corpus)
    assert sum(natural.values()) == pytest.approx(1)
    assert natural["prose"] > natural["code"] > natural["notes"]
    mixture = upweighted(natural, "notes", 0.5)
    assert mixture["notes"] == pytest.approx(0.5 + natural["notes"] / 2)
    assert mixture["prose"] / mixture["code"] == pytest.approx(natural["prose"] / natural["code"])


def test_arms_differ_from_the_first_in_one_way(corpus: Corpus) -> None:
    mixtures = arms_of(Design(arms="mixture"), corpus)
    assert [arm.name for arm in mixtures] == ["natural", "prose", "code", "notes"]
    assert mixtures[0].mixture is None
    shapes = arms_of(Design(arms="shape"), corpus)
    assert shapes[0].shape == "linear" and len({arm.shape for arm in shapes}) == 5
    assert [arm.floor for arm in shapes if arm.shape == "exponential"] == [0.1]
    lengths = arms_of(Design(arms="length"), corpus)
    assert [arm.name for arm in lengths] == ["20%", "5%", "10%", "30%", "40%"]


def test_a_way_in_which_arms_differ_is_one_record(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(design: Design, corpus: Corpus) -> list[Arm]:
        return [base_arm(design), Arm(name="twice", decay=2 * design.decay)]

    monkeypatch.setitem(WAYS, "twice", Way("twice", "twice the decay", twice))
    assert [arm.decay for arm in arms_of(Design(arms="twice"), corpus)] == [0.2, 0.4]
    with pytest.raises(InputError, match="'sze': expected one of mixture, shape, length, twice"):
        arms_of(Design(arms="sze"), corpus)
