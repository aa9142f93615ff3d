"""The whole chain at a laptop's scale: text, check, search, transfer, batch, scaling; then a plan
from what they found, its run, predicted against got, and what that model writes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from windtunnel.data.build import build
from windtunnel.data.shards import Corpus
from windtunnel.data.sources import fetch
from windtunnel.errors import InputError
from windtunnel.model.generate import generate
from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan.audit import audit
from windtunnel.plan.plan import plan
from windtunnel.plan.record import read_plan, recipe_of
from windtunnel.plan.request import Request
from windtunnel.plan.studies import from_lab
from windtunnel.quantities import about
from windtunnel.results.scaling import SCALING
from windtunnel.results.study import Numbers, StudyResult, read_study, write_study
from windtunnel.results.tour import TOUR, Asked, TourNumbers, TourSize, TourStep
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.run import Run, create, open_run
from windtunnel.train.speed import tokens_per_second
from windtunnel.tunnel.batch.batch import batch
from windtunnel.tunnel.batch.design import Design as BatchDesign
from windtunnel.tunnel.check.check import check
from windtunnel.tunnel.check.design import Design as CheckDesign
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.fleet.fleet import Interrupted
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling.design import Design as ScalingDesign
from windtunnel.tunnel.scaling.scaling import scaling
from windtunnel.tunnel.search.design import Design as SearchDesign
from windtunnel.tunnel.search.search import search
from windtunnel.tunnel.transfer.design import Design as TransferDesign
from windtunnel.tunnel.transfer.transfer import transfer

_VOCAB = 2048
# Tokens of a basic run: below that a size hardly matters, and the search, with its batch of 256,
# has too few steps for an outcome.
_FEWEST = 106_496
_STEP = 8192  # basic runs are whole steps of every batch below
# What every basic run's tokens are multiplied by, summed over the studies, by (width, depth): see
# the designs below.
_WORK = {(32, 2): 20 + 60 + 26 + 6, (64, 2): 30 + 6, (96, 3): 6 + 6}
_AHEAD = 1.5  # FLOPs of the planned run over those of the dearest run that the law was fitted to
_EVALUATED = 1.3  # time with evaluations and checkpoints over time of training steps alone
_FIXED = 370.0  # seconds of fetching, building, checking and compiling, on 2 cores


def tour(lab: Path, minutes: float, corpus: str | None, watch: Watch) -> Path:
    """Run the chain, or what is missing of it, in about so many minutes; returns the folder of its
    study. `corpus`: a name in the lab; None for the core corpus. Raises InputError, Interrupted.
    """
    opened = _corpus(lab, corpus, watch)
    unit = _basic_tokens(lab, opened, minutes, watch)
    designs = designs_of(unit)
    studies: list[Callable[[], Path]] = [
        lambda: check(lab, opened, designs.check, watch),
        lambda: search(lab, opened, designs.search, watch),
        lambda: transfer(lab, opened, designs.transfer, watch),
        lambda: batch(lab, opened, designs.batch, watch),
        lambda: scaling(lab, opened, designs.scaling, watch),
    ]
    # in this order: a study takes what an earlier one found, such as the law of the batch
    steps = [_carry_out(study, watch) for study in studies]
    planned = _plan(lab, opened, watch)
    if planned:
        step, best = planned
        steps.append(step)
    else:
        best = _best_run(lab)
    numbers = TourNumbers(
        steps=tuple(steps),
        sample=_sample(best, opened),
        corpus=opened.folder.name,
        written_by=best.id,
        basic_tokens=unit,
    )
    return write_study(
        lab,
        TOUR,
        rows=[],
        verdict=None,
        summary=summary_of(steps),
        numbers=numbers,
        runs=[best.id],
    )


@dataclass(frozen=True, kw_only=True)
class Designs:
    """What each study of the tour measures."""

    check: CheckDesign
    search: SearchDesign
    transfer: TransferDesign
    batch: BatchDesign
    scaling: ScalingDesign


def designs_of(unit: int) -> Designs:
    """The studies, each with basic runs of `unit` tokens."""
    return Designs(
        check=CheckDesign(),
        search=SearchDesign(
            width=32,
            depth=2,
            tokens=unit,
            batch=256,  # enough steps to tell whether the chosen point beats the paper's
            trials=12,
            start=6,
            batch_trials=3,
            candidates=2,
            fresh_seeds=2,
        ),
        transfer=TransferDesign(
            parametrizations=("minicpm",),
            widths=(32, 64),
            depths=(2,),
            # those of the scaling study
            lengths=(unit, 2 * unit, 4 * unit),
            batches=(512, 1024),
            seeds=(1,),
        ),
        # the best batch of runs this short is some hundred tokens
        batch=BatchDesign(
            sizes=(Size(32, 2),),
            batches=(256, 512, 1024, 2048),
            lengths=(unit // 2, unit, 2 * unit),
            lr_batch=1024,
        ),
        scaling=ScalingDesign(
            sizes=(Size(32, 2), Size(64, 2), Size(96, 3)),
            shortest=unit,
            longest=4 * unit,
            points=5,
            repeated=0,
            audit=False,
        ),
    )


def summary_of(steps: Sequence[TourStep]) -> str:
    """How many studies passed, failed, and came to no verdict, and which."""
    counts = [
        _counted("passed", [step.study for step in steps if step.verdict == "pass"]),
        _counted("failed", [step.study for step in steps if step.verdict == "fail"]),
        _counted("had no verdict", [step.study for step in steps if step.verdict is None]),
    ]
    return f"{len(steps)} studies: {'; '.join(counts)}"


def _counted(what: str, studies: Sequence[str]) -> str:
    return f"{len(studies)} {what} ({', '.join(studies)})" if studies else f"none {what}"


def _carry_out(study: Callable[[], Path], watch: Watch) -> TourStep:
    begun = time.perf_counter()
    result = StudyResult[Numbers].read(study() / "result.json")
    watch.say(f"{result.study}: {result.summary}")
    return TourStep(
        study=result.study,
        verdict=result.verdict,
        summary=result.summary,
        minutes=_minutes_since(begun),
    )


def _plan(lab: Path, corpus: Corpus, watch: Watch) -> tuple[TourStep, Run] | None:
    """Plan a run dearer than any in the fit, train it as planned, and hold what it gave against
    what was predicted. None where the tour's few points tell no law.
    """
    begun = time.perf_counter()
    try:
        evidence = from_lab(lab, "scaling")
        budget = _AHEAD * float(evidence.points.flops.max())
        folder = plan(lab, evidence, Request(flops=budget, name="tour"), corpus)
    except InputError as error:
        watch.say(f"no plan: {error}")
        return None
    run = create(lab, recipe_of(folder), corpus)
    if train(run, corpus, watch).status == "interrupted":
        raise Interrupted
    said, got = read_plan(folder), audit(lab, run, "tour").audit
    low, high = said.interval90
    summary = (
        f"{about(said.params_total)} parameters on {about(said.tokens)} tokens, {_AHEAD:g} times "
        f"the FLOPs of any run in the fit: predicted {got.predicted:.4f}, 90% [{low:.3f}, "
        f"{high:.3f}], got {got.loss:.4f}, {got.error:+.2%} off"
    )
    watch.say(f"plan: {summary}")
    step = TourStep(
        study="plan",
        verdict="pass" if got.inside90 else "fail",
        summary=summary,
        minutes=_minutes_since(begun),
    )
    return step, run


def _minutes_since(begun: float) -> float:
    return round((time.perf_counter() - begun) / 60, 1)


def _corpus(lab: Path, name: str | None, watch: Watch) -> Corpus:
    """The lab's corpus of that name; without a name the core corpus, or the standard library
    where no network is.
    """
    if name:
        return Corpus.open(lab / "corpora" / name)
    for folder in (lab / "corpora" / "core", lab / "corpora" / "stdlib"):
        if (folder / "manifest.json").exists():
            return Corpus.open(folder)
    name = "core"

    def progress(what: str, done: float, total: float | None) -> None:
        """Of fetching and building."""
        watch.show(what, done, total, "")

    try:
        watch.say("fetching the core corpus: seven sources, 45 MB")
        fetched = fetch([name], lab / "downloads", progress)
    except InputError as error:
        watch.say(f"{error}; going on with Python's own standard library as the corpus")
        name = "stdlib"
        fetched = fetch([name], lab / "downloads", progress)
    sources = ", ".join(each.source.name for each in fetched)
    watch.say(f"building corpus '{name}': vocabulary of {_VOCAB}, {sources}")
    documents = {each.source.name: each.documents() for each in fetched}
    return build(lab / "corpora" / name, documents, vocab=_VOCAB, progress=progress)


def _basic_tokens(lab: Path, corpus: Corpus, minutes: float, watch: Watch) -> int:
    """How long the basic runs may be in the time. Decided once a lab and corpus, so that the same
    command finds its runs again.
    """
    file = TOUR.folder(lab) / "size.json"
    asked = Asked(minutes=minutes, corpus=corpus.digest)
    if file.exists():
        decided = TourSize.read(file)
        if decided.asked == asked:
            return decided.tokens
    watch.say("measuring how fast this machine trains (and compiling, the first time)")
    small = proxy(corpus, 64, 2)
    flops_per_s = tokens_per_second(small) * flops_per_token(small.model, small.data.context)
    work = 0  # FLOPs for each token of a basic run
    for (width, depth), times in _WORK.items():
        work += times * flops_per_token(proxy(corpus, width, depth).model, small.data.context)
    # what is left of the time after all that takes as long however short the runs are
    tokens = int((minutes * 60 - _FIXED) * flops_per_s / work / _EVALUATED)
    once = corpus.train_tokens
    tokens = min(max(_FEWEST, tokens), once // 4)  # the longest run is of four basic ones
    tokens = max(_STEP * 4, tokens - tokens % _STEP)
    watch.say(f"{about(flops_per_s)} FLOP/s: basic runs of {about(tokens)} tokens")
    decided = TourSize(asked=asked, tokens=tokens, flops_per_s=round(flops_per_s))
    decided.write(file, make_folder=True)
    return tokens


def _best_run(lab: Path) -> Run:
    """The run of the scaling study with the lowest loss."""
    scored = []
    for name in read_study(lab, SCALING).runs:
        run = open_run(lab / "runs" / name)
        loss = run.status().loss
        if run.kind == "branch" and loss:
            scored.append((loss, run.id, run))
    return min(scored)[2]


def _sample(run: Run, corpus: Corpus) -> str:
    """What the best model writes."""
    tokenizer = corpus.tokenizer
    prompt = "The " if "wiki" in corpus.sources else "def "
    begun = tokenizer.encode(prompt).tolist()
    written = generate(load_model(run), begun, most=160, end=tokenizer.eos)
    parameters = about(count(run.recipe.model).params_total)
    length = about(run.recipe.total_tokens)
    return f"({parameters} parameters, {length} tokens) {prompt}{tokenizer.decode(written)}"
