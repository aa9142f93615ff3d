"""The study of longer contexts: a real small one, and what is made of known losses."""

import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from windtunnel.data.build import build
from windtunnel.data.readers import Documents
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import Model
from windtunnel.recipe.rope import stretched
from windtunnel.report.experiments.ablate_longer import figures
from windtunnel.results.ablate_longer import ABLATE_LONGER
from windtunnel.results.run import Engine
from windtunnel.results.study import read_study, read_table
from windtunnel.train.loop import Watch, load_model
from windtunnel.train.run import open_run
from windtunnel.tunnel.ablate.design import Design
from windtunnel.tunnel.ablate.longer import ablate_longer
from windtunnel.tunnel.ablate.longer_design import LongerDesign
from windtunnel.tunnel.ablate.longer_found import Arm, length_found, summary
from windtunnel.tunnel.ablate.positions import bands, losses_at, texts_of

EAGER = {"CXX": "no-compiler"}  # to compile would take longer
TINY = ("--corpus", "long", "--width", 16, "--depth", 1, "--batch", 512, "--tokens", "8k")
LONGER = ("--longer", "--to", "512", "--bases", "1e4,2e5", "--scalings", "yarn")
BUDGETS = ("--budgets", "4096,8192", "--decay", "25%")
MODEL = Model.model_validate({"width": 64, "depth": 2, "heads": 2, "vocab": 320})


def written(name: str, words: int, documents: int) -> Documents:
    rng = random.Random(name)
    texts = [
        " ".join(rng.choices(["wind", "tunnel", "sail", "rope", "base"], k=words))
        for _ in range(documents)
    ]
    return Documents(read=lambda: iter(texts), origin="generated", identity=f"{name}{words}")


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two sources of documents of more than 512 tokens, one of short ones."""
    sources = {
        "novels": written("novels", 900, 60),
        "manuals": written("manuals", 700, 60),
        "notes": written("notes", 30, 400),
    }
    return build(tmp_path_factory.mktemp("corpora") / "long", sources, vocab=280)


@pytest.fixture(scope="module")
def measured(make_lab: Any, long_corpus: Corpus) -> Any:
    """A lab with a study of two bases and a scaling. Only to be looked at."""
    lab = make_lab()
    shutil.copytree(long_corpus.folder, lab.path / "corpora" / "long")
    done = lab.run("ablate", *TINY, *LONGER, *BUDGETS, **EAGER)
    assert done.returncode == 0, done.stderr
    assert "to 512" in done.stdout and "critical" in done.stdout
    return lab


def test_texts_are_parts_of_single_documents_from_every_source(long_corpus: Corpus) -> None:
    texts = texts_of(long_corpus, 512, 4)
    assert texts.shape == (4, 513)
    assert not (texts[:, :-1] == long_corpus.manifest.eos).any()
    taken = set()
    for text in texts:
        for name in ("novels", "manuals"):
            stream = long_corpus.sources[name].validation
            held = stream.read(np.array([0]), stream.tokens)[0]
            windows = np.lib.stride_tricks.sliding_window_view(held, 513)
            if (windows == text).all(axis=1).any():
                taken.add(name)
    assert taken == {"novels", "manuals"}
    with pytest.raises(InputError, match="no held-out document has more than 65536 tokens"):
        texts_of(long_corpus, 65_536, 4)


def test_parts_cover_every_position() -> None:
    assert bands(256, 1024) == [("near", 0, 256), ("far", 256, 1024)]
    assert bands(256, 8192)[2:] == [
        ("256-1024", 256, 1024),
        ("1024-4096", 1024, 4096),
        ("4096-8192", 4096, 8192),
    ]


def test_every_arm_goes_on_from_the_end_of_its_stem_and_decays_at_every_budget(
    measured: Any,
) -> None:
    runs = {run["id"]: run for run in measured.json("runs")}
    rows = [row for row in read_table(measured.path, ABLATE_LONGER) if row.source == "far"]
    arms = ("10k", "200k", "yarn")
    assert [(row.seed, row.arm, row.tokens) for row in rows] == [
        (seed, arm, tokens) for seed in (0, 1) for arm in arms for tokens in (0, 4096, 8192)
    ]
    for row in rows:
        if not row.tokens:
            assert row.run == row.stem
            continue
        branch = open_run(Path(runs[row.run]["path"]))
        on = open_run(measured.path / "runs" / str(branch.parent))
        stem = open_run(measured.path / "runs" / row.stem)
        assert (on.parent, on.at_tokens, on.anew) == (stem.id, stem.recipe.total_tokens, True)
        assert branch.recipe.total_tokens == row.tokens
        assert branch.recipe.decay_tokens == row.tokens // 4
        assert branch.recipe.data.context == 512 and on.recipe.is_stem
        wanted = {"10k": 1e4, "200k": 2e5, "yarn": None}[row.arm]
        assert row.base == wanted
        model = branch.recipe.model
        if wanted:
            assert (model.rope_scaling, model.rope_base) == ("none", wanted)
        else:
            assert (model.rope_scaling, model.rope_factor) == ("yarn", 2.0)


def test_a_row_says_what_its_model_loses_there(measured: Any, long_corpus: Corpus) -> None:
    texts = texts_of(long_corpus, 512, 32_768 // 512)
    rows = [row for row in read_table(measured.path, ABLATE_LONGER) if row.arm == "yarn"]
    for tokens in (0, 8192):
        found = {row.source: row for row in rows if row.tokens == tokens and row.seed == 1}
        run = open_run(measured.path / "runs" / found["far"].run)
        model = run.recipe.model
        if not tokens:  # the stem's weights, with RoPE that is scaled
            model = model.model_copy(update=stretched(model, 256, 512, "yarn"))
        decoder = Decoder(model, 512)
        decoder.load_state_dict(load_model(run).state_dict())
        batch = torch.from_numpy(texts)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            nats = decoder.losses(batch[:, :-1], batch[:, 1:]).view(len(texts), -1)
        assert found["far"].loss == pytest.approx(float(nats[:, 256:].mean()), abs=2e-3)
        assert found["near"].loss == pytest.approx(float(nats[:, :256].mean()), abs=2e-3)


def test_asking_again_trains_nothing_and_its_figures_are_drawn(measured: Any) -> None:
    before = {run["id"] for run in measured.json("runs")}
    first = read_study(measured.path, ABLATE_LONGER)
    done = measured.run("ablate", *TINY, *LONGER, *BUDGETS, **EAGER)
    assert done.returncode == 0 and "runs to train" not in done.stderr
    assert {run["id"] for run in measured.json("runs")} == before
    assert read_study(measured.path, ABLATE_LONGER) == first
    (_, bases), (_, arms) = figures(first, read_table(measured.path, ABLATE_LONGER))
    assert isinstance(bases, list) and isinstance(arms, list)
    assert len(list(bases[0].data)) == 2
    said = {each["text"]: each["x"] for each in bases[0].to_dict()["layout"]["annotations"]}
    inside = {rule.name: rule.base for rule in first.numbers.lengths[0].rules if rule.price}
    assert said["abf"] == pytest.approx(math.log10(4e4)) and said.keys() >= inside.keys()
    assert list(arms[0].to_dict()["data"][0]["y"]) == ["10k", "200k", "yarn"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--longer", "--to", "300"), "--to 300: expected a multiple of the 256 tokens"),
        (("--longer", "--to", "128"), "--to 128: expected a multiple of the 256 tokens"),
        (("--longer", "--bases", "1e4"), "--bases: expected two or more"),
        (("--longer", "--to", "512", "--budgets", "1k"), "--budgets 1000: expected at least 4096"),
        (("--longer", "--arms", "shape"), "--arm, --arms and --share are of decays"),
        (("--to", "512"), "--to, --bases, --scalings and --budgets need --longer"),
        (("--longer", "--scalings", "lineal"), "--scalings lineal: expected one of none, abf"),
        (
            ("--longer", "--to", "64k", "--budgets", "1M"),
            "no held-out document has more than 65536 tokens",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    measured: Any, asked: tuple[str, ...], said: str
) -> None:
    there = measured.files()
    done = measured.run("ablate", *TINY, *asked)
    assert done.returncode == 2 and said in done.stderr
    assert measured.files() == there


def arms_of(bases: list[float]) -> list[Arm]:
    arms = []
    for base in bases:
        model = MODEL.model_copy(update={"rope_base": base})
        arms.append(Arm(name=f"{base:g}", model=model, changes={"rope_base": base}))
    return arms


def bowl(base: float, best: float) -> float:
    return 3.0 + 0.01 * math.log2(base / best) ** 2


def test_the_best_base_and_what_rules_cost_come_out_of_known_losses() -> None:
    arms = arms_of([1e4, 4e4, 1.6e5, 6.4e5])
    losses = {
        (seed, arm.name, tokens): {"near": 2.0, "far": bowl(arm.base or 0, 1.6e5) + 0.1 * seed}
        for seed in (0, 1)
        for arm in arms
        for tokens in (0, 1000)
    }
    found = length_found(MODEL, 256, 1024, 7, arms, losses)
    assert (found.best, found.power, found.alike) == (1.6e5, pytest.approx(2.0), (1.6e5,))
    price = {rule.name: rule.price for rule in found.rules}
    assert price["kept"] == pytest.approx(0.16) and price["abf"] == pytest.approx(0.0)
    # between 40,000, which costs 0.04, and 10,000
    assert 0.03 < (price["ntk"] or 0) < 0.04
    near = found.arms[0].after[-1].over
    assert near and near["near"].mean == 0 and near["far"].mean == pytest.approx(0.16)


def test_a_rule_beyond_what_was_measured_has_no_price() -> None:
    arms = arms_of([1e4, 2e4])
    losses = {(0, arm.name, 1000): {"far": bowl(arm.base or 0, 1e4)} for arm in arms}
    found = length_found(MODEL, 256, 1024, 7, arms, losses)
    assert {rule.name for rule in found.rules if rule.price is None} == {
        "ntk",
        "bound",
        "abf",
        "critical",
    }
    assert found.best == 1e4 and found.power == pytest.approx(0.0)
    assert found.alike == (1e4,), "with one seed nothing tells the others from it"


def test_without_a_whole_seed_nothing_is_said(measured: Any) -> None:
    arms = arms_of([1e4, 2e4])
    found = length_found(MODEL, 256, 1024, 7, arms, {})
    assert (found.best, found.alike, found.arms[0].after) == (None, (), ())
    numbers = read_study(measured.path, ABLATE_LONGER).numbers
    assert summary(numbers.model_copy(update={"lengths": (found,)})).startswith("no seed has all")


def test_a_corpus_with_short_documents_alone_is_refused(lab: Any, corpus: Corpus) -> None:
    design, further = Design(width=16, depth=1, batch=512), LongerDesign(to=(4096,))
    with pytest.raises(InputError, match="no held-out document has more than 4096 tokens"):
        ablate_longer(lab.path, corpus, design, further, Watch())


def test_a_part_has_the_mean_of_its_positions() -> None:
    decoder = Decoder(MODEL, 512, seed=0)
    texts = np.random.default_rng(0).integers(0, 320, (2, 513))
    engine = Engine(device="cpu", precision="fp32", compiled=False, micro_batch=256, threads=1)
    found = losses_at(decoder, texts, engine, 256)
    batch = torch.from_numpy(texts)
    with torch.no_grad():
        nats = decoder.losses(batch[:, :-1], batch[:, 1:]).view(2, -1)
    assert found["near"] == pytest.approx(float(nats[:, :256].mean()), rel=1e-5)
    assert found["far"] == pytest.approx(float(nats[:, 256:].mean()), rel=1e-5)
