"""Learning from preferences: a run's model learns which of two answers is the better one, or which
answers were judged good (paper section 7.1).

The run begins anew from the parent's weights, and stays near a reference, which is the parent
itself unless another run is named. What the reference makes of every answer is computed once and
kept beside the corpus (`train/preference.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from windtunnel.data.preferences import Wanted, build_preferences
from windtunnel.data.readers import Progress
from windtunnel.data.shards import Corpus
from windtunnel.data.tokenizer import Tokenizer
from windtunnel.errors import InputError
from windtunnel.quantities import Length, about
from windtunnel.recipe import PREFERENCE_LOSSES
from windtunnel.train import checkpoint
from windtunnel.train.anew import begin_anew
from windtunnel.train.run import Run, checkpoint_at, context_of

# The paper's rate, cosine and one epoch; the rate is not multiplied by roles (the author in issue
# 40 of its repository).
RATE = 1e-5
EPOCHS = 1.0
_LONGEST = 1024  # tokens of a question with an answer, where nothing else is asked for
_STEPS = 50  # at least so many, where no batch is asked for
_MOST = 64  # windows of a step, where no batch is asked for
_WARMUP = 0.1  # of the steps: the moments begin at zero


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person may choose; what is None is chosen for them."""

    loss: str = "sigmoid"
    """By the name of a preference loss."""
    betas: tuple[float, ...] = (0.1,)
    """Several make a population, as several rates do: every beta with every rate."""
    lrs: tuple[float, ...] = (RATE,)
    """Base rates."""
    label_smoothing: float = 0.0
    """The share of the judgements that is taken to be wrong."""
    per_token: bool | None = None
    """Whether log-ratios are means over an answer's tokens; as the loss has it."""
    lr_by_role: bool = False
    """Whether the parametrization's multipliers are applied to the rate."""
    epochs: float | None = None
    """How many times each record is read; `EPOCHS`, unless `tokens` is given."""
    tokens: int | None = None
    """How many tokens are read, instead of `epochs`."""
    batch: int | None = None
    """Tokens of one step; up to `_MOST` windows, fewer for `_STEPS` steps."""
    longest: int | None = None
    """Tokens of a question with an answer; the parent's context, at most `_LONGEST`."""
    at: int | None = None
    """Tokens of the parent's checkpoint; its last one."""
    reference: Run | None = None
    """Whose last checkpoint is the reference; the parent at `at`."""
    seed: int | None = None
    """Of the order of the data; the parent's."""
    name: str | None = None
    max_bad: float = 0.01
    """The share of the records that may be malformed."""
    format: str | None = None
    """What the files are; seen from what each of them holds."""


def dpo(
    parent: Run, data: Sequence[str | Path], asked: Asked, progress: Progress | None = None
) -> tuple[list[Run], Corpus]:
    """The runs that learn from the preferences in these files, folders or globs, one for each beta
    and rate, and their corpus; they are trained like any other runs, together if they are several.
    Asking for the same again gives the same runs. Raises InputError.
    """
    kind = PREFERENCE_LOSSES.choose(asked.loss, f"--loss {asked.loss}")
    at = checkpoint_at(parent, asked.at)
    reference, reference_at = _reference(parent, at, asked.reference)
    longest = context_of(parent, asked.longest or min(context_of(parent), _LONGEST))
    wanted = Wanted(
        data=data,
        tokenizer=parent.tokenizer,
        longest=longest,
        needs=kind.needs,
        max_bad=asked.max_bad,
        format=asked.format,
    )
    corpus = build_preferences(parent.lab / "corpora", wanted, progress)
    tokens, batch = _length(corpus, 2 * longest, asked)
    tenth = Length(share=0.1)
    runs = []
    for lr in asked.lrs:
        for beta in asked.betas:
            run = begin_anew(
                parent,
                at,
                corpus,
                name=_name(parent, asked, beta, lr),
                seed=parent.recipe.seed if asked.seed is None else asked.seed,
                lr=lr,
                batch=batch,
                tokens=tokens,
                warmup=batch * round(_WARMUP * tokens / batch),
                decay=0,
                schedule={"kind": "cosine"},
                data={"context": 2 * longest, "mixture": {}, "mask_documents": True},
                optimizer={"lr_by_role": asked.lr_by_role},
                train={
                    "checkpoint_every": tenth,
                    "evaluate_every": tenth,
                    "objective": "preferences",
                },
                preference={
                    "loss": asked.loss,
                    "beta": beta,
                    "label_smoothing": asked.label_smoothing,
                    "per_token": asked.per_token,
                    "reference": reference.id,
                    "reference_at": reference_at,
                },
            )
            runs.append(run)
    return runs, corpus


def _reference(parent: Run, at: int, asked: Run | None) -> tuple[Run, int]:
    """The reference and its checkpoint, kept from now on. Raises InputError for one that reads
    other tokens than the parent, or lies in another lab.
    """
    if asked is None or asked.id == parent.id:
        return parent, at
    if asked.lab != parent.lab:
        raise InputError(f"--reference {asked.id}: it lies in another lab than {parent.id}")
    mine, theirs = (Tokenizer.load(run.tokenizer).sha256 for run in (parent, asked))
    if mine != theirs:
        raise InputError(
            f"--reference {asked.id}: its tokenizer is not that of {parent.id}, so the two give "
            "probabilities of other tokens"
        )
    there = checkpoint_at(asked)
    checkpoint.pin(asked.checkpoints, there)
    return asked, there


def _name(parent: Run, asked: Asked, beta: float, lr: float) -> str:
    """With what sets it apart from the other runs of a population."""
    name = asked.name or f"{parent.recipe.name}-{asked.loss if asked.loss != 'sigmoid' else 'dpo'}"
    if len(asked.betas) > 1:
        name += f"-beta{beta:g}"
    return f"{name}-lr{lr:g}" if len(asked.lrs) > 1 else name


def _length(corpus: Corpus, window: int, asked: Asked) -> tuple[int, int]:
    """Tokens in whole steps, and tokens of one step. Raises InputError."""
    if asked.tokens and asked.epochs:
        raise InputError("--epochs and --tokens both say how long to train: give only one of them")
    # a split ends with one token more, the last target, which no window begins with
    epoch = sum(source.train.tokens - 1 for source in corpus.sources.values())
    whole = asked.tokens or round((asked.epochs or EPOCHS) * epoch)
    fitting = min(_MOST, whole // window // _STEPS)
    batch = asked.batch or window * max(1, fitting)
    if whole < batch:
        raise InputError(
            f"{about(whole)} tokens are less than one batch of {about(batch)}; an epoch is "
            f"{about(epoch)}"
        )
    steps = whole // batch if asked.tokens else -(-whole // batch)
    return steps * batch, batch
