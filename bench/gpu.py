"""What one GPU proves in ten minutes, the most valuable first.

    .venv/bin/python bench/gpu.py DIR [--device cuda] [--parts NAME ...] [--smollm2 FOLDER]

Each part is a process of its own with its own limit of time, and leaves a line of JSON in
DIR/parts.jsonl; a part that has left one is not repeated, so the script goes on where it was cut
off. With --device cpu every part runs at a size that a CPU takes, which shows that the script is
whole and nothing else. Parts:

study       a corpus of the project's own pages and a scaling study on it, by the command line
memory      peak bytes of a step and of a validation behind it, beside what was told of them
bits        one run twice, with train.deterministic and without, and once killed and resumed
check       bench/gpu_check.py: every fast path against fp32
public      50.3M parameters at context 2,048; public: 1.67M tokens/s, 39.8% of one H100
big         0.5B, 1.2B and 2.4B at context 4,096: share of the data sheet's peak (bench/big.py)
longer      10 steps of 1.2B at 32K tokens and of 0.5B at 128K, within documents: tokens/s,
            and peak bytes beside what was told of them
population  members together against one after the other, by size and batch
sft         tokens/s of fine-tuning SmolLM2-135M, imported from FOLDER; skipped without one
export      what the study trained, as GGUF

Prints a table and, last, one JSON list.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from big import SHAPES
from claims import Claim, arguments, claim, end, header, row
from train import machine

from windtunnel.model.shape import count, flops_per_token
from windtunnel.recipe import Recipe, parse
from windtunnel.train.cost import cost_of
from windtunnel.train.device import choose_engine, matrix_peak
from windtunnel.train.speed import timed_step, tokens_per_second
from windtunnel.train.step import Step
from windtunnel.train.validation import losses_of

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-c", "from windtunnel.cli import main; main()"]
PUBLIC_TOKENS, PUBLIC_SHARE = 1.67e6, 0.398
RECIPE = """
name = "bits"
[model]
width = {width}
depth = 4
heads = 4
vocab = 1024
[data]
corpus = "pages"
context = 256
[schedule]
tokens = "{tokens}"
[train]
batch = 4096
device = "{device}"
deterministic = {deterministic}
checkpoint_every = "20%"
evaluate_tokens = "8k"
"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something to prove, in a process of its own."""

    limit: int
    """Seconds."""
    measure: Callable[["Where"], list[Claim]]


@dataclass(frozen=True, kw_only=True)
class Where:
    """On what the parts are carried out."""

    folder: Path
    device: str
    smollm2: Path | None

    @property
    def small(self) -> bool:
        """Whether it is only to be shown that the script is whole."""
        return self.device == "cpu"

    @property
    def lab(self) -> Path:
        """The lab of the study."""
        return self.folder / "lab"


def main() -> None:
    """Carry out the parts that are missing, each in a process of its own."""
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--smollm2", type=Path)
    parser.add_argument("--here", action="store_true", help="the one part, in this process")
    given = parser.parse_args()
    where = Where(folder=given.folder, device=given.device, smollm2=given.smollm2)
    where.folder.mkdir(parents=True, exist_ok=True)
    if given.here:
        (part,) = given.parts
        print(json.dumps(PARTS[part].measure(where)))
        return
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no GPU here")
        print("[]")
        return
    done = _read(where)
    for name in given.parts:
        if name not in done:
            done[name] = _carried_out(name, given.smollm2, where)
            with (where.folder / "parts.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"part": name} | done[name]) + "\n")
    print(f"\n{machine()}, {given.device}\n")
    print(header("part", "what", "value", "unit", "target", "seconds"))
    for name in given.parts:
        found = done[name]
        for one in found["claims"]:
            told = [one["claim"], one["value"], one["unit"], one["target"]]
            print(row(name, *told, f"{found['seconds']:.0f}"))
    end([one for name in given.parts for one in done[name]["claims"]])


def _read(where: Where) -> dict[str, Any]:
    """What earlier calls have measured, by part."""
    file = where.folder / "parts.jsonl"
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return {found.pop("part"): found for found in map(json.loads, lines)}


def _carried_out(name: str, smollm2: Path | None, where: Where) -> dict[str, Any]:
    """A part's claims and seconds; one that fails or takes too long is a claim that fails."""
    command = [sys.executable, __file__, str(where.folder), "--device", where.device]
    command += ["--parts", name, "--here", *(["--smollm2", str(smollm2)] if smollm2 else [])]
    print(f"{name} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            # a CPU may take whatever time it takes: nothing is measured there
            timeout=None if where.small else PARTS[name].limit,
            check=True,
        )
        claims = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, json.JSONDecodeError, IndexError) as error:
        claims = [claim(f"{name} ends", 0, "yes or no", 1, False, machine(), why=str(error)[:200])]
    return {"claims": claims, "seconds": time.perf_counter() - start}


def study(where: Where) -> list[Claim]:
    """A corpus, and a scaling study from its first run to its law."""
    sources = [f"pages={HERE.parent / 'docs' / '*.md'}", f"code={HERE.parent / 'src'}"]
    _run(where, "corpus", "build", "pages", *sources, "--vocab", "1024")
    sizes, lengths = ("16x1,32x1,32x2", "20k,60k") if where.small else ("32x2,64x3,128x4", "1M,8M")
    shortest, longest = lengths.split(",")
    start = time.perf_counter()
    design = ["--sizes", sizes, "--shortest", shortest, "--longest", longest, "--points", "4"]
    design += ["--seeds", "1", "--no-audit"]
    told = _run(where, "scaling", "--corpus", "pages", *design, "--json", may_fail=True)
    runs = len(json.loads(told)["runs"])
    seconds = round(time.perf_counter() - start, 1)
    return [claim("a scaling study ends", runs, "runs", ok=runs > 0, seconds=seconds)]


def memory(where: Where) -> list[Claim]:
    """Peaks of a step and of a validation after it, beside what `--dry-run` tells."""
    shape = {"width": 1280, "depth": 24, "heads": 20, "ffn": 3200, "vocab": 32_768}
    if where.small:
        shape = {"width": 64, "depth": 2, "heads": 2, "vocab": 2048}
    asked = _recipe(where, shape, 256 if where.small else 4096, 4096 if where.small else 131_072)
    told = cost_of(asked, where.lab).memory
    step, held = Step([asked], choose_engine(asked)), _random(asked)
    for _ in range(5):  # until the work is captured
        step.gradient(held)
        step.update([1.0])
    claims = []
    works: dict[str, tuple[Callable[[], object], int]] = {
        "a step": (lambda: step.gradient(held), told.total),
        "a validation": (lambda: _validated(step, held), told.validation),
    }
    for what, (work, estimate) in works.items():
        if where.small:
            work()  # only a GPU's allocator knows its peak
            continue
        torch.cuda.reset_peak_memory_stats()
        work()
        peak = torch.cuda.max_memory_allocated()
        claims.append(claim(f"peak of {what}", peak, "bytes", estimate, machine=machine()))
    return claims


def bits(where: Where) -> list[Claim]:
    """Whether a run gives the same bytes twice, and after a kill."""
    claims = []
    for deterministic in ("true", "false"):
        first, second, killed = (
            _trained(where, f"{deterministic}-{number}", deterministic, kill=number == 2)
            for number in range(3)
        )
        # without, nothing is promised on a GPU
        promised = deterministic == "true" or where.small
        for what, other in (("twice", second), ("after a kill", killed)):
            same = first == other
            claims.append(
                claim(
                    f"the same bits {what}, deterministic = {deterministic}",
                    int(same),
                    "yes or no",
                    1 if promised else None,
                    same if promised else None,
                    machine(),
                )
            )
    return claims


def check(where: Where) -> list[Claim]:
    """Every fast path against fp32."""
    return _script("gpu_check.py", "--device", where.device)


def public(where: Where) -> list[Claim]:
    """Beside a public figure of one H100."""
    shape = {"width": 512, "depth": 16, "heads": 8, "vocab": 8192, "tied": False}
    context, batch, seconds = 2048, 131_072, 20.0
    if where.small:
        shape, context, batch, seconds = shape | {"width": 64, "depth": 2}, 256, 1024, 0.5
    asked = _recipe(where, shape, context, batch)
    speed = tokens_per_second(asked, seconds)
    share = speed * flops_per_token(asked.model, context) / matrix_peak(choose_engine(asked))
    size = f"{count(asked.model).params_total / 1e6:.1f}M at context {context}"
    target = None if where.small else PUBLIC_SHARE
    return [
        claim(size, round(speed), "tokens/s", None if where.small else PUBLIC_TOKENS),
        claim(
            f"{size}: share of the peak",
            round(share, 4),
            "share",
            target,
            None if target is None else share >= target,
            machine(),
        ),
    ]


def big(where: Where) -> list[Claim]:
    """The paper's sizes; nothing on a CPU."""
    return _script("big.py", "--seconds", "8")


def longer(where: Where) -> list[Claim]:
    """Windows of a longer context, of documents of some thousand tokens."""
    shapes = {
        "1.2B at 32K": (SHAPES["1.2B"][0] | {"tied": False}, 32_768),
        "0.5B at 128K": (SHAPES["0.5B"][0], 131_072),
    }
    if where.small:
        small = {"width": 32, "depth": 2, "heads": 2, "vocab": 512}
        shapes = {"a small one at 4K": (small, 4096)}
    claims = []
    for name, (shape, context) in shapes.items():
        scaled = {"rope_scaling": "ntk", "rope_factor": 4.0}
        asked = _recipe(where, shape | scaled, context, context)
        told, step = cost_of(asked, where.lab).memory, Step([asked], choose_engine(asked), 0)
        held = _random(asked)
        loss = step.gradient(held)
        for _ in range(2 if where.small else 4):  # until the work is captured
            step.update([1.0])
            loss = step.gradient(held)
        step.update([1.0])
        if not where.small:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start, steps = time.perf_counter(), 1 if where.small else 10
        for _ in range(steps):
            loss = step.gradient(held)
            step.update([1.0])
        speed = steps * context / (time.perf_counter() - start) if loss.isfinite() else 0.0
        claims.append(claim(f"{name}: it trains", round(speed), "tokens/s", None, speed > 0))
        if not where.small:
            share = torch.cuda.max_memory_allocated() / told.total
            what = f"{name}: peak over what was told"
            claims.append(claim(what, round(share, 3), "ratio", 1.1, share <= 1.1, machine()))
        del step
        torch.cuda.empty_cache()
    return claims


def population(where: Where) -> list[Claim]:
    """Members together against one after the other: members x size x batch."""
    sizes = {"50k": {"width": 32, "depth": 2, "heads": 1, "vocab": 1024}}
    batches, members = (512,), (1, 2)
    if not where.small:
        sizes["1M"] = {"width": 128, "depth": 4, "heads": 4, "vocab": 2048}
        batches, members = (512, 2048, 8192), (1, 8, 64)
    claims = []
    for size, shape in sizes.items():
        for batch in batches:
            asked = _recipe(where, shape, 256, batch)
            eager = _seconds(asked.change(train={"compile": False}), 1)
            alone = _seconds(asked, 1)
            for number in members[1:]:
                each = _seconds(asked, number) / number
                claims.append(
                    claim(
                        f"{size}, batch {batch}, {number} members",
                        round(alone / each, 2),
                        "times one compiled after the other",
                        machine=machine(),
                        times_eager=round(eager / each, 2),
                    )
                )
    return claims


def sft(where: Where) -> list[Claim]:
    """Tokens a second of fine-tuning the imported model."""
    if where.smollm2 is None:
        return []
    _run(where, "import", str(where.smollm2), "--name", "smollm2")
    told = where.folder / "turns.jsonl"
    turns = [{"role": "user", "content": "What is a wind tunnel?"}]
    turns.append({"role": "assistant", "content": "A tube with a fan, where models are measured."})
    lines = "".join(json.dumps({"messages": turns}) + "\n" for _ in range(2000))
    told.write_text(lines, encoding="utf-8")
    options = ["--data", str(told), "--epochs", "1", "--lr", "3e-4", "--batch", "16k"]
    said = _run(where, "sft", "smollm2", *options, "--json")
    folder = Path(json.loads(said)["path"])
    lines = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    ]
    speeds = [line["tokens_per_s"] for line in lines if "tokens_per_s" in line]
    speed = float(np.median(speeds[len(speeds) // 2 :]))
    return [claim("SFT of SmolLM2-135M", round(speed), "tokens/s", machine=machine())]


def export(where: Where) -> list[Claim]:
    """What the study trained, in a file that llama.cpp reads."""
    listed = json.loads(_run(where, "runs", "--json"))
    run = next(one for one in reversed(listed) if one["status"] == "done")
    out = where.folder / "export"
    _run(where, "export", run["id"], "--to", "gguf", "--out", str(out), "--overwrite")
    size = sum(file.stat().st_size for file in out.glob("*.gguf"))
    return [claim("an export that its engine reads", size, "bytes", ok=size > 0)]


PARTS = {
    "study": Part(limit=150, measure=study),
    "memory": Part(limit=90, measure=memory),
    "bits": Part(limit=120, measure=bits),
    "check": Part(limit=240, measure=check),
    "public": Part(limit=90, measure=public),
    "big": Part(limit=240, measure=big),
    "longer": Part(limit=240, measure=longer),
    "population": Part(limit=240, measure=population),
    "sft": Part(limit=120, measure=sft),
    "export": Part(limit=60, measure=export),
}


def _run(where: Where, *command: str, may_fail: bool = False) -> str:
    """What a command of the project prints, whose progress goes to this one's. `may_fail`: by its
    verdict, exit code 1.
    """
    whole = [*COMMAND, *command, "--lab", str(where.lab)]
    done = subprocess.run(whole, stdout=subprocess.PIPE, text=True)
    if done.returncode not in ((0, 1) if may_fail else (0,)):
        raise subprocess.CalledProcessError(done.returncode, whole)
    return done.stdout


def _script(name: str, *options: str) -> list[Claim]:
    """The claims of another script here, whether they hold or not."""
    done = subprocess.run(
        [sys.executable, str(HERE / name), *options], stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _recipe(where: Where, shape: dict[str, Any], context: int, batch: int) -> Recipe:
    return parse(
        {
            "name": "gpu",
            "model": shape,
            "data": {"corpus": "none", "context": context},
            "schedule": {"tokens": "100M"},
            "train": {"batch": batch, "device": where.device},
        },
        "bench",
    )


def _random(recipe: Recipe) -> np.ndarray:
    """A batch of random tokens."""
    context = recipe.data.context
    size = (recipe.train.batch // context, context + 1)
    return np.random.default_rng(0).integers(0, recipe.model.vocab, size)


def _validated(step: Step, held: np.ndarray) -> object:
    return losses_of(step.model, torch.from_numpy(held), step.engine, None)


def _seconds(recipe: Recipe, members: int) -> float:
    """A step of all members: the median of a few."""
    step = timed_step(recipe, members)
    return float(np.median([step(time.perf_counter) for _ in range(7)]))


def _trained(where: Where, name: str, deterministic: str, kill: bool) -> str:
    """The hash of the last checkpoint of a run in a lab of its own, killed once on its way."""
    width, tokens = (32, "80k") if where.small else (256, "4M")
    lab = where.folder / f"bits-{name}"
    lab.mkdir(exist_ok=True)
    if not (lab / "corpora").exists():
        (lab / "corpora").symlink_to((where.lab / "corpora").absolute())
    file = lab / "recipe.toml"
    values = {"width": width, "tokens": tokens, "device": where.device}
    file.write_text(RECIPE.format(**values, deterministic=deterministic), encoding="utf-8")
    command = [*COMMAND, "train", str(file), "--lab", str(lab), "--json"]
    if kill:
        _killed(command, lab)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    folder = Path(json.loads(done.stdout)["path"]) / "checkpoints"
    last = max(path for path in folder.iterdir() if path.name.isdigit())
    digest = hashlib.sha256()
    for each in sorted(last.glob("*.safetensors")):
        digest.update(each.read_bytes())
    return digest.hexdigest()


def _killed(command: Sequence[str], lab: Path) -> None:
    """Begin, and kill it once it has a checkpoint."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(lab.glob("runs/*/checkpoints/0*")):
        time.sleep(0.05)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
