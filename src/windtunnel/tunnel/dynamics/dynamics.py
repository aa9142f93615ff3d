"""What the decay does to a run, step by step: the paper's decay-stage study (section 4.4).

One run, stable then decay, with the mini-batch gradient of every step. With x the parameters and
g the gradient, each as one flat vector, and v_t = x_{t+1} - x_t the move of a step:

    D1 = g_{t+1}.v_t / |v_t|
    D2 = (g_{t+1} - g_t).v_t / |v_t|^2
    K  = |D2| / (1 + D1^2)^(3/2)

g_t and g_{t+1} are of different batches. A step follows the noise of its own batch, which the
next one does not share: so D2 is the curvature along the path plus a term of noise over |v_t|,
which grows when steps shorten, whatever the curvature does. Beside it stands what the paper does
not have: D2 with the gradient of step t's batch at both ends.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.shape import count, flops_per_token
from windtunnel.quantities import about
from windtunnel.recipe import Recipe
from windtunnel.results.dynamics import DYNAMICS, DynamicsNumbers, DynamicsRow, StepRecord
from windtunnel.results.run import StepLine
from windtunnel.results.study import want_runs, write_study
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import Run, check_validated, create
from windtunnel.tunnel.dynamics.claims import BLOCK, judge, phases_of, same_batch, summary_of
from windtunnel.tunnel.dynamics.design import Design
from windtunnel.tunnel.dynamics.recorder import Recorder
from windtunnel.tunnel.fleet.fleet import Interrupted
from windtunnel.tunnel.proxy import proxy

_FEWEST = 60  # steps of a decay that can be judged: its last third is then two blocks


def recipe_of(corpus: Corpus, design: Design) -> Recipe:
    """The run that is looked at: the tunnel's, in fp32, for D2 takes the difference of nearly
    equal gradients.
    """
    return proxy(
        corpus,
        design.width,
        design.depth,
        design.tokens,
        name=f"dynamics-{design.width}x{design.depth}",
        seed=design.seed,
        schedule={"decay": design.decay, "decay_shape": design.shape, "floor": design.floor},
        train={"batch": design.batch, "precision": "fp32", "checkpoint_every": "10%"},
    )


def dynamics(lab: Path, corpus: Corpus, recipe: Recipe, watch: Watch) -> Path:
    """Train the run with every step recorded, or what is missing of it, and write
    `studies/dynamics`.

    Returns the study's folder. Raises InputError for a run without a stable phase and a decay,
    one that failed, or was trained without being recorded; Interrupted.
    """
    _refuse(recipe)
    check_validated(recipe, corpus)
    run = create(lab, recipe, corpus)
    want_runs(lab, DYNAMICS, [run.id])
    recorder = Recorder(run, corpus)

    def step(tokens: int, total: int, line: StepLine) -> None:
        """Keep what was recorded, before the loop saves a checkpoint."""
        recorder.keep(tokens)
        note = f"{about(tokens)}/{about(total)} tokens  loss {line.loss:.3f}"
        watch.show(recipe.name, tokens, total, note)

    hears = replace(
        watch,
        step=step,
        gradient=recorder.gradient,
        saving=recorder.saving,
        saved=recorder.saved,
    )
    summary = train(run, corpus, hears)
    if summary.status == "interrupted":
        raise Interrupted
    if summary.status == "failed":
        raise InputError(f"{run.path}: the run failed: {summary.reason}")
    rows = _rows(run, recorder.records(recipe.total_tokens))
    decay_begins = recipe.total_tokens - recipe.decay_tokens
    phases = phases_of(rows, decay_begins)
    claims, d2 = judge(phases), same_batch(phases)
    return write_study(
        lab,
        DYNAMICS,
        rows=rows,
        verdict=None,
        summary=summary_of(claims, d2),
        numbers=DynamicsNumbers(
            claims=tuple(claims),
            decay_begins=decay_begins,
            warmup=recipe.warmup_tokens,
            block=BLOCK,
            same_batch_d2=d2,
        ),
        runs=[run.id],
    )


def _refuse(recipe: Recipe) -> None:
    """Raise InputError for a run that is too short to be judged."""
    batch, decay = recipe.train.batch, recipe.decay_tokens
    stable = recipe.total_tokens - decay - recipe.warmup_tokens
    if min(decay, stable) < _FEWEST * batch:
        raise InputError(
            f"tokens={recipe.total_tokens}: warm-up, then {stable // batch} steps of {batch} "
            f"tokens, then a decay of {decay // batch}; expected at least {_FEWEST} steps each of "
            "stable phase and decay"
        )


def _rows(run: Run, records: Sequence[StepRecord]) -> list[DynamicsRow]:
    """The table: a row a step but the last, which no gradient follows. `loss` and `lr` are the
    step's.
    """
    trained = {step.tokens: step for step in run.steps()}
    counts = count(run.recipe.model)
    flops = flops_per_token(run.recipe.model, run.recipe.data.context)
    return [
        DynamicsRow(
            run=run.id,
            params=counts.params,
            params_total=counts.params_total,
            flops=flops * record.tokens,
            loss=trained[record.tokens].loss,
            lr=trained[record.tokens].lr,
            source="train",
            seed=run.recipe.seed,
            kind="step",
            **dict(record),
        )
        for record in records
    ]
