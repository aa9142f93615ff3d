"""What the check trains: its text, its sizes, and which designs give no slope."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from windtunnel.errors import InputError
from windtunnel.model.shape import count
from windtunnel.results.check import CHECK
from windtunnel.results.study import read_study, read_table
from windtunnel.train.loop import Watch
from windtunnel.tunnel.check import check as study
from windtunnel.tunnel.check.check import check, generated_window, measure, recipe_of
from windtunnel.tunnel.check.design import Design
from windtunnel.tunnel.check.judge import SizeReadings
from windtunnel.tunnel.check.probe import Reading

SMALL = Design(widths=(16, 32), depths=(2, 4), width=16, seeds=3, steps=(0, 1))


def test_every_other_generated_token_follows_from_the_one_before() -> None:
    (tokens,) = generated_window(20_000)
    assert len(tokens) == 20_001 and tokens.min() >= 0 and tokens.max() < 512
    followers: dict[int, list[int]] = {}
    for one, following in pairwise(tokens):
        followers.setdefault(int(one), []).append(int(following))
    common = [found for found in followers.values() if len(found) > 200]
    assert len(common) > 5
    for found in common:
        most = np.bincount(found).max() / len(found)
        # half of them, and those that the follower is by chance
        assert 0.42 < most < 0.68
    drawn = np.bincount(generated_window(20_000, vocab=8)[0], minlength=8)
    assert len(drawn) == 8


def test_generated_text_without_followers_has_zipfs_frequencies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study, "_FOLLOWS", 0.0)
    counts = np.bincount(generated_window(40_000, vocab=8)[0]) / 40_001
    expected = 1 / np.arange(1, 9)
    assert counts == pytest.approx(expected / expected.sum(), abs=0.01)


def test_the_same_text_each_time_and_another_for_another_seed() -> None:
    one, again, other = generated_window(32), generated_window(32), generated_window(32, seed=1)
    assert one.shape == (1, 33) and one.dtype == np.int64
    assert one.tolist() == again.tolist() != other.tolist()


def test_a_size_is_one_window_a_step_at_a_constant_rate() -> None:
    design = Design(widths=(64, 128), lr=0.004, eps=1e-6, tied=False, embedding_as="matrix")
    recipe = recipe_of(design, 128, 8, 512)
    model = recipe.model
    assert (model.width, model.depth, model.heads, model.vocab) == (128, 8, 8, 512)
    assert (model.base_width, model.base_depth) == (64, 2), "the least width, and the depth"
    assert (model.tied, model.embedding_as, model.parametrization) == (False, "matrix", "minicpm")
    assert (recipe.optimizer.kind, recipe.optimizer.lr, recipe.optimizer.eps) == (
        "adamw",
        0.004,
        1e-6,
    )
    assert recipe.train.batch == recipe.data.context == 32
    assert recipe.total_tokens == 30 * 32
    assert (recipe.warmup_tokens, recipe.decay_tokens) == (0, 0)


def test_every_size_is_read_and_one_on_both_axes_is_trained_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained, shown = [], []

    def readings(recipe: Any, seeds: range, window: Any, steps: Any) -> list[Reading]:
        trained.append((recipe.model.width, recipe.model.depth))
        assert (list(seeds), steps) == ([0, 1, 2], (0, 1))
        return [Reading(0, "logits", "value", (1.0,) * 3)]

    monkeypatch.setattr(study, "readings", readings)
    found = measure(SMALL, generated_window(32), 512, lambda *told: shown.append(told))
    assert [(one.axis, one.size) for one in found] == [
        ("width", 16),
        ("width", 32),
        ("depth", 2),
        ("depth", 4),
    ]
    assert trained == [(16, 2), (32, 2), (16, 4)]
    assert [(one.recipe.model.width, one.recipe.model.depth) for one in found] == [
        (16, 2),
        (32, 2),
        (16, 2),
        (16, 4),
    ]
    # width^2 depth and width vocab: what each takes
    work = [256 * 2 + 16 * 512, 1024 * 2 + 32 * 512, 256 * 2 + 16 * 512, 256 * 4 + 16 * 512]
    assert [done for _, done, _, _ in shown] == [sum(work[:i]) for i in range(5)]
    assert {total for _, _, total, _ in shown} == {sum(work)}
    assert shown[1][3] == "width 32, depth 2" and shown[-1][3] == ""


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"widths": (32,)}, "--widths 32: expected two or more different sizes"),
        ({"widths": (32, 32)}, "--widths 32,32: expected two or more"),
        ({"depths": (0, 2)}, "--depths 0,2: expected two or more different sizes, above zero"),
        ({"widths": (32, 40)}, "40 is not a multiple of the head size, 16"),
        ({"width": 24}, "24 is not a multiple of the head size"),
        ({"depths": (1, 2)}, "--depths: expected at least 2, got 1"),
        ({"seeds": 2}, "--seeds 2: expected at least 3, for an interval"),
    ],
)
def test_a_design_without_a_slope_is_told_why(
    settings: dict[str, Any], says: str, tmp_path: Any
) -> None:
    with pytest.raises(InputError, match=says):
        check(tmp_path, None, Design(**settings), Watch())


def known(monkeypatch: pytest.MonkeyPatch, of_width: float, of_depth: float) -> None:
    """Have the logits go with these powers of the size."""

    def sizes(design: Design, *_: Any) -> list[SizeReadings]:
        found = []
        for axis, several, power in (
            ("width", design.widths, of_width),
            ("depth", design.depths, of_depth),
        ):
            for size in several:
                width, depth = (size, design.depth) if axis == "width" else (design.width, size)
                values = tuple(float(size) ** power for _ in range(design.seeds))
                found.append(
                    SizeReadings(
                        axis=axis,  # type: ignore[arg-type]
                        size=size,
                        recipe=recipe_of(design, width, depth, 512),
                        readings=[Reading(30, "logits", "value", values)],
                    )
                )
        return found

    monkeypatch.setattr(study, "measure", sizes)


@pytest.mark.parametrize(
    ("of_width", "of_depth", "verdict", "says"),
    [
        (
            0.0,
            0.0,
            "pass",
            "minicpm passes over widths 16 to 32 and depths 2 to 4: all 2 slopes are what the "
            "theory allows",
        ),
        (
            1.0,
            0.0,
            "fail",
            "minicpm fails over widths 16 to 32 and depths 2 to 4: 1 of 2 slopes are not what the "
            "theory allows; width: no rule",
        ),
        (0.0, 1.0, "fail", "1 of 2 slopes are not what the theory allows; depth: no rule"),
        (1.0, -1.0, "fail", "2 of 2 slopes are not what the theory allows; width: no rule"),
    ],
)
def test_one_slope_that_is_not_allowed_fails_the_check(
    of_width: float,
    of_depth: float,
    verdict: str,
    says: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(monkeypatch, of_width, of_depth)
    check(tmp_path, None, SMALL, Watch())
    result, rows = read_study(tmp_path, CHECK), read_table(tmp_path, CHECK)
    assert result.verdict == verdict and says in result.summary
    assert result.numbers.corpus is None
    assert bool(result.numbers.causes.width) is bool(of_width)
    assert bool(result.numbers.causes.depth) is bool(of_depth)
    assert len(rows) == 4 * 3
    for row in rows:
        width, depth = (row.size, 2) if row.axis == "width" else (16, row.size)
        counts = count(recipe_of(SMALL, width, depth, 512).model)
        assert (row.params, row.params_total) == (counts.params, counts.params_total)
        assert (row.t, row.tokens, row.kind) == (30, 30 * 32, "check")
    assert [row.seed for row in rows] == [0, 1, 2] * 4


def test_another_optimiser_is_said(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, 0.0, 0.0)
    check(tmp_path, None, Design(optimizer="muon"), Watch())
    assert read_study(tmp_path, CHECK).summary.startswith("minicpm with muon passes over")


def test_the_usual_check_is_of_three_octaves_of_width_and_two_of_depth() -> None:
    design = Design()
    assert (design.widths, design.depths) == ((64, 128, 256, 512), (4, 8, 16))
    assert (design.width, design.depth, design.seeds) == (64, 2, 4)
    assert design.steps == (0, 1, 2, 5, 10, 30), "to where the batch is learnt"
    assert (design.head_size, design.context, design.lr, design.eps) == (16, 32, 0.003, 1e-8)
