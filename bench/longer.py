"""What does a longer context cost, and is it used? (MiniCPM paper, section 7.2.)

    .venv/bin/python bench/longer.py memory                    # about 5 minutes on one core
    .venv/bin/python bench/longer.py scalings --lab DIR        # needs the extra `ship`
    .venv/bin/python bench/longer.py run --lab DIR [--corpus NAME] [--seed 1] [--size 64x2]
    .venv/bin/python bench/longer.py run --lab DIR --corpus NAME --base RUN --at TOKENS [...]

memory: one shape at 1K, 4K, 16K and 32K tokens on this CPU: peak memory and time a token of a
step, forward and backward. Each length is a process of its own.

scalings: a model with random weights and each scaling of RoPE, from 256 tokens to 1,024: how far
its frequencies are from transformers', and its log-probabilities of held-out text from those of
transformers and llama.cpp on the exported files, below the old context and beyond.

run: a model of 98,000 parameters (and 131,000 of embeddings) trained in windows of 256 tokens as a
stem of `--tokens`, or an existing run, taken to the lengths of `--stages` with `--each` tokens a
stage. Before and after: bits a byte of held-out text in short windows, of 256 or `--short` tokens,
questions by length and depth, and what distant text saves. Needs the corpus, `core` unless another
is named, in the lab:

    windtunnel corpus build core shakespeare scripture wiki manual essay --vocab 2048 --lab DIR

SmolLM2-135M of docs/benchmarks.md, with C as in bench/far_runs.py:

    windtunnel import SmolLM2-135M-Instruct.Q4_1.gguf --lab DIR
    windtunnel corpus build code documents=documents.jsonl --tokenizer RUN --lab DIR
    .venv/bin/python bench/longer.py run --lab DIR --corpus code --base RUN --at 0 --stages 32k \
        --each 131072 --scaling ntk --lr 1e-4 --short 1024 --asked 8k,16k,32k --depths 0.5 \
        --kinds passkey --questions 1 --documents 0

Prints tables and, last, one JSON list.
"""

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from claims import Claim, arguments, claim, end, header, last_line, row
from train import machine

from windtunnel.cli.display import display
from windtunnel.data.shards import Corpus
from windtunnel.evaluate.needle import QUESTIONS, Far, answered, saved
from windtunnel.evaluate.own import OwnModel
from windtunnel.family.longer import Asked, longer
from windtunnel.model.decoder import Decoder
from windtunnel.model.init import initial_tensors
from windtunnel.quantities import Length, parse_context, parse_tokens
from windtunnel.recipe import Model, Recipe, parse
from windtunnel.recipe.rope import frequencies
from windtunnel.ship.engines import Asked as Export
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.held_out import HeldOut, held_out
from windtunnel.ship.huggingface import rope
from windtunnel.ship.layouts import LAYOUTS
from windtunnel.ship.portable import PortableModel
from windtunnel.train.loop import Watch, load_model, train
from windtunnel.train.run import Run, create, find_run
from windtunnel.tunnel.design import SIZE

LENGTHS = (1024, 4096, 16_384, 32_768)
SHAPE = {"width": 256, "depth": 4, "heads": 8, "kv_heads": 2, "vocab": 2048}
OLD = 256
EVALUATED = 16_384  # held-out tokens of a validation
BATCH = 2048


def main() -> None:
    """One of the parts."""
    parser = arguments(__doc__)
    parser.add_argument("part", choices=("memory", "scalings", "run", "one"))
    parser.add_argument("--length", type=int, help="of the part `one`, which `memory` starts")
    parser.add_argument("--lab", type=Path, default=Path("lab"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--base", help="a run instead of one that is trained here")
    parser.add_argument("--at", help="tokens of its checkpoint")
    parser.add_argument("--corpus", default="core")
    parser.add_argument("--size", default="64x2", help="width x depth of the stem")
    parser.add_argument("--tokens", default="6M")
    parser.add_argument("--each", default="3M")
    parser.add_argument("--stages", default="1k,4k")
    parser.add_argument("--scaling", default="", help="of RoPE; by default as `windtunnel longer`")
    parser.add_argument("--lr", type=float, help="of the stages; by default the stem's")
    parser.add_argument("--short", type=int, default=OLD, help="tokens of a short window")
    parser.add_argument("--asked", default="512,1k,4k", help="lengths of texts with a question")
    parser.add_argument("--depths", default="0,0.25,0.5,0.75,1")
    parser.add_argument("--kinds", default=",".join(QUESTIONS))
    parser.add_argument("--questions", type=int, default=2, help="at each length and depth")
    parser.add_argument("--documents", type=int, default=48, help="at each length")
    given = parser.parse_args()
    if given.part == "one":
        one(given.length)
    elif given.part == "memory":
        end(memory())
    elif given.part == "scalings":
        end(scalings(given.lab))
    else:
        last_line(run(given))


def one(length: int) -> None:
    """A step of one window of so many tokens: its peak, above what came before, and its seconds a
    token.
    """
    torch.set_num_threads(1)
    decoder = Decoder(Model.model_validate(SHAPE), length)
    tokens = torch.randint(2048, (1, length + 1), generator=torch.Generator().manual_seed(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        losses = decoder.losses(tokens[:, :-1], tokens[:, 1:])
    losses.mean().backward()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((peak - before) * 1024, seconds / length)


def memory() -> list[Claim]:
    """Every length, and whether memory grows no faster than the length."""
    print(header("tokens", "peak of a step", "a token", "microseconds a token"))
    peaks = []
    for length in LENGTHS:
        command = [sys.executable, __file__, "one", "--length", str(length)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peak, seconds = map(float, done.stdout.split())
        peaks.append(peak)
        print(
            row(
                length,
                f"{peak / 2**20:,.0f} MiB",
                f"{peak / length / 1024:.1f} KiB",
                f"{seconds * 1e6:.0f}",
            ),
            flush=True,
        )
    growth = (peaks[-1] - peaks[1]) / (LENGTHS[-1] - LENGTHS[1]) * LENGTHS[1] / peaks[1]
    return [
        claim(
            "bytes that each token more takes at 32K, over those of a token at 4K",
            round(growth, 3),
            "ratio",
            1.1,
            growth <= 1.1,
            machine(),
        )
    ]


def scalings(lab: Path) -> list[Claim]:
    """The largest differences, in nats, and of frequencies as a share."""
    corpus = Corpus.open(lab / "corpora" / "core")
    length = 4 * OLD
    spread_out = held_out(corpus, length, length, 10)
    held = replace(spread_out, windows=spread_out.windows[:1])
    shape = {"width": 96, "depth": 3, "heads": 3, "kv_heads": 1, "vocab": 2048, "base_width": 32}
    print(
        header(
            "scaling", "frequencies", "transformers, below", "beyond", "llama.cpp, below", "beyond"
        )
    )
    claims = []
    for name, factor in (
        *(("abf", 16.0), ("linear", 4.0), ("ntk", 4.0)),
        *(("dynamic", 4.0), ("yarn", 4.0), ("llama3", 4.0)),
    ):
        own = {"rope_scaling": name, "rope_factor": factor, "rope_original": OLD}
        model = Model.model_validate(shape | own)
        weights = initial_tensors(model, 0)
        ours = log_probabilities(model, weights, held.windows)
        portable = PortableModel(
            name=name,
            model=model,
            weights=weights,
            context=length,
            tokenizer=corpus.tokenizer,
            tokenizer_config={},
        )
        cells = [f"{_frequencies_off(model, length):.1e}"]
        for to in ("hf", "gguf"):
            layout = LAYOUTS[to]
            if (to, name) == ("gguf", "dynamic"):
                cells += ["refused", "refused"]
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = layout.write(Path(folder), portable, layout.dtypes[0])
                found = layout.engine(path, held_asked(held))
            off = np.abs(found.log_probabilities - ours)[0]
            cells += [f"{off[:OLD].max():.1e}", f"{off[OLD:].max():.1e}"]
            most = layout.bounds[layout.dtypes[0]].difference or 0.0
            what = f"{name} from 256 to 1,024 tokens by {found.engine}: largest difference"
            claims.append(claim(what, float(off.max()), "nats", most, bool(off.max() <= most)))
        print(row(name, *cells), flush=True)
    return claims


def held_asked(held: HeldOut) -> Export:
    """Nothing but the windows."""
    return Export(held=replace(held, lines=()), marked=(), messages=(), ends=())


def _frequencies_off(model: Model, length: int) -> float:
    """From those of transformers' Llama, as a share, at this length and at the old one."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    off = 0.0
    for tokens in (OLD, length):
        config = LlamaConfig(
            head_dim=model.head_size,
            max_position_embeddings=rope.positions(model, length),
            rope_parameters=rope.written(model),
        )
        theirs = LlamaRotaryEmbedding(config)
        theirs(torch.zeros(1, 1, model.width), torch.tensor([[tokens - 1]]))
        found = np.array(theirs.inv_freq.tolist())
        off = max(off, float(np.abs(np.array(frequencies(model, tokens)) / found - 1).max()))
    return off


def run(given: argparse.Namespace) -> list[Claim]:
    """Before and after."""
    corpus = Corpus.open(given.lab / "corpora" / given.corpus)
    base, at = _base(given, corpus)
    last = _longer(base, at, corpus, given)
    claims: list[Claim] = []
    held = _held_out(corpus, given.short)
    bits: list[np.ndarray] = []
    for name, one, tokens in (("before", base, at), ("after", last, None)):
        model = load_model(one, tokens)
        weights = {key: value.detach() for key, value in model.named_parameters()}
        size = float(corpus.tokenizer.token_bytes[held[:, 1:]].sum())
        found = -log_probabilities(one.recipe.model, weights, held) / math.log(2)
        bits.append(found.sum(axis=1) / size * len(held))
        print(f"\n{name}: {bits[-1].mean():.4f} bits a byte in windows of {given.short} tokens\n")
        own = OwnModel(
            name,
            one.recipe.model,
            weights,
            last.recipe.data.context,
            corpus.tokenizer,
            None,
            [corpus.manifest.eos],
            "cpu",
        )
        claims += _far(name, own, corpus, given)
    change = bits[1].mean() / bits[0].mean() - 1
    error = (bits[1] - bits[0]).std(ddof=1) / math.sqrt(len(held)) / bits[0].mean()
    claims.append(
        claim(
            f"bits a byte at {given.short} tokens, after over before, seed {given.seed}",
            round(change, 4),
            "share",
            0.01,
            change <= 0.01,
            stderr=round(error, 4),
        )
    )
    return claims


def _base(given: argparse.Namespace, corpus: Corpus) -> tuple[Run, int]:
    if given.base:
        found = find_run(given.lab, given.base)
        return found, parse_tokens(given.at)
    base = create(given.lab, _recipe(given, corpus), corpus)
    _train(base, corpus)
    return base, base.recipe.total_tokens


def _recipe(given: argparse.Namespace, corpus: Corpus) -> Recipe:
    width, depth = SIZE.parse("--size", given.size)
    seed, tokens = given.seed, parse_tokens(given.tokens)
    model = {"width": width, "depth": depth, "heads": width // 32, "vocab": corpus.manifest.vocab}
    model |= {"base_width": 32, "base_depth": 2}
    return parse(
        {
            "name": f"short-{seed}",
            "seed": seed,
            "model": model,
            "data": {"corpus": corpus.folder.name, "context": OLD},
            "schedule": {"tokens": tokens, "warmup": 32 * BATCH, "decay": 0},
            # what is asked here is measured at the end, below
            "train": {
                "batch": BATCH,
                "evaluate_every": "100%",
                "evaluate_tokens": EVALUATED,
            },
        },
        "bench",
    )


def _longer(base: Run, at: int, corpus: Corpus, given: argparse.Namespace) -> Run:
    """The curriculum, to its last run."""
    parent, stages = base, _lengths(given.stages)
    for number, to in enumerate(stages):
        last = number == len(stages) - 1
        asked = Asked(
            to=stages,
            tokens=parse_tokens(given.each),
            at=None if number else at,
            decay=Length(share=0.2),
            scaling=given.scaling,
            lr=given.lr,
        )
        stage = longer(parent, corpus, to, asked, last)
        for note in stage.notes:
            print(f"{to}: {note}", flush=True)
        _train(stage.run, stage.corpus)
        parent = stage.run
    return parent


def _train(one: Run, corpus: Corpus) -> None:
    with display() as shown:
        watch = Watch(say=shown.say, step=shown.training(one.recipe.name))
        assert train(one, corpus, watch).status == "done"


def _lengths(text: str) -> tuple[int, ...]:
    """`1k,4k` and `512`, in tokens."""
    return tuple(parse_context(one) for one in text.split(","))


def _held_out(corpus: Corpus, tokens: int) -> np.ndarray:
    """Short windows, spread over the held-out text of every source."""
    windows = []
    for source in corpus.sources.values():
        stream = source.validation
        starts = np.linspace(0, stream.tokens - tokens - 1, 24).astype(np.int64)
        windows.append(stream.read(starts, tokens + 1))
    return np.concatenate(windows)


def _far(name: str, own: OwnModel, corpus: Corpus, given: argparse.Namespace) -> list[Claim]:
    """Questions, and what distant text saves."""
    far = Far(
        lengths=_lengths(given.asked),
        depths=tuple(map(float, given.depths.split(","))),
        each=given.questions,
        documents=given.documents,
        kinds=tuple(given.kinds.split(",")),
    )
    print(header("question", *(f"{length}@{d:g}" for length in far.lengths for d in far.depths)))
    for kind in far.kinds:
        _, measures = answered(own, kind, far, lambda _: None)
        print(row(kind, *(f"{one.value:.2f}" for one in measures[1:])), flush=True)
    _, measures = saved(own, corpus, far, lambda _: None)
    claims = []
    print("\n" + header("position", "what", "bits a byte", "standard error"))
    for one in measures:
        error = one.stderr or math.nan
        print(row(one.filter, one.metric, f"{one.value:.4f}", f"{error:.4f}"))
        if one.metric == "bits_per_byte_saved":
            what = f"{name}: bits a byte that distant text saves at {one.filter.split(',')[0]}"
            ok = one.value - 1.96 * error > 0 if name == "after" else None
            saved_bits = round(one.value, 4)
            claims.append(claim(what, saved_bits, "bits a byte", 0, ok, stderr=round(error, 4)))
    return claims


if __name__ == "__main__":
    main()
