"""The decay ablation: its statistics where the truth is known, and a real small study."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tables import read_table

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import load
from windtunnel.report.experiments.ablate import figures
from windtunnel.train.loop import Watch
from windtunnel.tunnel.ablate import Arm, Design, ablate, differences, natural_mixture, upweighted

TINY = (
    "--corpus",
    "tiny",
    "--width",
    16,
    "--depth",
    1,
    "--batch",
    512,
    "--tokens",
    "15k",
    "--decay",
    "40%",
)
ARMS = ("--arm", "code=code=1", "--arm", "half=code=1,prose=1,notes=0")
EAGER = {"TORCHDYNAMO_DISABLE": "1"}  # compiling would take longer than the runs


@pytest.fixture(scope="module")
def measured(make_lab: Any) -> Any:
    """A lab with a study of two mixtures. Only to be looked at."""
    lab = make_lab()
    done = lab.run("ablate", *TINY, *ARMS, **EAGER)
    assert done.returncode == 0, done.stderr
    assert "natural" in done.stdout and "half" in done.stdout
    return lab


def result_of(lab: Any) -> dict[str, Any]:
    return json.loads((lab.path / "studies" / "ablate" / "result.json").read_text())


def test_what_a_seed_does_to_all_arms_is_no_noise(rng: np.random.Generator) -> None:
    seeds = rng.normal(0, 1.0, (4, 1, 2))
    losses = 3.0 + seeds + np.array([[[0.0, 0.0], [0.1, -0.2], [0.0, 0.3]]])
    found, noise = differences(losses)
    assert [[d.mean for d in arm] for arm in found] == [
        pytest.approx([0.1, -0.2]),
        pytest.approx([0.0, 0.3]),
    ]
    assert noise == pytest.approx([0.0, 0.0], abs=1e-12)


def test_the_intervals_of_two_seeds_by_hand() -> None:
    losses = np.array([[[2.0], [2.10], [2.3]], [[2.0], [2.14], [2.3]]])  # (seeds, arms, sources)
    (first, second), (noise,) = differences(losses)
    # differences .10 and .14: mean .12, SD .0283; t at 5% is 6.314 with 1 degree of freedom,
    # 2.920 with the two of both
    assert first[0].alone == pytest.approx((0.12 - 6.314 * 0.02, 0.12 + 6.314 * 0.02), abs=1e-4)
    assert noise == pytest.approx(0.02)  # the other arm's is zero: the root of the mean square
    assert first[0].interval == pytest.approx(
        (0.12 - 2.920 * 0.02 / 2**0.5, 0.12 + 2.920 * 0.02 / 2**0.5), abs=1e-4
    )
    assert second[0].alone == pytest.approx((0.3, 0.3))


def test_nine_tenths_of_intervals_hold_the_truth(rng: np.random.Generator) -> None:
    truth, hits, alone = np.array([0.0, 0.02, -0.01, 0.05]), [], []
    for _ in range(600):
        losses = (
            truth[None, :, None] + rng.normal(0, 0.01, (3, 4, 1)) + rng.normal(0, 0.1, (3, 1, 1))
        )
        found, _ = differences(losses)
        for (difference,), true in zip(found, truth[1:], strict=True):
            assert difference.interval and difference.alone
            hits.append(difference.interval[0] <= true <= difference.interval[1])
            alone.append(difference.alone[0] <= true <= difference.alone[1])
    assert (
        0.86 <= np.mean(hits) <= 0.93
    )  # arms share the base arm's noise: a little under nine tenths
    assert 0.87 <= np.mean(alone) <= 0.93


def test_one_seed_gives_no_interval() -> None:
    found, noise = differences(np.array([[[2.0], [2.1]]]))
    assert found[0][0].interval is None and found[0][0].alone is None
    assert noise == [None]


def test_a_source_gets_its_share_more_and_the_others_less(corpus: Corpus) -> None:
    natural = natural_mixture(corpus)
    assert sum(natural.values()) == pytest.approx(1)
    assert natural["prose"] > natural["code"] > natural["notes"]
    mixture = upweighted(natural, "notes", 0.5)
    assert mixture["notes"] == pytest.approx(0.5 + natural["notes"] / 2)
    assert mixture["prose"] / mixture["code"] == pytest.approx(natural["prose"] / natural["code"])


def test_arms_differ_from_the_first_in_one_way(corpus: Corpus) -> None:
    design = Design()
    mixtures = design.arms(corpus, "mixture")
    assert [arm.name for arm in mixtures] == ["natural", "prose", "code", "notes"]
    assert mixtures[0].mixture is None
    shapes = design.arms(corpus, "shape")
    assert shapes[0].shape == "linear" and len({arm.shape for arm in shapes}) == 5
    assert [arm.floor for arm in shapes if arm.shape == "exponential"] == [0.1]
    lengths = design.arms(corpus, "length")
    assert [arm.name for arm in lengths] == ["20%", "5%", "10%", "30%", "40%"]


def test_arms_without_room_or_with_one_name_are_refused(lab: Any, corpus: Corpus) -> None:
    design, there = Design(tokens=20_480, batch=512), lab.files()
    for arms, said in (
        ([Arm("one", 0.2)], "two or more"),
        ([Arm("one", 0.2), Arm("one", 0.4)], "its own name"),
        ([Arm("one", 0.2), Arm("all", 1.0)], "warm-up ends"),
    ):
        with pytest.raises(InputError, match=said):
            ablate(lab.path, corpus, design, arms, Watch())
    assert lab.files() == there
    refused = lab.run("ablate", *TINY, "--arm", "code=code")
    assert (
        refused.returncode == 2 and "--arm code=code: expected NAME=SOURCE=WEIGHT" in refused.stderr
    )


def test_every_arm_leaves_the_stem_of_its_seed_with_its_own_mixture(measured: Any) -> None:
    runs = {run["id"]: run for run in measured.json("runs")}
    points = [r for r in read_table(measured.path / "studies" / "ablate") if r["source"] == "all"]
    assert [(row["seed"], row["arm"]) for row in points] == [
        (seed, arm) for seed in ("0", "1") for arm in ("natural", "code", "half")
    ]
    mixtures = {
        "natural": None,
        "code": {"code": 1.0},
        "half": {"code": 1.0, "prose": 1.0, "notes": 0.0},
    }
    for row in points:
        run = runs[row["run"]]
        assert (run["parent"], run["at_tokens"]) == (row["stem"], 14_848 - 5632)
        recipe = load(Path(run["path"]) / "recipe.toml")
        assert recipe.seed == int(row["seed"])
        assert recipe.decay_tokens == int(row["decay"]) == 5632
        asked = mixtures[row["arm"]]
        assert [(stage.at, stage.mixture) for stage in recipe.data.stages] == (
            [(9216, asked)] if asked else []
        )


def test_differences_are_those_of_the_table_and_more_of_a_source_was_read(measured: Any) -> None:
    table, numbers = (
        read_table(measured.path / "studies" / "ablate"),
        result_of(measured)["numbers"],
    )
    loss = {(row["seed"], row["arm"], row["source"]): float(row["loss"]) for row in table}
    natural, code, _ = numbers["arms"]
    for source in ("all", "prose", "code", "notes"):
        expected = np.mean(
            [loss[seed, "code", source] - loss[seed, "natural", source] for seed in ("0", "1")]
        )
        assert code["difference"][source]["mean"] == pytest.approx(expected)
    assert code["epochs"]["code"] > natural["epochs"]["code"]
    assert code["epochs"]["prose"] < natural["epochs"]["prose"]
    assert natural["difference"] is None


def test_figures_hold_every_arm_and_source(measured: Any) -> None:
    (_, heat), (_, bars) = figures(
        result_of(measured), read_table(measured.path / "studies" / "ablate")
    )
    assert np.array(heat.data[0].z).shape == (2, 4)
    assert list(bars.data[0].y) == ["code", "half"]
    assert all(reach > 0 for reach in bars.data[0].error_x.array)
