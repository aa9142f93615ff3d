"""Where a run is computed from: its own last checkpoint, an ancestor's, or the beginning."""

import torch

from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.model.decoder import Decoder
from windtunnel.model.init import inherited
from windtunnel.model.shape import tensor_shapes
from windtunnel.recipe import Recipe
from windtunnel.train import checkpoint
from windtunnel.train.checkpoint import Checkpoint
from windtunnel.train.parallel import ALONE, Ranks, load, place
from windtunnel.train.run import Run, branch_start, open_run
from windtunnel.train.schedule import rate
from windtunnel.train.step import Step


def restore(
    step: Step, run: Run, corpus: Corpus, member: int | None = None, ranks: Ranks = ALONE
) -> tuple[int, int]:
    """Put what the run begins with into the step, or into one of its members; returns where the
    run stands, in tokens and in updates. Of several ranks each reads its shares.
    """
    if ranks.world > 1:
        start, steps = _shares(step, run, ranks)
    else:
        start, steps = 0, 0
        if state := _state(*_start(run)):
            put(step, state, member)
            start = state.tokens
            steps = state.steps if state.moments else 0  # an imported model brings no moments
    return _replay(step, run, corpus, start, steps, ranks) if replays(run) else (start, steps)


def _shares(step: Step, run: Run, ranks: Ranks) -> tuple[int, int]:
    """Each rank's shares of what the run begins with, and where that stands."""
    # the first one's look at the disk counts, which may be shared and seen late by others
    holder, start = _start(run) if ranks.first else (run, 0)
    path, start = ranks.all((holder.path, start))[0]
    holder = open_run(path)
    weights, optimizer = step.optimizer.parameters, step.optimizer
    if holder.anew and not start:
        parent = open_run(holder.lab / "runs" / str(holder.parent))
        theirs, mine = tensor_shapes(parent.recipe.model), tensor_shapes(holder.recipe.model)
        at, recipe = holder.at_tokens or 0, holder.recipe
        if theirs == mine:
            load(parent.checkpoints, at, weights, {}, ranks)
            return 0, 0
        there = checkpoint.Weights(parent.checkpoints, at)
        for name, parameter in weights.items():
            # one whole tensor at a time
            place(parameter, inherited(there, name, recipe.model, recipe.seed))
        return 0, 0
    if start not in checkpoint.positions(holder.checkpoints):
        return 0, 0
    steps = load(holder.checkpoints, start, weights, optimizer.state(), ranks)
    optimizer.steps[:] = steps
    return start, steps


def replays(run: Run) -> bool:
    """Whether it takes up another batch or rate than its parent's where the parent has kept no
    checkpoint. Such a run can't be a member: what comes before is computed with the parent's.
    """
    if not run.parent or run.anew:
        return False
    # with the same batch and rate, both runs take the same steps up to where the branch leaves
    mine, theirs = ((r.batches, r.optimizer.lr) for r in (run.recipe, _parent(run)))
    return mine != theirs and _start(run)[1] < (run.at_tokens or 0)


def put(step: Step, state: Checkpoint, member: int | None = None) -> None:
    """Weights and moments into the step, or into one of its members."""
    take(step.model, state, member)
    if state.moments:
        step.optimizer.load_state(state.moments, state.steps, member)


def take(model: Decoder, state: Checkpoint, member: int | None = None) -> None:
    """Weights into the model, or into one of its members."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            (parameter if member is None else parameter[member]).copy_(state.weights[name])
    model.renew_copies()


def _start(run: Run) -> tuple[Run, int]:
    """The run or an ancestor, and that one's checkpoint; 0 is the beginning."""
    own = max(checkpoint.positions(run.checkpoints), default=0)
    return (run, own) if own else branch_start(run)


def _state(holder: Run, start: int) -> Checkpoint | None:
    """What training goes on from at `start` tokens of a run; None: the initial weights."""
    if holder.anew and not start:
        parent = open_run(holder.lab / "runs" / str(holder.parent))
        model, seed = holder.recipe.model, holder.recipe.seed
        theirs = checkpoint.load(parent.checkpoints, holder.at_tokens or 0).weights
        weights = {name: inherited(theirs, name, model, seed) for name in tensor_shapes(model)}
        return Checkpoint(0, 0, weights, {})
    there = start in checkpoint.positions(holder.checkpoints)
    return checkpoint.load(holder.checkpoints, start) if there else None


def _parent(run: Run) -> Recipe:
    return open_run(run.lab / "runs" / str(run.parent)).recipe


def _replay(
    step: Step, run: Run, corpus: Corpus, position: int, steps: int, ranks: Ranks
) -> tuple[int, int]:
    """Go on with the parent's batch and rate to where the run takes up its own."""
    parent, at = _parent(run), run.at_tokens or 0
    windows, moments = Windows(corpus, run.recipe.data, run.recipe.seed), step.optimizer.state()
    # the optimiser is told the settings anew and forgets its moments, so these are carried across
    step.take_up([parent])
    step.optimizer.load_state(moments, steps)
    while position < at:
        batch = parent.batch_at(position)
        step.gradient(windows.read(*ranks.place(position, batch)))
        step.update([rate(parent, position, batch)])
        position, steps = position + batch, steps + 1
    moments = step.optimizer.state()
    step.take_up([run.recipe])
    step.optimizer.load_state(moments, steps)
    return at, steps
