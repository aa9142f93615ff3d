"""Plans: the closed form, real shapes, limits and prices; a study and a table as evidence; flags;
and a real plan that is trained and audited.
"""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import shared

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.choice import Predictor, choose
from windtunnel.laws.intervals import Profile
from windtunnel.laws.loss import LossLaw
from windtunnel.laws.optimum import closed_form
from windtunnel.laws.repetition import PUBLISHED
from windtunnel.model.shape import count, flops_per_token
from windtunnel.plan import flags
from windtunnel.plan.audit import audit
from windtunnel.plan.devices import QUANTISATIONS, bytes_of, serving
from windtunnel.plan.evidence import Evidence, batch_at, from_lab, from_table, rate
from windtunnel.plan.plan import compare, plan, read_plan, work_out
from windtunnel.plan.request import Request
from windtunnel.plan.shapes import PAPER_BAND, Band, Family, head_size, widths
from windtunnel.plan.sizes import (
    Limits,
    Outlook,
    at_shape,
    best_for_flops,
    best_for_tokens,
    by_6nd,
    nearest_shape,
    over_trained,
    tokens_for_size,
)
from windtunnel.recipe import dump, load
from windtunnel.report.page import write_page
from windtunnel.report.plans import sizes_figure
from windtunnel.train.run import Run, create, find_run

EAGER = {"TORCHDYNAMO_DISABLE": "1"}
# Besiroglu et al. 2024 (arXiv 2404.10102)
CHINCHILLA = LossLaw(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
# MiniCPM's average over corpora (arXiv 2404.06395, figure 10), from units of 1e9 to parameters
# and tokens
PAPER = LossLaw(E=0.31, A=7.15e-2 * 1e9**0.29, alpha=0.29, B=3.00e-1 * 1e9**0.23, beta=0.23)
TRUTH = LossLaw(
    E=0, A=1000, alpha=0.3, B=5000, beta=0.4, c=0.35
)  # of the tiny table: losses from 5.9 to 4.0
LENGTHS = (50_000, 126_000, 317_000, 800_000)
SIZES = ((16, 1), (32, 2), (48, 2), (64, 3))
VOCAB = 320
FIRST = Request(shape=(32, 2), tokens=12_000, name="first")


def outlook_of(law: LossLaw, vocab: int = 32_768, context: int = 4096, **more: Any) -> Outlook:
    return Outlook(
        lambda params, tokens: law.at(params["params"], tokens),
        Family(vocab, context, Band(), {}),
        **more,
    )


class TestTheBestSize:
    @pytest.mark.parametrize(
        ("flops", "params", "tokens", "loss"),
        [(5.76e23, 7.225e10, 1.329e12, 1.9744), (1e21, 2.778e9, 5.999e10, 2.3055)],
    )
    def test_by_6nd_equals_the_closed_form_at_the_published_values(
        self, flops: float, params: float, tokens: float, loss: float
    ) -> None:
        exact, found = closed_form(CHINCHILLA, flops), by_6nd(outlook_of(CHINCHILLA), flops)
        assert found.params == pytest.approx(exact.params, rel=1e-6)
        assert found.tokens == pytest.approx(exact.tokens, rel=1e-6)
        assert found.params == pytest.approx(params, rel=1e-3) and found.tokens == pytest.approx(
            tokens, rel=1e-3
        )
        assert found.loss == pytest.approx(loss, abs=1e-4)

    def test_the_papers_ratio_is_flagged_as_never_measured(self) -> None:
        found = by_6nd(outlook_of(PAPER), 1e21)
        assert found.ratio == pytest.approx(184, rel=0.01)
        (flag,) = flags.of_extrapolation({"params": 1, "tokens": 1}, found.ratio, (10, 66))
        assert (
            flag.level == "caution"
            and "184 tokens a parameter" in flag.text
            and "never measured" in flag.text
        )

    @settings(max_examples=15, deadline=None)
    @given(log_flops=st.floats(15, 24))
    def test_no_real_shape_is_better_and_the_budget_is_kept(self, log_flops: float) -> None:
        outlook, flops = outlook_of(CHINCHILLA), 10**log_flops
        best = best_for_flops(outlook, flops, Limits())
        shapes = outlook.family.shapes()
        assert best.loss <= outlook.loss(shapes, flops / shapes.flops).min() * (1 + 2e-4)
        model = outlook.family.model(best.width, best.depth)
        assert flops_per_token(model, 4096) * best.tokens == pytest.approx(flops)
        assert best.range_params[0] <= count(model).params <= best.range_params[1]

    def test_the_range_holds_the_sizes_within_half_a_percent(self) -> None:
        outlook = outlook_of(CHINCHILLA)
        low, high = best_for_flops(outlook, 1e21, Limits()).range_params
        assert 2 < high / low < 6
        shapes = outlook.family.shapes()
        losses = outlook.loss(shapes, 1e21 / shapes.flops)
        outside = (shapes.params["params"] < low) | (shapes.params["params"] > high)
        assert (losses[outside] > losses.min() * 1.005).all()

    def test_tokens_and_size_are_found_back(self) -> None:
        """The size for which D tokens are best, and the tokens for which that size is, to the
        grain of real shapes.
        """
        outlook = outlook_of(CHINCHILLA)
        best = best_for_tokens(outlook, 1e11, Limits())
        params = count(outlook.family.model(best.width, best.depth)).params
        assert tokens_for_size(outlook, params) == pytest.approx(1e11, rel=0.15)
        assert best.tokens == 1e11

    def test_a_law_without_a_best_size_is_said_to_have_none(self) -> None:
        flat = LossLaw(E=1, A=1e-9, alpha=0.3, B=1000, beta=0.3)
        with pytest.raises(ValueError, match="no budget"):
            tokens_for_size(outlook_of(flat), 1e9)
        assert best_for_flops(outlook_of(flat), 1e20, Limits()).at_edge

    @pytest.mark.parametrize("quantisation", QUANTISATIONS)
    def test_what_must_fit_a_device_fits_it_with_its_cache(self, quantisation: str) -> None:
        outlook, room = outlook_of(CHINCHILLA), 500_000_000
        best = best_for_flops(outlook, 1e22, Limits(room, QUANTISATIONS[quantisation]))
        served = serving(outlook.family.model(best.width, best.depth), 4096)
        assert 0.85 * room < served["bytes"][quantisation] + served["cache_bytes"] <= room

    def test_fewer_tokens_than_the_budget_buys_leave_the_budget_unspent(self) -> None:
        free, short = (
            best_for_flops(outlook_of(CHINCHILLA), 1e21, Limits(tokens=d)) for d in (math.inf, 1e10)
        )
        assert (
            short.tokens == pytest.approx(1e10)
            and short.loss > free.loss
            and short.width > free.width
        )

    def test_repeated_tokens_cost_what_the_published_law_says(self) -> None:
        once, often = outlook_of(CHINCHILLA), outlook_of(CHINCHILLA, unique=1e9)
        fresh, repeated = (at_shape(o, 1024, 20, 1e10).loss for o in (once, often))
        own = once.family.costs([1024], [20])
        worth = float(PUBLISHED.effective(1e10, 1e9))
        assert 1e9 < worth < 1e10 and repeated > fresh
        assert repeated == pytest.approx(float(CHINCHILLA.at(own.params["params"][0], worth)))

    def test_a_smaller_model_trained_longer_reaches_the_loss(self) -> None:
        outlook = outlook_of(CHINCHILLA)
        chosen = best_for_flops(outlook, 1e21, Limits())
        found = over_trained(outlook, chosen)
        assert [round(one.serving, 1) for one in found] == [0.7, 0.5, 0.3]
        for one in found:
            assert (
                one.loss == pytest.approx(chosen.loss * 1.005, rel=1e-6)
                and one.tokens > chosen.tokens
            )
            cost = flops_per_token(outlook.family.model(one.width, one.depth), 4096) * one.tokens
            assert one.training == pytest.approx(cost / 1e21, rel=1e-6)
        assert found[-1].training > 1.5, "the smallest must pay for it"


class TestShapes:
    family = Family(2048, 256, Band.of([(16, 2), (32, 2), (48, 3), (64, 4), (96, 4)]), {})

    def test_costs_are_those_of_the_model(self) -> None:
        for fixed in ({}, {"tied": False}):
            family = Family(2048, 256, self.family.band, fixed)
            shapes = family.shapes()
            for i in range(0, len(shapes), 97):
                model = family.model(int(shapes.width[i]), int(shapes.depth[i]))
                counts = count(model)
                assert {key: value[i] for key, value in shapes.params.items()} == vars(counts)
                assert shapes.flops[i] == flops_per_token(model, 256)

    @pytest.mark.parametrize("width", widths())
    def test_heads_fill_the_width(self, width: int) -> None:
        model = self.family.model(width, 2)
        assert model.heads * model.head_size == width and model.head_size == head_size(width)
        assert model.ffn == 2.5 * width

    def test_small_models_keep_the_labs_proportions_and_large_ones_the_papers(self) -> None:
        band = self.family.band
        assert [float(end) for end in band.at(64)] == [8, 24]
        assert [float(end) for end in band.at(1024)] == list(PAPER_BAND)
        low, high = (float(end) for end in band.at(192))
        assert 8 < low < 40 and 24 < high < 58

    @pytest.mark.parametrize("width", [320, 512, 768, 1024, 2304])
    def test_the_papers_shapes_lie_within(self, width: int) -> None:
        depth = {320: 8, 512: 12, 768: 16, 1024: 20, 2304: 40}[width]
        shapes = Family(122_753, 4096, Band(), {}).shapes()
        assert (width, depth) in set(zip(shapes.width.tolist(), shapes.depth.tolist(), strict=True))

    def test_a_number_of_parameters_becomes_a_shape_of_about_that_size(self) -> None:
        outlook = outlook_of(CHINCHILLA)
        for params in (1e6, 3e7, 1e9, 7e9):
            found = count(outlook.family.model(*nearest_shape(outlook, params))).params
            assert found == pytest.approx(params, rel=0.12)


class TestDevices:
    @pytest.mark.parametrize(
        ("text", "size"),
        [("500MB", 5e8), ("2gb", 2e9), ("1.5 GB", 1.5e9), ("800000", 8e5), ("phone-6gb", 3e9)],
    )
    def test_bytes(self, text: str, size: float) -> None:
        assert bytes_of(text) == size

    @pytest.mark.parametrize("text", ["", "-1GB", "many", "nan", "1e400", "0"])
    def test_bytes_that_are_none(self, text: str) -> None:
        with pytest.raises(InputError, match="--fit-device"):
            bytes_of(text)


def table_of(path: Path, law: LossLaw = TRUTH, noise: float = 0.003, **columns: Any) -> Path:
    """A scaling study's table: losses of a known law with noise."""
    rng, family = np.random.default_rng(0), Family(VOCAB, 256, Band(), {})
    rows = []
    for width, depth in SIZES:
        counts = count(family.model(width, depth))
        for tokens in LENGTHS:
            loss = float(law.at(counts.params, tokens)) * math.exp(noise * rng.standard_normal())
            rows.append(
                {
                    "run": f"{width}x{depth}-{tokens}",
                    **vars(counts),
                    "tokens": tokens,
                    "loss": loss,
                    "source": "all",
                    "kind": "branch",
                    "seed": 0,
                    "stem": f"{width}x{depth}",
                    "width": width,
                    "depth": depth,
                    "lr": 0.01,
                    **columns,
                }
            )
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def with_study(lab: Path, study: str = "scaling") -> Path:
    folder = lab / "studies" / study
    folder.mkdir(parents=True)
    table_of(folder / "table.csv")
    known = {
        "corpus": "tiny",
        "decay": 0.1,
        "shape": "exponential",
        "floor": 0.1,
        "lengths": list(LENGTHS),
        "seed_sd": 0.01,
        "batch": {"c": 2.0, "p": 0.5, "origin": "measured at laptop scale"},
        "cost": {"flops": 6e12, "core_minutes": 1.0},
        "audit": None,
    }
    write(lab, study, known)
    return lab


def write(
    lab: Path,
    study: str,
    numbers: dict[str, Any],
    verdict: str | None = "pass",
    runs: tuple[str, ...] = (),
) -> None:
    folder = lab / "studies" / study
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "study": study,
        "verdict": verdict,
        "summary": f"{study} said so",
        "numbers": numbers,
        "runs": list(runs),
    }
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab with a scaling study and nothing else. Only to be looked at."""
    return with_study(tmp_path_factory.mktemp("studied"))


@pytest.fixture(scope="module")
def evidence(studied: Path) -> Evidence:
    return from_lab(studied, "scaling")


@pytest.fixture(scope="module")
def predictor(evidence: Evidence) -> Predictor:
    return choose(evidence.points, evidence.seed_sd)


def planned(
    evidence: Evidence, predictor: Predictor, corpus: Corpus | None = None, **request: Any
) -> dict[str, Any]:
    return work_out(evidence, predictor, Request(**request), corpus)[1]


def said(content: dict[str, Any]) -> dict[str, str]:
    return {flag["about"]: flag["level"] for flag in content["flags"]}


class TestWhatIsAsked:
    @pytest.mark.parametrize(
        "request_of",
        [
            {"flops": 1e11},
            {"hours": 0.002, "device": "cpu"},
            {"tokens": 1_000_000},
            {"params": 30_000.0},
            {"shape": (48, 3)},
            {"bytes_served": 60_000},
            {"bytes_served": 60_000, "flops": 1e11},
            {"params": 30_000.0, "flops": 1e11},
            {"params": 30_000.0, "tokens": 500_000},
        ],
    )
    def test_each_kind_of_budget_is_kept(
        self, request_of: dict[str, Any], evidence: Evidence, predictor: Predictor, corpus: Corpus
    ) -> None:
        recipe, content = work_out(evidence, predictor, Request(**request_of), corpus)
        asked = Request(**request_of)
        if asked.flops:
            assert 0.95 * asked.flops < content["flops"] <= asked.flops
        if asked.hours:
            assert content["training"]["hours"] == pytest.approx(0.002, rel=0.05)
        if asked.tokens:
            assert asked.tokens * 0.99 < content["tokens"] <= asked.tokens
        if asked.params:
            assert content["params"] == pytest.approx(asked.params, rel=0.25)
        if asked.bytes_served:
            assert (
                content["serving"]["bytes"]["q4"] + content["serving"]["cache_bytes"]
                <= asked.bytes_served
            )
        counts = count(recipe.model)
        assert (content["params"], content["params_total"]) == (counts.params, counts.params_total)
        assert content["tokens"] == recipe.total_tokens
        assert (
            content["flops"]
            == flops_per_token(recipe.model, recipe.data.context) * recipe.total_tokens
        )
        assert (
            content["interval90"][0]
            < content["interval50"][0]
            < content["loss"]
            < content["interval50"][1]
        )

    def test_the_loss_of_the_truth_is_within_the_interval(
        self, evidence: Evidence, predictor: Predictor, corpus: Corpus
    ) -> None:
        content = planned(evidence, predictor, shape=(64, 6), tokens=1_500_000)
        truth = float(TRUTH.at(content["params"], content["tokens"]))
        assert content["interval90"][0] < truth < content["interval90"][1]
        assert content["loss"] == pytest.approx(truth, rel=0.02)
        assert content["extrapolation"]["tokens"] == pytest.approx(1.5 / 0.8, rel=1e-2)

    def test_a_plan_decays_and_batches_as_the_runs_of_the_fit_did(
        self, evidence: Evidence, predictor: Predictor, corpus: Corpus
    ) -> None:
        recipe, content = work_out(evidence, predictor, Request(flops=1e12), corpus)
        schedule = recipe.schedule
        assert (schedule.decay_shape, schedule.floor) == ("exponential", 0.1)
        assert recipe.decay_tokens == pytest.approx(
            0.1 * recipe.total_tokens, abs=recipe.train.batch
        )
        assert recipe.train.batch == pytest.approx(2 * recipe.total_tokens**0.5, rel=0.5)
        assert recipe.optimizer.lr == 0.01 and content["provenance"]["lr"]["study"] == "scaling"
        assert recipe.train.branch_points[-1] == recipe.total_tokens - recipe.decay_tokens
        assert all(at % recipe.train.batch == 0 for at in recipe.train.branch_points)

    def test_every_number_names_its_study_and_runs(
        self, evidence: Evidence, predictor: Predictor
    ) -> None:
        content = planned(evidence, predictor, flops=1e11)
        for key in ("loss", "range_params", "batch_tokens", "lr", "params"):
            source = content["provenance"][key]
            assert source["study"] == "scaling" and len(source["runs"]) == len(SIZES) * len(LENGTHS)
        assert "arXiv" in content["provenance"]["effective_tokens"]["how"]

    def test_more_epochs_of_few_tokens_are_priced_and_flagged(
        self, evidence: Evidence, predictor: Predictor, corpus: Corpus
    ) -> None:
        held = sum(source.train.tokens for source in corpus.sources.values())
        content = planned(evidence, predictor, corpus, shape=(48, 2), tokens=6 * held)
        assert (
            content["epochs"] == pytest.approx(6, rel=0.01) and said(content)["epochs"] == "caution"
        )
        fresh = planned(evidence, predictor, shape=(48, 2), tokens=6 * held)
        assert (
            content["effective_tokens"] < fresh["effective_tokens"]
            and content["loss"] > fresh["loss"]
        )

    def test_settings_of_a_measured_run_are_kept(
        self, evidence: Evidence, predictor: Predictor, tmp_path: Path, recipe: Any
    ) -> None:
        lab = with_study(tmp_path)
        run = lab / "runs" / "abc"
        run.mkdir(parents=True)
        (run / "recipe.toml").write_text(
            dump(recipe(optimizer={"beta2": 0.9, "weight_decay": 2e-3}))
        )
        write(
            lab,
            "scaling",
            json.loads((lab / "studies/scaling/result.json").read_text())["numbers"],
            runs=("abc",),
        )
        made, _ = work_out(from_lab(lab, "scaling"), predictor, Request(flops=1e11), None)
        assert (made.data.context, made.model.base_width, made.model.vocab) == (32, 16, VOCAB)
        assert (made.optimizer.beta2, made.optimizer.weight_decay) == (0.9, 2e-3)
        assert made.train.evaluate_tokens == 1024

    def test_a_table_alone_is_enough(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        sizes, lengths = (
            np.repeat(np.geomspace(1e7, 1e9, 4), 5),
            np.tile(np.geomspace(1e9, 3e10, 5), 4),
        )
        losses = CHINCHILLA.at(sizes, lengths) * np.exp(0.002 * rng.standard_normal(20))
        rows = "\n".join(
            f"{n},{d},{loss}" for n, d, loss in zip(sizes, lengths, losses, strict=True)
        )
        (tmp_path / "runs.csv").write_text(f"params,tokens,loss\n{rows}\n")
        folder = plan(
            tmp_path,
            from_table(tmp_path / "runs.csv"),
            Request(flops=1e20, device="h100", price=2.0),
            None,
        )
        content, recipe = read_plan(folder), load(folder / "plan.toml")
        assert content["loss"] == pytest.approx(closed_form(CHINCHILLA, 1e20).loss, rel=0.02)
        assert recipe.data.corpus == "mine" and recipe.model.base_width == 256
        assert said(content)["vocab"] == "note"
        training = content["training"]
        assert training["hours"] == pytest.approx(content["flops"] / (0.25 * 989e12) / 3600)
        assert training["cost"] == pytest.approx(2 * training["hours"])

    def test_too_small_a_budget_is_refused(self, evidence: Evidence, predictor: Predictor) -> None:
        with pytest.raises(InputError, match="too small a budget"):
            planned(evidence, predictor, params=50_000.0, flops=1e8)

    def test_what_does_not_fit_the_device_is_a_stop(
        self, evidence: Evidence, predictor: Predictor
    ) -> None:
        content = planned(evidence, predictor, params=20e9, tokens=10**9, device="rtx4090")
        assert said(content)["memory"] == "stop" and content["go"] == "no-go"


class TestEvidence:
    def test_of_many_runs_of_a_cell_the_best_counts(self, tmp_path: Path) -> None:
        rows = ["params,tokens,loss,lr,batch"]
        for n in (1e6, 4e6, 16e6):
            for d in (1e8, 4e8, 16e8):
                for off in (0, 1, 2):
                    loss = CHINCHILLA.at(n, d) + 0.01 * off
                    rows.append(f"{n},{d},{loss},{1.0 / n**0.3 * 2**off},{int(d**0.6) * 2**off}")
        (tmp_path / "grid.csv").write_text("\n".join(rows))
        found = from_table(tmp_path / "grid.csv")
        assert len(found.points) == 9
        assert rate(found, 64e6).lr == pytest.approx(64e6**-0.3, rel=0.01)
        batch = batch_at(found, 3.0, 64e8, 64e6)
        assert batch.batch == pytest.approx(64e8**0.6, rel=0.02) and batch.inside
        assert batch.interval and batch.interval[0] < batch.batch < batch.interval[1]

    def test_rates_and_batches_stay_with_their_points(self, tmp_path: Path) -> None:
        """Of rows some are another source's, some another kind's, and some end early."""
        rows = ["params,tokens,loss,lr,batch,source,kind"]
        for i, n in enumerate((1e6, 4e6, 16e6)):
            for k, d in enumerate((1e8, 4e8, 16e8)):
                end = ("", ",all", ",all,branch")[(i + k) % 3]
                rows += [
                    f"{n},{d},9,9,9,wiki,branch",
                    f"{n},{d},9,9,9,all,audit",
                    f"{n},{d},{CHINCHILLA.at(n, d)},{n**-0.3},{int(d**0.6)}{end}",
                ]
        (tmp_path / "rows.csv").write_text("\n".join(rows))
        found = from_table(tmp_path / "rows.csv")
        assert len(found.points) == len(found.rates) == 9
        assert [rate for _, rate in found.rates] == pytest.approx(found.points.size**-0.3)
        assert found.batches is not None and found.batches.batch == pytest.approx(
            found.points.tokens**0.6, rel=1e-3
        )

    @pytest.mark.parametrize("value", ["0", "-1", "fast", "nan"])
    def test_a_rate_that_is_none_is_refused(self, value: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="lr is"):
            from_table(table_of(tmp_path / "t.csv", lr=value))

    def test_the_batch_study_of_the_lab_says_the_batch(self, tmp_path: Path) -> None:
        lab = with_study(tmp_path)
        levels = [
            {
                "batch": 3 * d**0.4,
                "loss": 5 - i / 10,
                "tokens": d,
                "where": "inside",
                "interval": [2.4 * d**0.4, 3.75 * d**0.4],
            }
            for i, d in enumerate((1e5, 2e5, 4e5, 8e5))
        ]
        write(
            lab,
            "batch",
            {
                "corpus": "tiny",
                "chosen": "tokens",
                "arms": {"fixed": {"sizes": [{"params": 5e4, "levels": levels}]}},
            },
            runs=("r1",),
        )
        found = batch_at(from_lab(lab, "scaling"), 4.5, 1.6e6, 5e4)
        assert found.batch == pytest.approx(3 * 1.6e6**0.4, rel=0.01) and found.source.runs == (
            "r1",
        )
        assert found.interval and 1.1 < found.interval[1] / found.interval[0] < 2

    def test_a_study_without_its_runs_keeps_the_tunnels_parametrization_and_says_so(
        self, tmp_path: Path
    ) -> None:
        lab = with_study(tmp_path)
        table_of(lab / "studies" / "scaling" / "table.csv", lr="0.01")
        folder = plan(lab, from_lab(lab, "scaling"), Request(flops=1e13), None)
        assert load(folder / "plan.toml").model.parametrization == "minicpm"
        assert any(
            "runs of the study are not in this lab" in flag["text"]
            for flag in read_plan(folder)["flags"]
        )

    def test_a_better_rate_elsewhere_is_said_and_not_taken(self, tmp_path: Path) -> None:
        lab = with_study(tmp_path)
        sizes = [{"width": 64, "depth": 2, "lr": 0.03, "interval": [0.025, 0.04]}]
        write(
            lab,
            "transfer",
            {
                "corpus": "tiny",
                "tokens": 800_000,
                "parametrizations": {"minicpm": {"sizes": sizes}},
            },
            verdict="fail",
            runs=("t1", "t2"),
        )
        found = from_lab(lab, "scaling")
        rated = rate(found, 1e5)
        assert (
            rated.lr == 0.01
            and rated.beside[0]["lr"] == 0.03
            and rated.beside[0]["runs"] == ["t1", "t2"]
        )
        batch = batch_at(found, 4.5, 5e5, 1e5)
        (flag,) = flags.of_settings(batch, 512, rated, 0.01, 1000, 256)
        assert flag.about == "lr" and "0.03" in flag.text
        assert {f.about: f.level for f in flags.of_studies(found)} == {
            "transfer": "caution",
            "check": "note",
        }

    def test_without_rates_the_transfer_study_says_it(self, tmp_path: Path) -> None:
        lab = with_study(tmp_path)
        file = lab / "studies/scaling/table.csv"
        file.write_text(file.read_text().replace(",lr", ",rate"))
        assert rate(from_lab(lab, "scaling"), 1e5).lr == 0.01  # the paper's
        sizes = [{"width": 64, "depth": 2, "lr": 0.03, "interval": [0.025, 0.04]}]
        write(
            lab,
            "transfer",
            {"corpus": "tiny", "tokens": 1, "parametrizations": {"minicpm": {"sizes": sizes}}},
        )
        assert rate(from_lab(lab, "scaling"), 1e5).lr == 0.03

    def test_a_damaged_study_is_named(self, tmp_path: Path) -> None:
        lab = with_study(tmp_path)
        (lab / "studies/scaling/result.json").write_text("{")
        with pytest.raises(InputError, match=r"scaling/result\.json"):
            from_lab(lab, "scaling")

    def test_an_absent_study_says_what_to_run(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="windtunnel scaling"):
            from_lab(tmp_path, "scaling")


class TestFlags:
    @pytest.mark.parametrize(("times", "level"), [(3, None), (30, "caution"), (300, "stop")])
    def test_distance(self, times: float, level: str | None) -> None:
        found = [
            f.level for f in flags.of_extrapolation({"params": times, "tokens": 1}, 20, (1, 100))
        ]
        (far,) = flags.of_extrapolation(
            {"params": 1, "tokens": 1.1 * flags.FAR_IN_TOKENS}, 20, (1, 100)
        )
        assert far.level == "caution" and "too narrow" in far.text
        assert found == ([level] if level else [])

    @pytest.mark.parametrize(
        ("epochs", "level"), [(0.5, None), (2, "note"), (8, "caution"), (40, "stop")]
    )
    def test_epochs(self, epochs: float, level: str | None) -> None:
        assert [f.level for f in flags.of_data(epochs * 1e6, 1e6, 1.0)] == (
            [level] if level else []
        )

    def test_a_budget_that_is_not_spent(self) -> None:
        assert [f.about for f in flags.of_data(1e6, None, 0.4)] == ["budget"]

    def test_a_floor_that_is_not_pinned_down(self) -> None:
        loose = Profile(name="E", value=1.5, low=None, high=1.8)
        firm = Profile(name="c alpha", value=0.3, low=0.28, high=0.32)
        found = list(flags.of_law([loose, firm], True, {"interval90": None}))
        assert [f.about for f in found] == ["optimum", "law", "ratio"]
        assert found[1].text.startswith("E not pinned down")
        assert not list(flags.of_law([firm], False, {"interval90": [1, 2]}))

    def test_the_gravest_comes_first_and_decides(self) -> None:
        note, stop = flags.Flag("note", "a", "b"), flags.Flag("stop", "c", "d")
        assert flags.by_weight([note, stop]) == [stop, note]
        assert (
            flags.outcome([note, stop]) == "no-go"
            and flags.outcome([note]) == flags.outcome([]) == "go"
        )


Trained = tuple[Path, Run, Corpus]


@pytest.fixture(scope="module")
def trained(make_lab: Any) -> Trained:
    """A lab with a plan, and the run that the command `train` made of its recipe as it stands."""
    lab = make_lab()
    # a study that the page does not know by name: it would look for what these numbers do not have
    found = from_lab(with_study(lab.path, "sizes"), "sizes")
    corpus = Corpus.open(lab.path / "corpora" / "tiny")
    folder = plan(lab.path, found, FIRST, corpus)
    done = lab.run("train", folder / "plan.toml", "--json", **EAGER)
    assert done.returncode == 0, done.stderr
    return lab.path, find_run(lab.path, json.loads(done.stdout)["id"]), corpus


class TestAPlanThatIsTrained:
    def test_the_recipe_runs_as_it_is(self, trained: Trained) -> None:
        lab, run, _ = trained
        content, summary = read_plan(lab / "plans" / "first"), run.summary()
        assert (summary.status, summary.tokens, summary.name) == (
            "done",
            content["tokens"],
            "first",
        )

    def test_the_audit_stands_in_the_plan_and_on_the_page(self, trained: Trained) -> None:
        lab, run, _ = trained
        before = read_plan(lab / "plans" / "first")
        content = read_plan(audit(lab, run))
        got, loss = content["audit"], run.summary().loss
        assert got["run"] == run.id and got["loss"] == pytest.approx(loss)
        assert got["error"] == pytest.approx(before["loss"] / loss - 1, rel=1e-6)
        page = write_page(lab).read_text()
        assert "Plan first" in page and f"{loss:.4f}" in page and "arXiv 2305.16264" in page
        names = [trace["name"] for trace in sizes_figure(content).to_dict()["data"]]
        assert names == ["sizes at this cost", "plan, 90%", "got"]

    def test_the_same_plan_again_has_the_same_bytes_and_keeps_its_audit(
        self, trained: Trained
    ) -> None:
        lab, run, corpus = trained
        folder = audit(lab, run, "first")
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        plan(lab, from_lab(lab, "sizes"), FIRST, corpus)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
        assert read_plan(folder)["audit"]["run"] == run.id

    def test_what_can_not_be_audited(self, trained: Trained, recipe: Any) -> None:
        lab, run, corpus = trained
        with pytest.raises(InputError, match="not a run of any of its plans"):
            audit(lab, create(lab, recipe(), corpus))
        with pytest.raises(InputError, match="did you mean 'first'"):
            audit(lab, run, "frist")
        begun = create(lab, load(lab / "plans/first/plan.toml").change(seed=1), corpus)
        with pytest.raises(InputError, match="not a run of plan 'first'"):
            audit(lab, begun, "first")


def test_predicted_against_got() -> None:
    made: Mapping[str, Any] = {"loss": 4.0, "interval50": [3.9, 4.1], "interval90": [3.8, 4.2]}
    assert compare(dict(made), "r", 4.15) == {
        "run": "r",
        "loss": 4.15,
        "predicted": 4.0,
        "error": pytest.approx(4.0 / 4.15 - 1),
        "inside50": False,
        "inside90": True,
    }


def test_chinchillas_table_gives_chinchillas_optimum(tmp_path: Path) -> None:
    rows = list(csv.DictReader(shared("epoch_chinchilla/svg_extracted_data.csv").open()))
    kept = sorted(rows, key=lambda row: -float(row["loss"]))[5::3]
    text = ["params,tokens,loss"]
    for row in kept:
        size, flops = float(row["Model Size"]), float(row["Training FLOP"])
        text.append(f"{size},{flops / (6 * size)},{row['loss']}")
    (tmp_path / "chinchilla.csv").write_text("\n".join(text))
    found = from_table(tmp_path / "chinchilla.csv")
    content = planned(found, choose(found.points), flops=1e21)
    reference = closed_form(CHINCHILLA, 1e21)
    assert content["best_by_6nd"]["params"] == pytest.approx(reference.params, rel=0.15)
    assert content["loss"] == pytest.approx(reference.loss, rel=0.01)
    assert content["range_params"][0] < reference.params < content["range_params"][1]
