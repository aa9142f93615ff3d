"""The whole chain at a laptop's scale: text, check, search, transfer, scaling; then a plan from
what they found, its run, predicted against got, and what that model writes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from windtunnel.data.build import build
from windtunnel.data.shards import Corpus
from windtunnel.data.sources import GROUPS, SOURCES, fetch, known
from windtunnel.errors import InputError, did_you_mean
from windtunnel.model.generate import generate
from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan.audit import audit
from windtunnel.plan.plan import plan
from windtunnel.plan.record import read_plan, recipe_of
from windtunnel.plan.request import Request
from windtunnel.plan.studies import from_lab
from windtunnel.quantities import about
from windtunnel.results.run import StepLine
from windtunnel.results.scaling import SCALING
from windtunnel.results.study import Numbers, StudyResult, read_study, write_study
from windtunnel.results.tour import TOUR, Asked, TourNumbers, TourSample, TourSize, TourStep
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.run import Run, create, open_run
from windtunnel.train.speed import tokens_per_second
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

# One kind of plain English: a model of a few minutes writes sentences of it, and none of wikis,
# plays and dictionaries together.
_CORPUS = "essay"
_PROMPT = "What matters most is"
_VOCAB = 2048
_BATCH = 512  # tokens a step of every run: what is compiled for one study serves the next
# Tokens of a basic run: 400 steps, without which no study of the chain has a verdict.
_FEWEST = 400 * _BATCH
_STEP = 8192  # basic runs are whole steps of every batch below
# In which order studies are left out where there is no time for all of them: the plan then takes
# what was measured at a laptop's scale, and says so.
_LEFT_OUT = ("transfer", "search")
# FLOPs of the planned run over those of the dearest run that the law was fitted to: at least, and
# at most, where the machine leaves time for more.
_AHEAD, _FARTHEST = 1.2, 4.0
_WRITTEN = 120  # tokens of each sample
_SIZE = "size.json"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of a step on two quiet cores of the machine in docs/benchmarks.md, where nothing was
    compiled before.
    """

    fixed: float
    """However long the runs are: compiling, most of all."""
    runs: float
    """With basic runs of `_FEWEST` tokens; in proportion to their length."""


_COSTS = {
    "check": Cost(fixed=66, runs=0),  # with the corpus, and measuring how fast the machine is
    "search": Cost(fixed=12, runs=57),
    "transfer": Cost(fixed=5, runs=56),
    "scaling": Cost(fixed=100, runs=158),
    "plan": Cost(fixed=30, runs=94),
}
# What one core of that machine trains of the small model, FLOP/s. A machine that is faster while it
# is measured is not planned to stay so: the tour then takes less than its time.
_SPEED = 25e9
_FILLED = 0.93  # of the time is planned with: a machine's speed changes from minute to minute
_OVER = 1.25  # times as long as asked for a tour may take before a study is left out


def tour(lab: Path, minutes: float, corpus: str | None, watch: Watch) -> Path:
    """Run the chain, or what is missing of it, in about so many minutes; returns the folder of its
    study. `corpus`: a name in the lab; None for essays, which a small model learns to write in
    minutes. Raises InputError, Interrupted.
    """
    begun = time.perf_counter()
    opened = _corpus(lab, corpus, watch)
    size = _size(lab, opened, minutes, watch)
    designs = designs_of(size.tokens)
    studies: dict[str, Callable[[], Path]] = {
        "check": lambda: check(lab, opened, designs.check, watch),
        "search": lambda: search(lab, opened, designs.search, watch),
        "transfer": lambda: transfer(lab, opened, designs.transfer, watch),
        "scaling": lambda: scaling(lab, opened, designs.scaling, watch),
    }
    if size.left_out:
        watch.say(f"no time on this machine for {', '.join(size.left_out)}: left out")
    # in this order: a study takes what an earlier one found, such as the law of the batch
    steps = [
        _carry_out(study, watch) for name, study in studies.items() if name not in size.left_out
    ]
    left = _FILLED * minutes * 60 - (time.perf_counter() - begun)
    planned = _plan(lab, opened, _ahead(lab, size, left), watch)
    if planned:
        step, best = planned
        steps.append(step)
    else:
        best = _finished(lab)[-1]
    samples = _samples(lab, best, opened)
    numbers = TourNumbers(
        steps=tuple(steps),
        sample=_told(samples[-1]),
        corpus=opened.folder.name,
        written_by=best.id,
        basic_tokens=size.tokens,
        samples=samples,
        left_out=size.left_out,
    )
    return write_study(
        lab,
        TOUR,
        rows=[],
        verdict=None,
        summary=summary_of(steps, size.left_out),
        numbers=numbers,
        runs=[best.id],
    )


@dataclass(frozen=True, kw_only=True)
class Designs:
    """What each study of the tour measures."""

    check: CheckDesign
    search: SearchDesign
    transfer: TransferDesign
    scaling: ScalingDesign


def designs_of(unit: int) -> Designs:
    """The studies, each with basic runs of `unit` tokens."""
    return Designs(
        check=CheckDesign(),
        search=SearchDesign(
            width=32,
            depth=2,
            tokens=unit,
            batch=_BATCH,
            trials=8,
            start=4,
            batch_trials=2,
            candidates=2,
            fresh_seeds=2,
        ),
        # where the rate goes with the length
        transfer=TransferDesign(
            parametrizations=("minicpm",),
            widths=(32,),
            depths=(2,),
            lengths=(unit // 2, unit, 2 * unit),
            batches=(_BATCH,),
            seeds=(1,),
        ),
        scaling=ScalingDesign(
            # All 2 deep, as the planned model then is: what a layer more is worth, no law of sizes
            # can tell (docs/LOG.md, 2026-11-30).
            sizes=(Size(16, 2), Size(32, 2), Size(48, 2), Size(80, 2), Size(128, 2)),
            shortest=unit,
            longest=4 * unit,
            points=6,
            batch=_BATCH,
            repeated=0,
            audit=False,
        ),
    )


def summary_of(steps: Sequence[TourStep], left_out: Sequence[str] = ()) -> str:
    """How many steps passed, failed, and came to no verdict, and which; and what was left out."""
    counts = [
        _counted("passed", [step.study for step in steps if step.verdict == "pass"]),
        _counted("failed", [step.study for step in steps if step.verdict == "fail"]),
        _counted("had no verdict", [step.study for step in steps if step.verdict is None]),
    ]
    if left_out:
        counts.append(_counted("left out for want of time", left_out))
    return f"{len(steps)} steps: {'; '.join(counts)}"


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


def _ahead(lab: Path, size: TourSize, left: float) -> float:
    """How far the planned run reaches beyond the fit, for the seconds that are left. Decided once,
    so that the same command finds its run again.
    """
    if size.ahead is None:
        ahead = reach_in(left, size.tokens, size.flops_per_s)
        size = size.model_copy(update={"ahead": ahead})
        size.write(TOUR.folder(lab) / _SIZE)
    assert size.ahead
    return size.ahead


def reach_in(seconds: float, basic: int, flops_per_s: float) -> float:
    """FLOPs of a planned run of so many seconds over those of the dearest run in the fit, with
    basic runs of so many tokens on a machine of this speed.
    """
    cost, slower = _COSTS["plan"], _SPEED / flops_per_s
    nearest = cost.runs * basic / _FEWEST * slower
    reach = _AHEAD * (seconds - cost.fixed * slower) / nearest
    return round(min(max(reach, _AHEAD), _FARTHEST), 1)


def _plan(lab: Path, corpus: Corpus, ahead: float, watch: Watch) -> tuple[TourStep, Run] | None:
    """Plan a run so many times as dear as any in the fit, train it as planned, and hold what it
    gave against what was predicted. None where the tour's few points tell no law.
    """
    begun = time.perf_counter()
    try:
        evidence = from_lab(lab, "scaling")
        budget = ahead * float(evidence.points.flops.max())
        folder = plan(lab, evidence, Request(flops=budget, name="tour"), corpus)
    except InputError as error:
        watch.say(f"no plan: {error}")
        return None
    run, said = create(lab, recipe_of(folder), corpus), read_plan(folder)
    low, high = said.interval90

    def step(tokens: int, total: int, line: StepLine) -> None:
        aim = f"loss {line.loss:.3f}, forecast to end between {low:.3f} and {high:.3f}"
        watch.show("the planned run", tokens, total, aim)

    if train(run, corpus, replace(watch, step=step)).status == "interrupted":
        raise Interrupted
    got = audit(lab, run, "tour").audit
    summary = (
        f"{about(said.params_total)} parameters on {about(said.tokens)} tokens, {ahead:g} times "
        f"the FLOPs of any run in the fit: predicted {got.predicted:.4f}, 90% [{low:.3f}, "
        f"{high:.3f}], got {got.loss:.4f}, {got.error:+.2%} off"
    )
    watch.say(f"plan: {summary}")
    taken = TourStep(
        study="plan",
        verdict="pass" if got.inside90 else "fail",
        summary=summary,
        minutes=_minutes_since(begun),
    )
    return taken, run


def _minutes_since(begun: float) -> float:
    return round((time.perf_counter() - begun) / 60, 1)


def _corpus(lab: Path, name: str | None, watch: Watch) -> Corpus:
    """The lab's corpus of that name, which is built where it is a source that can be fetched;
    without a name essays, or the standard library where no network is.
    """
    wanted = (name,) if name else (_CORPUS, "stdlib")
    for folder in (lab / "corpora" / one for one in wanted):
        if (folder / "manifest.json").exists():
            return Corpus.open(folder)
    sources = (*GROUPS, *SOURCES)
    if name and name not in sources:
        if near := did_you_mean(name, sources):
            raise InputError(f"--corpus {name}: neither a corpus of {lab} nor a source{near}")
        return Corpus.open(lab / "corpora" / name)  # which says what is missing
    if name:
        return _built(lab, name, watch)
    try:
        return _built(lab, _CORPUS, watch)
    except InputError as error:
        watch.say(f"{error}; going on with Python's own standard library as the corpus")
        return _built(lab, "stdlib", watch)


def _built(lab: Path, name: str, watch: Watch) -> Corpus:
    """Raises InputError where a source can't be had."""

    def progress(what: str, done: float, total: float | None) -> None:
        """Of fetching and building."""
        watch.show(what, done, total, "")

    watch.say(f"fetching '{name}': {', '.join(source.name for source in known([name]))}")
    fetched = fetch([name], lab / "downloads", progress)
    sources = ", ".join(each.source.name for each in fetched)
    watch.say(f"building corpus '{name}': vocabulary of {_VOCAB}, {sources}")
    documents = {each.source.name: each.documents() for each in fetched}
    return build(lab / "corpora" / name, documents, vocab=_VOCAB, progress=progress)


def _size(lab: Path, corpus: Corpus, minutes: float, watch: Watch) -> TourSize:
    """How long the basic runs may be in the time, and what there is no time for. Decided once a lab
    and corpus, so that the same command finds its runs again.
    """
    file = TOUR.folder(lab) / _SIZE
    asked = Asked(minutes=minutes, corpus=corpus.digest)
    if file.exists():
        decided = TourSize.read(file)
        if decided.asked == asked:
            return decided
    watch.say("measuring how fast this machine trains (and compiling, the first time)")
    small = proxy(corpus, 32, 2, train={"batch": _BATCH})
    speed = tokens_per_second(small, threads=1)
    flops_per_s = speed * flops_per_token(small.model, small.data.context)
    slower = max(1.0, _SPEED / flops_per_s)
    left_out = left_out_of(_OVER * minutes * 60 / slower)
    # what is left of the time after all that takes as long however short the runs are
    fixed = seconds_of(0, left_out)
    left = _FILLED * minutes * 60 / slower - fixed
    tokens = int(_FEWEST * max(1.0, left / (seconds_of(_FEWEST, left_out) - fixed)))
    # the longest run of the fit is of four basic ones, and reads no text twice
    tokens = max(4 * _STEP, min(tokens, corpus.train_tokens // 4))
    tokens -= tokens % _STEP
    expected = slower * seconds_of(tokens, left_out) / 60
    watch.say(
        f"{about(flops_per_s)} FLOP/s: basic runs of {about(tokens)} tokens, about {expected:.0f} "
        "minutes in all"
    )
    decided = TourSize(
        asked=asked, tokens=tokens, flops_per_s=round(flops_per_s), left_out=left_out
    )
    decided.write(file, make_folder=True)
    return decided


def seconds_of(basic: int, left_out: Sequence[str]) -> float:
    """What is not left out takes with basic runs of so many tokens, on the machine of `Cost`."""
    taken = [cost for study, cost in _COSTS.items() if study not in left_out]
    return sum(cost.fixed + cost.runs * basic / _FEWEST for cost in taken)


def left_out_of(seconds: float) -> tuple[str, ...]:
    """The studies that are left out so that the others have runs of the least length that says
    something. `seconds`: those that there are, on the machine of `Cost`.
    """
    found: list[str] = []
    for name in _LEFT_OUT:
        if seconds_of(_FEWEST, found) <= seconds:
            break
        found.append(name)
    return tuple(found)


def _finished(lab: Path) -> list[Run]:
    """The branches of the scaling study, from the highest loss to the lowest."""
    scored = []
    for name in read_study(lab, SCALING).runs:
        run = open_run(lab / "runs" / name)
        loss = run.status().loss
        if run.kind == "branch" and loss:
            scored.append((-loss, run.id, run))
    return [run for _, _, run in sorted(scored, key=lambda one: one[:2])]


def _samples(lab: Path, best: Run, corpus: Corpus) -> tuple[TourSample, ...]:
    """The same prompt answered by the smallest and the middle size, each at its best, and by the
    best model.
    """
    by_size: dict[int, Run] = {}
    for run in _finished(lab):  # the best of a size comes last
        by_size[count(run.recipe.model).params_total] = run
    sizes = [by_size[size] for size in sorted(by_size)]
    asked = {"the smallest": sizes[0], "the middle one": sizes[len(sizes) // 2]}
    asked["the best"] = best
    found = []
    for what, run in asked.items():
        found.append(
            TourSample(
                run=run.id,
                what=what,
                params_total=count(run.recipe.model).params_total,
                tokens=run.recipe.total_tokens,
                bits_per_byte=run.status().bits_per_byte,
                text=_written(run, corpus),
            )
        )
    return tuple(found)


def _written(run: Run, corpus: Corpus) -> str:
    tokenizer = corpus.tokenizer
    prompt = "def " if set(corpus.sources) == {"stdlib"} else _PROMPT
    begun = tokenizer.encode(prompt).tolist()
    written = generate(load_model(run), begun, most=_WRITTEN, end=tokenizer.eos)
    return f"{prompt}{tokenizer.decode(written)}"


def _told(sample: TourSample) -> str:
    size, length = about(sample.params_total), about(sample.tokens)
    return f"({size} parameters, {length} tokens) {sample.text}"
