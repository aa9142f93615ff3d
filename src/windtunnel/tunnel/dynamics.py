"""What the decay does to a run, step by step: the paper's decay-stage study (§4.4).

One run, stable then decay, with the mini-batch gradient of every step. With x the parameters and
g the gradient, each as one flat vector, and v_t = x_{t+1} - x_t the move of a step:

    D1 = g_{t+1}.v_t / |v_t|      D2 = (g_{t+1} - g_t).v_t / |v_t|^2      K = |D2| / (1 + D1^2)^(3/2)

g_t and g_{t+1} are of different batches. A step follows the noise of its own batch, which the
next one does not share: so D2 is the curvature along the path plus a term of noise over |v_t|,
which grows when steps shorten, whatever the curvature does. Beside it stands what the paper does
not have: D2 with the gradient of step t's batch at both ends.
"""

import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.model.decoder import Decoder
from windtunnel.model.roles import role_of
from windtunnel.model.shape import count, flops_per_token
from windtunnel.quantities import Length, about
from windtunnel.recipe import DecayShapeName, Recipe, objective_of
from windtunnel.results.dynamics import DYNAMICS, DynamicsNumbers, DynamicsRow
from windtunnel.results.run import StepLine
from windtunnel.results.study import write_study
from windtunnel.train import checkpoint
from windtunnel.train.device import choose_engine
from windtunnel.train.loop import Watch, train
from windtunnel.train.objective import Objective
from windtunnel.train.run import Run, create
from windtunnel.tunnel.fleet.fleet import Interrupted
from windtunnel.tunnel.proxy import proxy

Vector = NDArray[np.float64]

_DIGITS = 9  # of a recorded number
_END = 1 / 3  # of the decay: its last part, held against the stable phase
_BLOCK = 10  # steps; neighbours may be alike, so the bootstrap draws stretches of them
_DRAWS = 1000
_FEWEST = 60  # steps of a decay that can be judged: its end is then two blocks
_POWER = (0.75, 1.25)  # what follows the rate grows with a power of it that lies between these
_MATRICES = ("query", "gate")  # whose largest change the paper shows


@dataclass(frozen=True)
class Claim:
    """What the paper says of the decay, and what this run shows. Numbers are (value, low, high)
    with 95% intervals.
    """

    name: str
    says: str
    stable: tuple[float, float, float]
    decay: tuple[float, float, float]  # its last third
    effect: tuple[float, float, float]
    effect_is: str
    shown: bool


def recipe_of(
    corpus: Corpus,
    width: int,
    depth: int,
    tokens: int,
    decay: Length,
    shape: DecayShapeName,
    floor: float,
    batch: int,
    seed: int,
) -> Recipe:
    """The run that is looked at: the tunnel's, in fp32, for D2 takes the difference of nearly
    equal gradients.
    """
    return proxy(
        corpus,
        width,
        depth,
        tokens,
        name=f"dynamics-{width}x{depth}",
        seed=seed,
        schedule={"decay": decay, "decay_shape": shape, "floor": floor},
        train={"batch": batch, "precision": "fp32", "checkpoint_every": "10%"},
    )


def dynamics(lab: Path, corpus: Corpus, recipe: Recipe, watch: Watch) -> Path:
    """Train the run with every step recorded, or what is missing of it, and write
    `studies/dynamics`.

    Returns the study's folder. Raises InputError for a run without a stable phase and a decay,
    one that failed, or was trained without being recorded; Interrupted.
    """
    batch, decay = recipe.train.batch, recipe.decay_tokens
    stable = recipe.total_tokens - decay - recipe.warmup_tokens
    if min(decay, stable) < _FEWEST * batch:
        raise InputError(
            f"tokens={recipe.total_tokens}: warm-up, then {stable // batch} steps of {batch} tokens, then a decay of "
            f"{decay // batch}; expected at least {_FEWEST} steps each of stable phase and decay"
        )
    run = create(lab, recipe, corpus)
    recorder = _Recorder(run, corpus)

    def step(tokens: int, total: int, line: StepLine) -> None:
        recorder.keep(tokens)
        watch.show(
            recipe.name,
            tokens,
            total,
            f"{about(tokens)}/{about(total)} tokens  loss {line.loss:.3f}",
        )

    summary = train(run, corpus, replace(watch, step=step, gradient=recorder.gradient))
    if summary.status == "interrupted":
        raise Interrupted
    if summary.status == "failed":
        raise InputError(f"{run.path}: the run failed: {summary.reason}")
    rows = _rows(run, recorder.records(recipe.total_tokens))
    claims, same_batch = (
        judge(rows, recipe.total_tokens - decay),
        _same_batch(rows, recipe.total_tokens - decay),
    )
    numbers = {
        "claims": [asdict(claim) for claim in claims],
        "decay_begins": recipe.total_tokens - decay,
        "warmup": recipe.warmup_tokens,
        "block": _BLOCK,
        "same_batch_d2": same_batch,
    }
    return write_study(
        lab,
        DYNAMICS,
        rows=[DynamicsRow.model_validate(row) for row in rows],
        verdict=None,
        summary=_summary(claims, same_batch),
        numbers=DynamicsNumbers.model_validate(numbers),
        runs=[run.id],
    )


def measure(
    x: Vector, g: Vector, next_x: Vector, next_g: Vector, again: Vector
) -> dict[str, float]:
    """One step's numbers from the parameters and gradients at its two ends, all (n,).

    `next_g`: the next batch's gradient at next_x. `again`: this step's own batch's gradient at
    next_x.
    """
    v = next_x - x
    norm, next_norm, moved = (math.sqrt(_dot(a, a)) for a in (g, next_g, v))
    inner = _dot(next_g, g)
    d1, d2 = _dot(next_g, v) / moved, _dot(next_g - g, v) / moved**2
    return {
        "max_change": float(np.abs(v).max()),
        "step_norm": moved,
        "grad_norm": norm,
        "max_gradient": float(np.abs(g).max()),
        "inner_product": inner,
        "cosine": inner / (norm * next_norm),
        "d1": d1,
        "d2": d2,
        "curvature": abs(d2) / (1 + d1**2) ** 1.5,
        "d2_same_batch": _dot(again - g, v) / moved**2,
    }


def judge(rows: Sequence[Mapping[str, Any]], decay_begins: int) -> list[Claim]:
    """The paper's claims held against a run's steps.

    `rows`: `tokens` (the step's end), `lr` and what `measure` gives. The stable phase is as many
    steps before the decay as the decay has. A claim is shown when its interval lies wholly on the
    claimed side.
    """
    stable, decay, end = _phases(rows, decay_begins)

    def level(
        name: str, says: str, key: str, shown: Callable[[tuple[float, float, float]], bool]
    ) -> Claim:
        before, after = (np.abs([row[key] for row in part]) for part in (stable, end))
        effect = interval(lambda a, b: float(b.mean() / a.mean()), before, after)
        return Claim(
            name,
            says,
            interval(_mean, before),
            interval(_mean, after),
            effect,
            "ratio",
            shown(effect),
        )

    def follows(name: str, says: str, key: str) -> Claim:
        """The power of the rate with which it grows, by least squares of the logarithms."""
        points = np.log([[row["lr"], abs(row[key])] for row in (*stable, *decay)])
        power = interval(_slope, points)
        shown = _POWER[0] < power[1] and power[2] < _POWER[1]
        return replace(
            level(name, says, key, lambda effect: shown),
            effect=power,
            effect_is="power of the rate",
        )

    positive = [np.array([row["cosine"] > 0 for row in part], float) for part in (stable, end)]
    shares = interval(_mean, positive[0]), interval(_mean, positive[1])
    turned = interval(lambda a, b: float(b.mean() - a.mean()), *positive)
    lower, higher = (lambda effect: effect[2] < 1), (lambda effect: effect[1] > 1)
    return [
        follows("weight change", "the largest weight change follows the rate", "max_change"),
        level("gradient norm", "the gradient norm drops", "grad_norm", lower),
        Claim(
            "cosine > 0",
            "the cosine of successive gradients becomes mostly positive",
            *shares,
            turned,
            "difference",
            shares[1][1] > 0.5 and turned[1] > 0,
        ),
        follows("|D1|", "the first directional derivative falls with the rate", "d1"),
        level("|D2|", "the second directional derivative rises", "d2", higher),
        level(
            "curvature", "the curvature along the path rises, about tenfold", "curvature", higher
        ),
    ]


def interval(statistic: Callable[..., float], *samples: NDArray[Any]) -> tuple[float, float, float]:
    """(value, low, high): the 95% interval by a bootstrap over blocks of neighbouring steps, each
    sample on its own.

    Samples: (steps,) or (steps, ...). Circular blocks (Politis and Romano 1992), always the same
    draws.
    """
    rng = np.random.default_rng(0)

    def draw(sample: NDArray[Any]) -> NDArray[Any]:
        steps, block = len(sample), min(_BLOCK, len(sample))
        starts = rng.integers(0, steps, -(-steps // block))
        return sample[(starts[:, None] + np.arange(block)).ravel()[:steps] % steps]

    drawn = [statistic(*(draw(sample) for sample in samples)) for _ in range(_DRAWS)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return tuple(float(f"{number:.4g}") for number in (statistic(*samples), low, high))  # type: ignore[return-value]


class _Recorder:
    """Every step's numbers, in `RUN/dynamics/steps.jsonl`, and beside them x and g of the last
    step before each checkpoint: the first step after a resume needs them.
    """

    def __init__(self, run: Run, corpus: Corpus) -> None:
        self.run, self.corpus, self.folder = run, corpus, run.path / "dynamics"
        self.file, self.batch = self.folder / "steps.jsonl", run.recipe.train.batch
        self._last: tuple[Vector, Vector] | None = None
        self._waiting: list[dict[str, Any]] = []
        self._batches: Windows | None = None

    def gradient(self, model: Decoder, position: int) -> None:
        """For `Watch.gradient`: completes the step that ended at this position."""
        if (
            not self._batches
        ):  # not before: until now another process may have been training the run
            self._batches = self._begin(position)
        x, g = _flat(model, lambda p: p), _flat(model, _gradient)
        if self._last:
            again = self._gradient_of(self._batches.read(position - self.batch, self.batch), model)
            numbers = measure(self._last[0], self._last[1], x, g, again) | _changes(
                model, x - self._last[0]
            )
            rounded = {key: float(f"{number:.{_DIGITS}g}") for key, number in numbers.items()}
            self._waiting.append({"tokens": position} | rounded)
        self._last = x, g

    def keep(self, tokens: int) -> None:
        """For `Watch.step`, which the loop calls before it saves a checkpoint at `tokens`."""
        assert self._last
        needed = (
            {*checkpoint.positions(self.run.checkpoints), tokens}
            if tokens < self.run.recipe.total_tokens
            else {}
        )
        stream = io.BytesIO()
        np.save(stream, np.stack(self._last).astype(np.float32))
        try:
            with self.file.open("a") as file:
                file.write("".join(json.dumps(record) + "\n" for record in self._waiting))
                file.flush()
                os.fsync(file.fileno())
            if needed:
                write_whole(self._vectors(tokens), stream.getvalue())
        except OSError as error:
            raise InputError(f"{self.folder}: could not be written: {error.strerror}") from None
        self._waiting.clear()
        for path in self.folder.glob("*.npy"):
            if path not in map(self._vectors, needed):
                path.unlink()

    def records(self, until: int) -> list[dict[str, Any]]:
        """Those of the steps that end before `until`. Raises InputError unless all are there."""
        lines = self.file.read_text().splitlines(keepends=True) if self.file.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        found = [record for record in found if record["tokens"] < until]
        if [record["tokens"] for record in found] != list(range(self.batch, until, self.batch)):
            raise InputError(
                f"{self.run.path}: was trained without its steps recorded: take another --seed, for a run of its own"
            )
        return found

    def _begin(self, position: int) -> Windows:
        """Drop what was recorded after the checkpoint that the run goes on from; take up the step
        before it.
        """
        kept = self.records(position)
        try:
            self.folder.mkdir(exist_ok=True)
            write_whole(self.file, "".join(json.dumps(record) + "\n" for record in kept))
            if position:
                x, g = np.load(self._vectors(position), allow_pickle=False)
                self._last = x.astype(np.float64), g.astype(np.float64)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder}: could not be read or written: {error}") from None
        return Windows(self.corpus, self.run.recipe.data, self.run.recipe.seed)

    def _gradient_of(self, batch: NDArray[np.int64], model: Decoder) -> Vector:
        """At the present parameters; leaves the gradients that stand in them as they were."""
        engine = self.run.engine(choose_engine(self.run.recipe))
        held = [_gradient(p).clone() for p in model.parameters()]
        for p in model.parameters():
            _gradient(p).zero_()
        cut = self.corpus.tokenizer.eos if self.run.recipe.data.mask_documents else None
        asked = objective_of(self.run.recipe.train.objective, self.corpus.holds)
        objective = Objective(model, engine, cut, kind=asked)
        objective.add_gradient(torch.from_numpy(batch).to(engine.device))
        again = _flat(model, _gradient)
        for p, before in zip(model.parameters(), held, strict=True):
            _gradient(p).copy_(before)
        return again

    def _vectors(self, tokens: int) -> Path:
        return self.folder / f"{tokens:015d}.npy"


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _flat(model: Decoder, part: Callable[[torch.Tensor], torch.Tensor]) -> Vector:
    """All parameters (or their gradients) as one vector, in the order of `named_parameters`."""
    return (
        torch.cat([part(p).detach().flatten() for p in model.parameters()])
        .cpu()
        .numpy()
        .astype(np.float64)
    )


def _changes(model: Decoder, v: Vector) -> dict[str, float]:
    """The largest change by role, and that of the matrices that the paper shows, over all
    layers.
    """
    largest: dict[str, float] = {}
    start = 0
    for name, p in model.named_parameters():
        change = float(np.abs(v[start : start + p.numel()]).max())
        start += p.numel()
        kind = name.rsplit(".", 1)[-1]
        for key in (role_of(name), *(m for m in _MATRICES if m == kind)):
            largest[f"max_change_{key}"] = max(change, largest.get(f"max_change_{key}", 0.0))
    return largest


def _rows(run: Run, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table: a row a step but the last, which no gradient follows. `loss` and `lr` are the
    step's.
    """
    trained = {step.tokens: step for step in run.steps()}
    counts, flops = (
        count(run.recipe.model),
        flops_per_token(run.recipe.model, run.recipe.data.context),
    )
    shared = {
        "run": run.id,
        "params": counts.params,
        "params_total": counts.params_total,
        "seed": run.recipe.seed,
    }
    shared |= {"kind": "step", "source": "train", "bits_per_byte": None}
    return [
        shared
        | {"flops": flops * record["tokens"], "lr": trained[record["tokens"]].lr}
        | {"loss": trained[record["tokens"]].loss}
        | record
        for record in records
    ]


def _phases(rows: Sequence[Mapping[str, Any]], decay_begins: int) -> tuple[Any, Any, Any]:
    """(the last of the stable phase, the decay, the end of the decay)."""
    decay = [row for row in rows if row["tokens"] > decay_begins]
    stable = [row for row in rows if row["tokens"] <= decay_begins][-len(decay) :]
    return stable, decay, decay[-round(len(decay) * _END) :]


def _same_batch(
    rows: Sequence[Mapping[str, Any]], decay_begins: int
) -> dict[str, tuple[float, float, float]]:
    """D2 without the noise of two batches: its mean before and at the end of the decay, and their
    ratio.
    """
    stable, _, end = _phases(rows, decay_begins)
    before, after = (np.array([row["d2_same_batch"] for row in part]) for part in (stable, end))
    ratio = interval(lambda a, b: float(b.mean() / a.mean()), before, after)
    return {"stable": interval(_mean, before), "decay": interval(_mean, after), "ratio": ratio}


def _summary(claims: Sequence[Claim], same_batch: Mapping[str, tuple[float, float, float]]) -> str:
    told = {
        shown: ", ".join(
            f"{c.name} ({c.effect_is} {_text(c.effect)})" for c in claims if c.shown is shown
        )
        or "none"
        for shown in (True, False)
    }
    return (
        f"of the paper's claims on the decay this run shows: {told[True]}; not: {told[False]}; with one batch at both "
        f"ends of a step the ratio of D2 is {_text(same_batch['ratio'])}: a rise beyond that is between two batches"
    )


def _text(effect: tuple[float, float, float]) -> str:
    return "{:.3g} [{:.3g}, {:.3g}]".format(*effect)


def _dot(a: Vector, b: Vector) -> float:
    # numpy's own sum gives the same bits wherever the arrays lie in memory and however many
    # threads there are
    return float((a * b).sum())


def _mean(sample: NDArray[Any]) -> float:
    return float(sample.mean())


def _slope(points: NDArray[Any]) -> float:
    """Least squares of (steps, 2): y on x."""
    x, y = points[:, 0] - points[:, 0].mean(), points[:, 1] - points[:, 1].mean()
    return float((x * y).sum() / (x * x).sum())
