"""Which base of RoPE for which context, and what the scaling and the token budget are worth: from
the end of a stem in short windows, a run in longer ones for each way to set RoPE. Each is a stem
itself, which decays at every budget, so all budgets together cost little more than the largest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from windtunnel.data.long import LONG_SHARE, QUESTIONS_SHARE, LongText, build_long, long_mixture
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.model.shape import count, flops_per_token
from windtunnel.quantities import about, format_context
from windtunnel.recipe import Model, Recipe
from windtunnel.recipe.rope import stretched
from windtunnel.recipe.rope_bases import base_of
from windtunnel.results.ablate_longer import ABLATE_LONGER, LongerNumbers, LongerRow
from windtunnel.results.study import write_study
from windtunnel.train.anew import begin_anew
from windtunnel.train.loop import Watch, load_model
from windtunnel.train.run import Run
from windtunnel.tunnel.ablate.design import Design
from windtunnel.tunnel.ablate.longer_design import LongerDesign
from windtunnel.tunnel.ablate.longer_found import Arm, length_found, summary
from windtunnel.tunnel.ablate.positions import losses_at, texts_of
from windtunnel.tunnel.fleet.fleet import Branch, Interrupted, fleet
from windtunnel.tunnel.proxy import proxy, stem_warmup
from windtunnel.tunnel.study import core_minutes, final, ids

_FEWEST_STEPS = 8  # of a budget
_HELD_OUT = 32_768  # tokens of texts on which every run is measured
_FEWEST_TEXTS = 4


@dataclass(frozen=True, kw_only=True)
class _Reached:
    """What a stem became by one arm after one budget."""

    stem: Run
    arm: Arm
    tokens: int
    run: Run
    """The stem itself where the budget is 0."""


def ablate_longer(
    lab: Path, corpus: Corpus, design: Design, further: LongerDesign, watch: Watch
) -> Path:
    """Run the study, or what is missing of it; returns its folder. Raises InputError for contexts
    that cannot be, and for a corpus without held-out documents that are long enough.
    """
    recipes = [_stem(corpus, design, seed) for seed in range(design.seeds)]
    model, was = recipes[0].model, recipes[0].data.context
    lengths = sorted(further.to)
    _check(design, further, was)
    arms = {to: _arms(model, was, to, further) for to in lengths}
    texts = {to: texts_of(corpus, to, max(_FEWEST_TEXTS, _HELD_OUT // to)) for to in lengths}
    stems = fleet(lab, corpus, recipes, watch, "stems", ABLATE_LONGER)
    began = [stem for stem in stems if not _failed(stem)]
    runs, rows, found = list(stems), list[LongerRow](), []
    seeds = {stem.recipe.seed for stem in began}
    for to in lengths:
        made = _long_corpus(lab, corpus, further, was, to)
        reached, trained = _reached(lab, made, design, further, began, arms[to], to, watch)
        runs += trained
        measured = _measured(reached, texts[to], was, watch)
        rows += _rows(measured, to)
        whole = _whole(measured)
        seeds &= {seed for seed, _, _ in whole}
        found.append(length_found(model, was, to, len(texts[to]), arms[to], whole))
    numbers = LongerNumbers(
        corpus=corpus.folder.name,
        size=f"{design.width}x{design.depth}",
        head_size=model.head_size,
        tokens=design.whole_steps(design.tokens),
        was=was,
        base=model.rope_base,
        budgets=(0, *sorted(further.budgets)),
        seeds=len(seeds),
        lengths=tuple(found),
        failed=sum(map(_failed, runs)),
        core_minutes=core_minutes(runs),
    )
    return write_study(
        lab,
        ABLATE_LONGER,
        rows=rows,
        verdict=None,
        summary=summary(numbers),
        numbers=numbers,
        runs=ids(runs),
    )


def _check(design: Design, further: LongerDesign, was: int) -> None:
    """Raises InputError."""
    for to in further.to:
        if to <= was or to % was:
            raise InputError(f"--to {to}: expected a multiple of the {was} tokens of the stem")
        least = _batch(design, to) * _FEWEST_STEPS
        for tokens in further.budgets:
            if tokens < least:
                raise InputError(
                    f"--budgets {tokens}: expected at least {least}, {_FEWEST_STEPS} steps in "
                    f"windows of {to} tokens"
                )
    if len(further.bases) < 2 or len(set(map(about, further.bases))) < len(further.bases):
        raise InputError("--bases: expected two or more that differ in their first three digits")


def _stem(corpus: Corpus, design: Design, seed: int) -> Recipe:
    return proxy(
        corpus,
        design.width,
        design.depth,
        design.whole_steps(design.tokens),
        name=f"longer-stem-seed{seed}",
        seed=seed,
        optimizer={"lr": design.lr},
        train={"batch": design.batch},
        schedule={"decay": 0},
    )


def _arms(stem: Model, was: int, to: int, further: LongerDesign) -> list[Arm]:
    """Bases from the smallest to the largest, then scalings."""
    arms = []
    for base in sorted(further.bases):
        arms.append(_arm(about(base), stem, rope_base=base))
    for name in further.scalings:
        arms.append(_arm(name, stem, **stretched(stem, was, to, name)))
    return arms


def _arm(name: str, stem: Model, **changes: object) -> Arm:
    return Arm(name=name, model=stem.model_copy(update=changes), changes=changes)


def _batch(design: Design, to: int) -> int:
    """Tokens of a step, whole windows: as many as in the stem, or one window."""
    return max(1, design.batch // to) * to


def _long_corpus(lab: Path, corpus: Corpus, further: LongerDesign, was: int, to: int) -> Corpus:
    questions = round(QUESTIONS_SHARE * max(further.budgets) / to)
    text = LongText(context=to, beyond=was, questions=questions, seed=0)
    return build_long(lab / "corpora", corpus, text)


def _reached(
    lab: Path,
    made: Corpus,
    design: Design,
    further: LongerDesign,
    stems: Sequence[Run],
    arms: Sequence[Arm],
    to: int,
    watch: Watch,
) -> tuple[list[_Reached], list[Run]]:
    """Every stem by every arm after every budget, and as it was; and all runs of that."""
    batch = _batch(design, to)
    ends = {tokens: _leaves_at(design, tokens, batch) for tokens in sorted(set(further.budgets))}
    wanted: list[Run | Branch] = []
    for stem in stems:
        for arm in arms:
            on = _goes_on(stem, made, design, arm, to, list(ends.values()))
            wanted.append(on)
            for tokens, (at, decay) in ends.items():
                name = f"{on.recipe.name}-{about(tokens)}"
                wanted.append(Branch(stem=on, at=at, decay=decay, shape=design.shape, name=name))
    trained = fleet(lab, made, wanted, watch, f"longer, {format_context(to)}", ABLATE_LONGER)
    left = iter(trained)
    reached: list[_Reached] = []
    for stem in stems:
        for arm in arms:
            reached.append(_Reached(stem=stem, arm=arm, tokens=0, run=stem))
            next(left)  # that from which its branches leave
            for tokens in ends:
                reached.append(_Reached(stem=stem, arm=arm, tokens=tokens, run=next(left)))
    return reached, trained


def _leaves_at(design: Design, tokens: int, batch: int) -> tuple[int, int]:
    """Where a budget's decay begins, and its tokens, in whole steps."""
    decay = max(batch, round(design.decay * tokens / batch) * batch)
    return tokens - tokens % batch - decay, decay


def _goes_on(
    stem: Run, made: Corpus, design: Design, arm: Arm, to: int, ends: Sequence[tuple[int, int]]
) -> Run:
    """The stem in longer windows, with the arm's RoPE."""
    batch, leaves = _batch(design, to), [at for at, _ in ends]
    warmup = stem_warmup(min(leaves), max(leaves))
    return begin_anew(
        stem,
        stem.recipe.total_tokens,
        made,
        name=f"{format_context(to)}-{arm.name}-seed{stem.recipe.seed}",
        lr=design.lr,
        batch=batch,
        tokens=max(leaves),
        warmup=max(batch, warmup - warmup % batch),
        decay=0,
        model=arm.changes,
        data={
            "context": to,
            "mixture": long_mixture(made, {}, LONG_SHARE, QUESTIONS_SHARE),
            "mask_documents": True,
        },
        # what is measured here is measured on single documents
        train={"evaluate_tokens": to},
    )


_Measured = list[tuple[_Reached, dict[str, float] | None]]


def _measured(
    reached: Sequence[_Reached], texts: NDArray[np.int64], was: int, watch: Watch
) -> _Measured:
    """Nats a token by part of the texts; None where the run failed. Raises Interrupted."""
    found: _Measured = []
    for number, one in enumerate(reached):
        if watch.stop():
            raise Interrupted
        watch.show("measure on held-out documents", number, len(reached), "")
        losses = None if _failed(one.run) else _losses(one, texts, was)
        found.append((one, losses))
    return found


def _losses(one: _Reached, texts: NDArray[np.int64], was: int) -> dict[str, float]:
    """With the arm's RoPE, whatever the run was trained with."""
    decoder = Decoder(one.arm.model, texts.shape[1] - 1, seed=None)
    decoder.load_state_dict(load_model(one.run).state_dict(), assign=True)
    engine = one.run.begun_on()
    assert engine
    return losses_at(decoder, texts, engine.model_copy(update={"device": "cpu"}), was)


def _whole(measured: _Measured) -> dict[tuple[int, str, int], dict[str, float]]:
    """By seed, arm and budget, the seeds for which nothing failed."""
    failed = {one.stem.recipe.seed for one, losses in measured if losses is None}
    return {
        (one.stem.recipe.seed, one.arm.name, one.tokens): losses
        for one, losses in measured
        if losses is not None and one.stem.recipe.seed not in failed
    }


def _rows(measured: _Measured, to: int) -> Iterator[LongerRow]:
    for one, losses in measured:
        counts = count(one.arm.model)
        for part, loss in (losses or {"far": None}).items():
            yield LongerRow(
                run=one.run.id,
                params=counts.params,
                params_total=counts.params_total,
                tokens=one.tokens,
                flops=flops_per_token(one.arm.model, to) * one.tokens,
                loss=loss,
                source=part,
                seed=one.stem.recipe.seed,
                kind="branch" if one.tokens else "stem",
                arm=one.arm.name,
                context=to,
                stem=one.stem.id,
                base=base_of(one.arm.model),
            )


def _failed(run: Run) -> bool:
    return final(run) is None
