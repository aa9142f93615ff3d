"""The whole chain at a laptop's scale: text, a stem, its decayed branches, and cosine runs to hold them against."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.data.build import build
from windtunnel.data.shards import Corpus
from windtunnel.data.sources import fetch
from windtunnel.errors import InputError
from windtunnel.files import write_whole
from windtunnel.model.generate import generate
from windtunnel.model.shape import count
from windtunnel.quantities import about
from windtunnel.recipe import Recipe, parse
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.run import Run, branch, create
from windtunnel.train.speed import tokens_per_second
from windtunnel.tunnel.study import rows_of, validation_at, write_study

_VOCAB = 2048
_DECAY = 0.1  # of the stem's tokens at the branch, as in the paper's WSD(T, 0.1 T)
_BRANCHES = (0.25, 0.5, 1.0)  # of the stem
_WORK = 1 + sum(
    share * (_DECAY + 1 + _DECAY) for share in _BRANCHES
)  # tokens trained a token of stem, cosines included
_EVALUATED = 1.25  # time with evaluations and checkpoints over time without
_FEWEST_STEPS = 400  # of the shortest branch; below that size hardly matters


@dataclass(frozen=True)
class Point:
    """One length: validation losses (nats/token) before and after the decay, and of a cosine run as long as that."""

    tokens: int
    stable: float
    decayed: float
    cosine: float


@dataclass(frozen=True)
class Tour:
    points: list[Point]
    sample: str
    stem: Run
    folder: Path


def tour(lab: Path, minutes: float, corpus: str | None, watch: Watch, progress: Callable[..., None],
         training: Callable[[str], Any]) -> Tour:  # fmt: skip
    """Run the tour, or what is missing of it. `training(name)` gives the step function of a run's watch."""
    begun = time.perf_counter()
    opened = _corpus(lab, corpus, watch, progress)
    recipe = _recipe(opened)
    counts = count(recipe.model)
    watch.say(f"model: {counts.params_total:,} parameters ({counts.params:,} without the embedding)")
    tokens = _stem_tokens(lab, recipe, opened, minutes, begun, watch)
    ends = [round(tokens * share) for share in _BRANCHES]

    def run_it(run: Run) -> Run:
        summary = train(run, opened, Watch(watch.say, training(run.recipe.name), watch.stop))
        if summary["status"] != "done":
            raise InputError(
                f"{run.path}: {summary['status']}; {summary['reason'] or 'the same command goes on from here'}"
            )
        return run

    stem = run_it(create(lab, recipe.change(schedule={"tokens": tokens}, train={"branch_points": ends}), opened))
    points, rows, runs = [], [], [stem]
    for end in ends:
        decayed = run_it(branch(stem, opened, end, round(end * _DECAY), name=f"branch-{about(end)}"))
        length = decayed.recipe.total_tokens
        cosine = run_it(create(lab, _cosine(recipe, length), opened))
        at = decayed.at_tokens or 0
        scores = [validation_at(stem, at), validation_at(decayed, length), validation_at(cosine, length)]
        points.append(Point(length, *(score["loss"] for score in scores)))
        for run, score, position, kind in zip(
            (stem, decayed, cosine), scores, (at, length, length), ("stable", "branch", "cosine"), strict=True
        ):
            rows += rows_of(run, score, position, kind)
        runs += [decayed, cosine]
    sample = _sample(runs[-2], opened)
    numbers = {"points": [vars(point) for point in points], "sample": sample, "corpus": recipe.data.corpus}
    return Tour(points, sample, stem, write_study(lab, "tour", rows, None, _summary(points), numbers, runs))


def _corpus(lab: Path, name: str | None, watch: Watch, progress: Callable[..., None]) -> Corpus:
    """The lab's corpus of that name; without a name the core corpus, or the standard library where no network is."""
    if name:
        return Corpus.open(lab / "corpora" / name)
    for folder in (lab / "corpora" / "core", lab / "corpora" / "stdlib"):
        if (folder / "manifest.json").exists():
            return Corpus.open(folder)
    name = "core"
    try:
        watch.say("fetching the core corpus: seven sources, 45 MB")
        fetched = fetch([name], lab / "downloads", progress)
    except InputError as error:
        watch.say(f"{error}; going on with Python's own standard library as the corpus")
        name = "stdlib"
        fetched = fetch([name], lab / "downloads", progress)
    watch.say(f"building corpus '{name}': vocabulary of {_VOCAB}, {', '.join(f.source.id for f in fetched)}")
    documents = {f.source.id: f.documents() for f in fetched}
    return build(lab / "corpora" / name, documents, vocab=_VOCAB, progress=progress)


def _recipe(corpus: Corpus) -> Recipe:
    """The stem; its length is set later."""
    values = {
        "name": "stem",
        "model": {"width": 64, "depth": 4, "heads": 2, "vocab": corpus.manifest.vocab, "base_width": 32},
        "data": {"corpus": corpus.folder.name, "context": 256},
        "schedule": {"tokens": "1M", "warmup": "50k", "decay": 0},
        "train": {"batch": 2048, "evaluate_every": "10%", "evaluate_tokens": 16384},
    }
    return parse(values, "the tour's recipe")


def _cosine(recipe: Recipe, tokens: int) -> Recipe:
    return recipe.change(name=f"cosine-{about(tokens)}", schedule={"tokens": tokens, "kind": "cosine", "floor": 0.1})


def _stem_tokens(lab: Path, recipe: Recipe, corpus: Corpus, minutes: float, begun: float, watch: Watch) -> int:
    """How long a stem the time allows. Decided once a lab and corpus, so that the same command finds its runs again."""
    file = lab / "studies" / "tour" / "size.json"
    asked = {"minutes": minutes, "corpus": corpus.digest}
    if file.exists():
        decided = json.loads(file.read_text())
        if decided["asked"] == asked:
            return decided["tokens"]
    watch.say("measuring how fast this machine trains (and compiling, the first time)")
    speed = tokens_per_second(recipe)
    left = minutes * 60 - (time.perf_counter() - begun)
    shortest = round(_FEWEST_STEPS * recipe.train.batch / _BRANCHES[0])
    once = sum(source.train.tokens for source in corpus.sources.values())
    tokens = min(max(shortest, int(left * speed / _WORK / _EVALUATED)), int(once / (1 + _DECAY)))
    tokens = recipe.whole_steps(max(tokens, recipe.train.batch * 40))
    watch.say(f"{about(speed)} tokens/s: a stem of {about(tokens)} tokens, three branches and three cosine runs")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"asked": asked, "tokens": tokens, "tokens_per_s": round(speed)}))
    return tokens


def _sample(run: Run, corpus: Corpus) -> str:
    """What the longest branch writes."""
    tokenizer = corpus.tokenizer
    prompt = "The " if "wiki" in corpus.sources else "def "
    written = generate(load_model(run), tokenizer.encode(prompt).tolist(), most=160, end=tokenizer.eos)
    return prompt + tokenizer.decode(written)


def _summary(points: list[Point]) -> str:
    gain = sum(p.stable - p.decayed for p in points) / len(points)
    against = sum(p.decayed - p.cosine for p in points) / len(points)
    side = "below" if against < 0 else "above"
    return (
        f"the decay took {gain:.3f} nats/token off the stable loss; branches end {abs(against):.3f} {side} cosine runs "
        f"of the same length (means of {len(points)} lengths, one seed)"
    )
