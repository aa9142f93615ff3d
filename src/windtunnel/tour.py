"""The whole chain at a laptop's scale: text, check, search, transfer, batch, scaling; then a plan
from what they found, its run, predicted against got, and what that model writes.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.data.build import build
from windtunnel.data.shards import Corpus
from windtunnel.data.sources import fetch
from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.model.generate import generate
from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan.audit import audit
from windtunnel.plan.evidence import from_lab
from windtunnel.plan.plan import plan
from windtunnel.plan.record import read_plan
from windtunnel.plan.request import Request
from windtunnel.quantities import about
from windtunnel.recipe import load
from windtunnel.results.scaling import SCALING
from windtunnel.results.study import Numbers, StudyResult, read_study, write_study
from windtunnel.results.tour import TOUR, TourNumbers
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.run import Run, create, find_run
from windtunnel.train.speed import tokens_per_second
from windtunnel.tunnel.batch import batch
from windtunnel.tunnel.check import check as coordinates
from windtunnel.tunnel.design import Size
from windtunnel.tunnel.fleet.fleet import Interrupted
from windtunnel.tunnel.proxy import proxy
from windtunnel.tunnel.scaling import scaling
from windtunnel.tunnel.search import search
from windtunnel.tunnel.transfer import transfer

_VOCAB = 2048
_FEWEST = 102_400  # tokens of a basic run; below that a size hardly matters
_STEP = 8192  # basic runs are whole steps of every batch below
# What every basic run's tokens are multiplied by, summed over the studies, by (width, depth): see
# the designs below.
_WORK = {(32, 2): 20 + 14 + 26 + 6, (64, 2): 14 + 6, (96, 3): 14 + 6 + 6}
_AHEAD = 1.5  # FLOPs of the planned run over those of the dearest run that the law was fitted to
_EVALUATED = 1.3  # time with evaluations and checkpoints over time of training steps alone
_FIXED = 370.0  # seconds of fetching, building, checking and compiling, on 2 cores


@dataclass(frozen=True)
class Step:
    """One study of the chain: its verdict, its sentence, and how long it took here."""

    study: str
    verdict: str | None
    summary: str
    minutes: float


@dataclass(frozen=True)
class Tour:
    steps: list[Step]
    sample: str
    folder: Path


def tour(lab: Path, minutes: float, corpus: str | None, watch: Watch) -> Tour:
    """Run the chain, or what is missing of it. Raises InputError, Interrupted."""
    opened = _corpus(lab, corpus, watch)
    unit = _basic_tokens(lab, opened, minutes, watch)
    designs = _designs(unit)
    studies: dict[str, Callable[[], Path]] = {
        "check": lambda: coordinates.check(lab, opened, designs["check"], watch),
        "search": lambda: search.search(lab, opened, designs["search"], watch),
        "transfer": lambda: transfer.transfer(lab, opened, designs["transfer"], watch),
        "batch": lambda: batch.batch(lab, opened, designs["batch"], watch),
        "scaling": lambda: scaling.scaling(lab, opened, designs["scaling"], watch),
    }
    steps = [_carry_out(study, watch) for study in studies.values()]
    planned = _plan(lab, opened, watch)
    steps += [planned[0]] if planned else []
    best = planned[1] if planned else _best_run(lab)
    sample = _sample(best, opened)
    numbers = {
        "steps": [vars(step) for step in steps],
        "sample": sample,
        "corpus": opened.folder.name,
        "written_by": best.id,
        "basic_tokens": unit,
    }
    failed = [step.study for step in steps if step.verdict == "fail"]
    summary = f"{len(steps)} studies, " + (
        f"of which {', '.join(failed)} failed" if failed else "none failed"
    )
    folder = write_study(
        lab,
        TOUR,
        rows=[],
        verdict=None,
        summary=summary,
        numbers=TourNumbers.model_validate(numbers),
        runs=[best.id],
    )
    return Tour(steps, sample, folder)


def _designs(unit: int) -> dict[str, Any]:
    """The studies, each with basic runs of `unit` tokens."""
    return {
        "check": coordinates.Design(),
        "search": search.Design(
            width=32,
            depth=2,
            tokens=unit,
            trials=12,
            start=6,
            batch_trials=3,
            candidates=2,
            fresh_seeds=2,
        ),
        "transfer": transfer.Design(
            parametrizations=("minicpm",),
            widths=(32, 64, 96),
            depths=(2,),
            tokens=unit,
            seeds=(2,),
        ),
        # the best batch of runs this short is some hundred tokens
        "batch": batch.Design(
            sizes=(Size(32, 2),),
            batches=(256, 512, 1024, 2048),
            lengths=(unit // 2, unit, 2 * unit),
            lr_batch=1024,
        ),
        "scaling": scaling.Design(
            tuple(scaling.Size(*size) for size in ((32, 2), (64, 2), (96, 3))),
            shortest=unit,
            longest=4 * unit,
            points=5,
            repeated=0,
            audit=None,
        ),
    }


def _carry_out(study: Callable[[], Path], watch: Watch) -> Step:
    begun = time.perf_counter()
    folder = study()
    result = StudyResult[Numbers].read(folder / "result.json")
    watch.say(f"{result.study}: {result.summary}")
    minutes = (time.perf_counter() - begun) / 60
    return Step(result.study, result.verdict, result.summary, round(minutes, 1))


def _plan(lab: Path, corpus: Corpus, watch: Watch) -> tuple[Step, Run] | None:
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
    run = create(lab, load(folder / "plan.toml"), corpus)
    if train(run, corpus, watch).status == "interrupted":
        raise Interrupted
    said = read_plan(audit(lab, run, "tour"))
    got, (low, high) = said.audit, said.interval90
    assert got is not None
    summary = (
        f"{about(said.params_total)} parameters on {about(said.tokens)} tokens, {_AHEAD:g} times the FLOPs of "
        f"any run in the fit: predicted {said.loss:.4f}, 90% [{low:.3f}, {high:.3f}], got {got.loss:.4f}, "
        f"{got.error:+.2%} off"
    )
    watch.say(f"plan: {summary}")
    minutes = round((time.perf_counter() - begun) / 60, 1)
    return Step("plan", "pass" if got.inside90 else "fail", summary, minutes), run


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
        watch.show(what, done, total, "")

    try:
        watch.say("fetching the core corpus: seven sources, 45 MB")
        fetched = fetch([name], lab / "downloads", progress)
    except InputError as error:
        watch.say(f"{error}; going on with Python's own standard library as the corpus")
        name = "stdlib"
        fetched = fetch([name], lab / "downloads", progress)
    watch.say(
        f"building corpus '{name}': vocabulary of {_VOCAB}, {', '.join(f.source.name for f in fetched)}"
    )
    documents = {f.source.name: f.documents() for f in fetched}
    return build(lab / "corpora" / name, documents, vocab=_VOCAB, progress=progress)


def _basic_tokens(lab: Path, corpus: Corpus, minutes: float, watch: Watch) -> int:
    """How long the basic runs may be in the time. Decided once a lab and corpus, so that the same
    command finds its runs again.
    """
    file = lab / "studies" / "tour" / "size.json"
    asked = {"minutes": minutes, "corpus": corpus.digest}
    if file.exists():
        decided = json.loads(file.read_text())
        if decided["asked"] == asked:
            return decided["tokens"]
    watch.say("measuring how fast this machine trains (and compiling, the first time)")
    small = proxy(corpus, 64, 2)
    speed = tokens_per_second(small) * flops_per_token(small.model, small.data.context)  # FLOP/s
    work = sum(
        share * flops_per_token(proxy(corpus, *size).model, small.data.context)
        for size, share in _WORK.items()
    )
    tokens = int((minutes * 60 - _FIXED) * speed / work / _EVALUATED)
    once = sum(source.train.tokens for source in corpus.sources.values())
    tokens = min(max(_FEWEST, tokens), once // 4)
    tokens = max(_STEP * 4, tokens - tokens % _STEP)
    watch.say(f"{about(speed)} FLOP/s: basic runs of {about(tokens)} tokens")
    write_whole(
        file,
        json.dumps({"asked": asked, "tokens": tokens, "flops_per_s": round(speed)}),
        make_folder=True,
    )
    return tokens


def _best_run(lab: Path) -> Run:
    """The run of the scaling study with the lowest loss."""
    runs: Sequence[Run] = [find_run(lab, run) for run in read_study(lab, SCALING).runs]
    scored = [(run.status().loss, run.id, run) for run in runs if run.kind == "branch"]
    return min((loss, name, run) for loss, name, run in scored if loss)[2]


def _sample(run: Run, corpus: Corpus) -> str:
    """What the best model writes."""
    tokenizer = corpus.tokenizer
    prompt = "The " if "wiki" in corpus.sources else "def "
    written = generate(
        load_model(run), tokenizer.encode(prompt).tolist(), most=160, end=tokenizer.eos
    )
    parameters = about(count(run.recipe.model).params_total)
    return f"({parameters} parameters, {about(run.recipe.total_tokens)} tokens) {prompt}{tokenizer.decode(written)}"
