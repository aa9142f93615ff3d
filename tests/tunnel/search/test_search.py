"""The search: what a surface says of known functions, what is asked after a kill, and a real
search that is killed.
"""

import json
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import each_of
from numpy.typing import NDArray
from patience import wait_until
from processes import Process
from scipy.optimize import approx_fprime

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.report.experiments.search import figures
from windtunnel.results.search import SEARCH, SearchNumbers, SearchRow
from windtunnel.results.study import StudyResult, read_study, read_table
from windtunnel.train.loop import Watch
from windtunnel.train.run import list_runs
from windtunnel.tunnel.design import options_of
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.search.design import Design
from windtunnel.tunnel.search.search import choose, compare, pick, search
from windtunnel.tunnel.search.settings import SETTINGS, Setting
from windtunnel.tunnel.search.space import Octaves, Space, changes, space
from windtunnel.tunnel.search.surface import (
    Surface,
    TrialNoise,
    expected_gain,
    fit_surface,
    importances,
    minus_log_likelihood,
    noise_of,
    profiles,
)
from windtunnel.tunnel.search.trials import Outcome, Trials, open_trials

pytestmark = pytest.mark.usefixtures("eager")

PAIR = Space((SETTINGS["lr"], SETTINGS["init_std"]))
BEST = np.log2([0.02, 0.07])
NOISE = TrialNoise(0.012, 0.004)


def bowl(at: Octaves) -> NDArray[np.float64]:
    """Nats/token: a round floor with a wall where the rate is too high, as losses have it."""
    lr, init = (at - BEST).T
    return 4.8 + 0.02 * lr**2 + 0.01 * init**2 + 0.3 * np.maximum(0, lr - 1) ** 2


def measured(at: Octaves, rng: np.random.Generator, shift: float = 0.0) -> list[float]:
    return (bowl(at) + shift + NOISE.run * rng.standard_normal(len(at))).tolist()


def surface_of(points: int, rng: np.random.Generator) -> Surface:
    at = PAIR.spread(points, 1)
    return fit_surface(at, measured(at, rng), [0] * points)


# the space


def test_points_are_rounded_and_lie_within_the_bounds() -> None:
    where = space(("beta2", "warmup", "weight_decay"))
    point = where.point(where.octaves([where.defaults])[0])
    assert point == where.defaults
    spread = where.spread(33, 0)
    low, high = where.bounds
    assert spread.shape == (33, 7) and (spread >= low).all() and (spread <= high).all()
    assert all(len(f"{where.point(x)['lr']:.10g}".lstrip("0.")) <= 4 for x in spread)
    assert all(0.8 <= where.point(x)["beta2"] <= 0.997 for x in spread)


def test_a_setting_is_one_record(monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> None:
    eps = Setting(name="eps", help="Adam's", section="optimizer", default=1e-8, low=1e-9, high=1e-7)
    monkeypatch.setitem(SETTINGS, "eps", eps)
    also = next(each for each in options_of(Design) if each.flag == "--also")
    assert "eps" in also.full_help
    where = space(also.kind.parse("--also", "eps"))
    assert where.names == ["lr", "scale_depth", "scale_emb", "init_std", "eps"]
    recipe = proxy(corpus, 16, 1, 40_960, **changes({"eps": 2e-8}, 40_960, 2048))
    assert recipe.optimizer.eps == 2e-8
    with pytest.raises(InputError, match="setting of a search 'epsilon': expected one of lr, "):
        space(["epsilon"])
    with pytest.raises(InputError, match="--also lr: expected one of weight_decay, beta2, "):
        also.kind.parse("--also", "lr")


def test_a_space_is_widened_at_the_ends_at_which_a_point_lies() -> None:
    where = space(("beta2",))
    low, high = where.bounds
    middle = (low + high) / 2
    assert where.edges(middle) == {} and where.wider(middle) == where
    at = middle.copy()
    at[0], at[3] = high[0] - 0.2, low[3]
    assert where.edges(at) == {"lr": "high", "init_std": "low"}
    wide = where.wider(at)
    lr, init = wide.settings[0], wide.settings[3]
    assert (lr.low, lr.high) == (SETTINGS["lr"].low, 4 * SETTINGS["lr"].high)
    assert (init.low, init.high) == (SETTINGS["init_std"].low / 4, SETTINGS["init_std"].high)
    assert wide.settings[1:3] == where.settings[1:3]


def test_a_space_is_not_widened_for_ever() -> None:
    where = space(("beta2",))
    for _ in range(5):
        where = where.wider(where.bounds[1])
    lr, *_, beta2 = where.settings
    assert lr.high == 16 * SETTINGS["lr"].high and beta2.high == 0.5
    assert where.wider(where.bounds[1]) == where


def test_a_point_changes_the_recipe(corpus: Corpus) -> None:
    point = {"lr": 0.02, "init_std": 0.07, "beta2": 0.9, "warmup": 0.1}
    recipe = proxy(corpus, 16, 1, 40_960, **changes(point, 40_960, 2048))
    assert (recipe.optimizer.lr, recipe.model.init_std, recipe.optimizer.beta2) == (0.02, 0.07, 0.9)
    assert recipe.warmup_tokens == 4096 and recipe.model.width == 16


# the surface


def test_the_gradient_of_the_likelihood(rng: np.random.Generator) -> None:
    at, seeds = PAIR.spread(12, 0), np.array([0, 1, 2] * 4)
    heights = np.array(measured(at, rng))
    logs = np.log([2.0, 1.5, 0.3, 0.02, 0.01])

    def surface(logs: Any) -> Surface:
        *lengths, height, seed, run = np.exp(logs)
        return Surface(at, heights, np.array(lengths), height, TrialNoise(seed, run), 4.8, seeds)

    numeric = approx_fprime(logs, lambda x: minus_log_likelihood(surface(x))[0], 1e-6)
    assert minus_log_likelihood(surface(logs))[1] == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_the_surface_finds_the_floor(rng: np.random.Generator) -> None:
    surface = surface_of(40, rng)
    grid = PAIR.spread(1024, 5)
    best = grid[surface.mean(grid).argmin()]
    assert np.abs(best - BEST).max() < 0.4
    lr, init = profiles(surface, PAIR, best)
    for profile, truth in ((lr, BEST[0]), (init, BEST[1])):
        assert profile.best[0] - 0.1 < truth < profile.best[1] + 0.1
    top = lr.above[-1]  # two octaves above the best rate; the other setting's best does not move
    assert top[1] < 4 * 0.02 + 0.3 < top[2] and top[1] < top[0] < top[2]
    assert lr.above[0][0] == pytest.approx(9 * 0.02, abs=0.05)


def test_what_seeds_share_is_not_taken_for_the_settings(rng: np.random.Generator) -> None:
    """Fresh seeds that are all unlucky by 0.05 nats must not lift the surface where they were
    spent.
    """
    at = PAIR.spread(24, 1)
    again = np.repeat(BEST[None], 3, axis=0)
    losses = [*measured(at, rng), *measured(again, rng, shift=0.05)]
    surface = fit_surface(
        np.vstack([at, again]), losses, [0] * 24 + [1] * 3, TrialNoise(0.05, NOISE.run)
    )
    aside = BEST + 0.8
    above, low, high = surface.above(aside, BEST)
    assert low < float((bowl(aside[None]) - 4.8)[0]) < high and above > 0


def test_shares_of_the_variance() -> None:
    at = PAIR.spread(32, 0)
    additive = 3 * at[:, 0] + at[:, 1]
    low, high = PAIR.bounds
    variance = np.array([9, 1]) * (high - low) ** 2
    surface = fit_surface(at, (4.8 + 0.002 * additive).tolist(), [0] * 32, TrialNoise(1e-4, 1e-4))
    assert importances(surface, PAIR) == pytest.approx(
        (variance / variance.sum()).tolist(), abs=0.03
    )


def test_more_trials_promise_less_the_more_were_made(rng: np.random.Generator) -> None:
    gains = {}
    for points in (8, 64):
        surface = surface_of(points, rng)
        at = surface.points[surface.mean(surface.points).argmin()]
        gains[points] = expected_gain(surface, PAIR, at, (0, 1, 8, 32))
        assert gains[points] == sorted(gains[points]) and gains[points][0] == 0
    assert gains[64][-1] < gains[8][-1] / 2


def test_the_noise_of_seeds_and_of_runs(rng: np.random.Generator) -> None:
    seeds = 0.012 * rng.standard_normal(400)
    table = np.array([[4.8], [4.9], [5.0]]) + seeds + 0.004 * rng.standard_normal((3, 400))
    noise = noise_of(table.tolist())
    assert (
        noise
        and noise.seed == pytest.approx(0.012, rel=0.1)
        and noise.run == pytest.approx(0.004, rel=0.1)
    )
    assert noise_of([[4.8, 4.9]]) is None and noise_of([]) is None


# the choice


def test_the_winner_is_not_the_luckiest(rng: np.random.Generator) -> None:
    points = np.vstack([PAIR.spread(30, 1), BEST + 0.1])
    losses = measured(points, rng)
    lucky = int(np.argsort(bowl(points))[12])
    assert bowl(points)[lucky] > 4.81
    losses[lucky] = min(losses) - 0.004
    picked = pick(fit_surface(points, losses, [0] * len(points)), points, 4)
    assert len(picked) == 4
    for i, j in ((i, j) for i in picked for j in picked if i != j):
        assert np.abs(points[i] - points[j]).max() >= 0.25
    candidates = points[[*dict.fromkeys([lucky, *picked])]]
    again = np.array([measured(candidates, rng, shift=0.01 * seed) for seed in (1, 2, 3)])
    noise = noise_of(again.T.tolist())
    surface = fit_surface(
        np.vstack([points, *[candidates] * 3]),
        [*losses, *again.ravel()],
        [0] * len(points) + [s for s in (1, 2, 3) for _ in candidates],
        noise,
    )
    chosen = choose(surface, candidates)
    assert int(np.argmin(losses)) == lucky and chosen != 0
    assert bowl(candidates)[chosen] < min(bowl(candidates)) + NOISE.run


def test_the_comparison_is_paired() -> None:
    paper = [4.80, 4.83, 4.86]
    better = compare([4.78, 4.812, 4.838], paper)
    assert better.outcome == "beats" and better.mean == pytest.approx(-0.02)
    # t(2 degrees of freedom, 95%) = 2.92 times the standard error of 0.002 / sqrt(3)
    assert better.interval and better.interval[1] - better.interval[0] == pytest.approx(
        2 * 2.92 * 0.002 / 3**0.5, 1e-3
    )
    assert compare([4.79, 4.84, 4.86], paper).outcome == "ties"
    assert compare(paper, [4.78, 4.812, 4.838]).outcome == "loses"
    assert compare(paper, paper).outcome == "ties"
    assert (
        compare([4.8, None, 4.8], paper).outcome == "loses"
        and compare(paper, [None, 4.8, None]).outcome == "beats"
    )


# what is asked


def opened(folder: Path, **more: Any) -> Trials:
    return open_trials(
        f"sqlite:///{folder / 'trials.db'}", PAIR, 4, more.get("seed", 3), "test", ["x"]
    )


def told(trials: Trials, first: int, end: int) -> list[dict[str, float]]:
    points = trials.ask(end)[first:]
    losses = bowl(PAIR.octaves(points)).tolist()
    trials.tell(first, [Outcome("run", loss) for loss in losses])
    return points


def test_killed_while_it_asks_it_asks_the_same(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = opened(tmp_path / "whole")
    expected = told(whole, 0, 4) + told(whole, 4, 6)
    assert expected[0] == PAIR.defaults and len({p["lr"] for p in expected}) == 6

    first = opened(tmp_path / "killed")
    first.study.enqueue_trial(
        {"lr": SETTINGS["lr"].default, "init_std": SETTINGS["init_std"].default}
    )
    again = opened(tmp_path / "killed")  # killed between the queue and the ask
    again.ask(2)
    again.study.ask()  # killed when a trial had been made, before its point was written
    points = told(opened(tmp_path / "killed"), 0, 4)
    again = opened(tmp_path / "killed")
    again.ask(5)
    again.study.ask()
    points += told(opened(tmp_path / "killed"), 4, 6)
    assert points == expected
    states = [trial.state.name for trial in again.study.get_trials()]
    assert states.count("COMPLETE") == 6 and states.count("FAIL") == 2


def test_killed_between_the_queue_and_the_ask_of_a_suggestion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    expected = told(opened(tmp_path / "whole"), 0, 4) + opened(tmp_path / "whole").ask(6)[4:]
    points = told(opened(tmp_path / "killed"), 0, 4)
    first = opened(tmp_path / "killed")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(first.study, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        first.ask(6)
    assert points + opened(tmp_path / "killed").ask(6)[4:] == expected


def test_what_is_suggested_follows_what_was_told(tmp_path: Path) -> None:
    """After a start that is told, the points lie nearer to the best than the start's own sequence
    does.
    """
    trials = opened(tmp_path)
    told(trials, 0, 4)
    for end in range(6, 17, 2):
        told(trials, end - 2, end)
    points = PAIR.octaves(trials.ask(16))
    later = np.abs(points[10:] - BEST).max(axis=1)
    assert np.median(later) < 1.0 and bowl(points).min() < 4.8 + 0.005


def test_one_that_diverged_counts_as_the_worst(tmp_path: Path) -> None:
    trials = opened(tmp_path)
    trials.ask(3)
    trials.tell(0, [Outcome("a", 5.0), Outcome("b", None, "not a number"), Outcome("c", 6.0)])
    trials.tell(
        0, [Outcome("a", 1.0), Outcome("b", 1.0), Outcome("c", 1.0)]
    )  # told before: nothing changes
    found = opened(tmp_path).study.get_trials()
    assert [trial.value for trial in found] == [5.0, 6.0, 6.0]
    assert found[1].user_attrs == {"run": "b", "diverged": "not a number"}


def test_a_storage_that_is_none() -> None:
    with pytest.raises(InputError, match=r"--storage nowhere://x: not a storage"):
        open_trials("nowhere://x", PAIR, 4, 0, "test", [])


# a real search

TINY: dict[str, Any] = {
    "width": 16,
    "depth": 1,
    "tokens": 4096,
    "batch": 512,
    "trials": 6,
    "start": 4,
    "batch_trials": 2,
    "candidates": 2,
    "fresh_seeds": 2,
    "train": {"compile": False, "precision": "fp32", "evaluate_tokens": 512},
}
RUNS = 6 + 2 * 2 + 2 * 2
PROGRAM = """
import json, sys
from pathlib import Path
from windtunnel.data.shards import Corpus
from windtunnel.train.loop import Watch
from windtunnel.tunnel.search.design import Design
from windtunnel.tunnel.search.search import search
lab = Path(sys.argv[1])
search(lab, Corpus.open(lab / "corpora" / "tiny"), Design(**json.loads(sys.argv[2])), Watch())
"""


def finished(lab: Path) -> int:
    files = (lab / "runs").glob(
        "[!.]*/status.json"
    )  # a folder that begins with a dot is not whole yet
    return sum(json.loads(file.read_text())["status"] == "done" for file in files)


def test_killed_it_gives_the_same_table(make_small_lab: Any) -> None:
    killed, whole = make_small_lab(), make_small_lab()
    process = begin(killed)
    wait_until(lambda: finished(killed.path) >= 2, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert (
        finished(killed.path) < RUNS
        and not (killed.path / "studies" / "search" / "table.csv").exists()
    )
    tables = []
    for lab in (killed, whole):
        assert begin(lab).wait() == 0
        tables.append((lab.path / "studies" / "search" / "table.csv").read_bytes())
    assert tables[0] == tables[1]
    table = read_table(whole.path, SEARCH)
    for lab in (killed, whole):
        assert len(list_runs(lab.path)) == len({row.run for row in table}) <= RUNS
    judged(read_study(killed.path, SEARCH), table)


def begin(lab: Any) -> Process:
    """The study in a process of its own: what it trains by compiles nothing, whatever the tests
    before it had their workers do.
    """
    return Process([str(lab.path), json.dumps(TINY)], dict(os.environ), program=PROGRAM)


def judged(result: StudyResult[SearchNumbers], table: Sequence[SearchRow]) -> None:
    """The result says what the table holds."""
    numbers, rows = result.numbers, [row for row in table if row.source == "all"]
    by_kind: dict[str, list[SearchRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    counts = {kind: len(found) for kind, found in by_kind.items()}
    assert counts == {"trial": 6, "candidate": 4, "chosen": 2, "paper": 2}
    seeds = {kind: {row.seed for row in found} for kind, found in by_kind.items()}
    assert seeds == {"trial": {0}, "candidate": {1, 2}, "chosen": {3, 4}, "paper": {3, 4}}
    assert [rows[0].point[name] for name in numbers.settings] == [0.01, 1.4, 12.0, 0.1]
    mean = {kind: np.mean([row.loss or math.nan for row in by_kind[kind]]) for kind in seeds}
    assert numbers.difference.mean == pytest.approx(mean["chosen"] - mean["paper"])
    assert result.verdict is numbers.outcome is None, "eight steps tell nothing"
    assert {row.point["lr"] for row in by_kind["chosen"]} == {numbers.chosen.point["lr"]}
    assert all(math.isfinite(x) and x >= 0 for x in numbers.expected_gain.gain)
    drawn = figures(result, table)
    assert len(drawn) == 4 and all(figure.to_json() for figure in each_of(drawn))


def test_a_search_with_another_optimiser(make_small_lab: Any) -> None:
    lab = make_small_lab()
    design = Design(**TINY | {"optimizer": "muon", "also": ("momentum",), "trials": 4})
    search(lab.path, Corpus.open(lab.path / "corpora" / "tiny"), design, Watch())
    told = [run.recipe.optimizer for run in list_runs(lab.path)]
    assert {one.kind for one in told} == {"muon"} and len({one.momentum for one in told}) > 2
    result = read_study(lab.path, SEARCH)
    assert result.numbers.optimizer == "muon"
    assert "momentum" in result.numbers.importances
