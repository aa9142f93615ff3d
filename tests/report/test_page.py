"""The page of a lab with trained runs is one file that needs nothing else, and shows what the
runs recorded.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import Browsing, Page, barriers, draw_all, needs_browser, read_page

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.report.experiments import FIGURES
from windtunnel.report.figures import plain
from windtunnel.report.page import write_comparison, write_page
from windtunnel.results.experiments import EXPERIMENTS
from windtunnel.results.tour import TOUR
from windtunnel.train.branch import branch
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import Run, create
from windtunnel.train.schedule import rate_at
from windtunnel.tunnel.check.check import Design, check

NAME = "a <b>bold</b> & </script><script>console.error('from a name')</script> name"


Trained = tuple[Path, Run, Run, Run]


@pytest.fixture(scope="module")
def trained(make_lab: Callable[[], Any], stem: Callable[..., Recipe]) -> Trained:
    """A lab with a stem and its branch, trained by the loop, and a run that was only begun."""
    lab = make_lab().path
    corpus = Corpus.open(lab / "corpora" / "tiny")
    root = create(lab, stem(6400, branch_points=[3840]), corpus)
    assert train(root, corpus).status == "done"
    leaf = branch(root, corpus, 3840, 1280, name=NAME)
    assert train(leaf, corpus).status == "done"
    begun = create(lab, stem(6400).change(name="only begun", seed=7), corpus)
    return lab, root, leaf, begun


@pytest.fixture(scope="module")
def page(trained: Trained) -> Page:
    written = write_page(trained[0])
    assert written == trained[0] / "report.html"
    return read_page(written)


def test_it_loads_nothing(page: Page) -> None:
    assert page.loaded == []
    assert not re.search(r"url\(|@import", page.styles)
    assert not {"link", "iframe", "img", "object", "embed", "base"}.intersection(page.tags)


def test_it_is_one_file_and_writing_it_again_replaces_it(trained: Trained, page: Page) -> None:
    lab = trained[0]
    before = sorted(path.name for path in lab.iterdir())
    again = read_page(write_page(lab))
    assert (
        sorted(path.name for path in lab.iterdir()) == before == ["corpora", "report.html", "runs"]
    )
    assert again.shown == page.shown


def test_it_lists_every_run_with_its_losses(trained: Trained, page: Page) -> None:
    for run in trained[1:]:
        summary = run.summary()
        assert run.id in page.shown and summary.status in page.shown
        for score in (summary.loss, summary.bits_per_byte):
            if score is not None:
                assert f"{score:.4f}" in page.shown
    assert "3 runs, 2 of them finished; 7.68k tokens trained" in page.shown
    table = page.shown[page.shown.rindex("status") :]
    place = [table.index(run.id) for run in trained[1:]]
    assert place == sorted(place), "a branch stands below its stem"


def test_a_name_is_text_whatever_it_contains(page: Page) -> None:
    assert NAME in page.shown
    assert "b" not in page.tags
    assert not [script for script in page.scripts if script.startswith("console.error")]
    labels = {trace.get("name", "") for figure in page.figures() for trace in figure}
    assert any(label.startswith(plain(NAME)) for label in labels), "no tag of plotly either"
    assert not any(label.startswith(NAME) for label in labels)


def test_the_loss_figure_has_what_the_runs_recorded(trained: Trained, page: Page) -> None:
    losses, *_ = page.figures()
    for run in trained[1:3]:
        steps = run.steps()
        held = [(line.tokens, line.validation.loss) for line in run.validations()]
        assert len(steps) == (6400 if run is trained[1] else 1280) // 128 and held
        curve, points = (
            next(t for t in losses if t["legendgroup"] == run.id and t["mode"] == mode)
            for mode in ("lines", "markers")
        )
        tokens, losses_of = [step.tokens for step in steps], [step.loss for step in steps]
        left_out = tokens.index(curve["x"][0])  # the first few are no mean yet
        assert left_out < 10 and curve["x"] == tokens[left_out:]
        for place, smooth in enumerate(curve["y"], left_out):
            window = losses_of[max(0, place - 24) : place + 1]
            assert smooth == pytest.approx(sum(window) / len(window), abs=1e-4)
        assert points["x"] == [tokens for tokens, _ in held]
        assert points["y"] == pytest.approx([loss for _, loss in held], rel=1e-6)


def test_the_rate_figure_has_the_rates_of_the_recipes(trained: Trained, page: Page) -> None:
    rates = page.figures()[1]
    assert len(rates) == 3
    for run, trace in zip(trained[1:], rates, strict=True):
        assert (trace["x"][0], trace["x"][-1]) == (run.at_tokens or 0, run.recipe.total_tokens)
        rates_of = [rate_at(run.recipe, x) * run.recipe.optimizer.lr for x in trace["x"]]
        assert trace["y"] == pytest.approx(rates_of, rel=1e-5)


def test_a_branch_whose_stem_was_removed_is_still_shown(trained: Trained, tmp_path: Path) -> None:
    lab, root, leaf, _ = trained
    shutil.copytree(lab, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "runs" / root.id)
    shown = read_page(write_page(tmp_path / "copy")).shown
    assert leaf.id in shown and f"{leaf.summary().loss:.4f}" in shown


def test_a_study_has_a_section_of_its_own_with_its_verdict_and_figures(
    trained: Trained, tmp_path: Path
) -> None:
    lab, root, leaf, begun = trained
    shutil.copytree(lab, tmp_path / "copy")
    design = Design(widths=(16, 32), depths=(2, 4), width=16, seeds=3, steps=(0, 1))
    folder = check(tmp_path / "copy", None, design, Watch())
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"runs": [begun.id]}))
    page = read_page(write_page(tmp_path / "copy"))
    assert page.loaded == []
    assert f"Check {result['verdict']}" in page.shown and result["summary"] in page.shown
    assert "1 run behind this" in page.shown and f"#run-{begun.id}" in page.links
    curved = [{trace.get("legendgroup") for trace in figure} for figure in page.figures()]
    assert curved[-3] == {root.id, leaf.id}, (
        "what a study shows in its own figures is not shown twice"
    )


def test_every_experiment_but_the_tour_has_figures() -> None:
    """The tour has a section of its own, without a figure."""
    assert set(FIGURES) == set(EXPERIMENTS) - {TOUR.name}


def test_what_is_damaged_is_a_line_and_hides_nothing_else(trained: Trained, tmp_path: Path) -> None:
    lab = tmp_path / "copy"
    shutil.copytree(trained[0], lab)
    root, leaf, begun = (lab / "runs" / run.id for run in trained[1:])
    (leaf / "recipe.toml").write_bytes(b'name = "K\xe4se"')
    (begun / "metrics.jsonl").write_text("{}\n")
    damaged = [lab / "studies/check/result.json", lab / "plans/small/plan.json"]
    for file in damaged:
        file.parent.mkdir(parents=True)
        file.write_text("{")
    page = read_page(write_page(lab))
    _, said = page.shown.split("What cannot be read")
    for file in (leaf / "recipe.toml", begun / "metrics.jsonl", *damaged):
        assert said.count(str(file)) == 1
    assert {trace["legendgroup"] for trace in page.figures()[0]} == {root.name}
    assert root.name in page.shown and begun.name in page.shown, "in the table of runs"


@pytest.mark.parametrize("folders", ["", "lab", "lab/runs"])
def test_a_lab_without_runs_is_refused(tmp_path: Path, folders: str) -> None:
    (tmp_path / folders).mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match="no runs to report"):
        write_page(tmp_path / "lab")
    assert not list(tmp_path.rglob("report.html"))


def test_every_link_leads_to_something_on_the_page(page: Page) -> None:
    assert page.links and all(link.startswith("#") for link in page.links)
    missing = {link[1:] for link in page.links} - set(page.ids)
    assert not missing and len(page.ids) == len(set(page.ids))


def test_it_is_less_than_two_megabytes(trained: Trained, page: Page) -> None:
    assert (trained[0] / "report.html").stat().st_size < 2_000_000


def test_two_labs_stand_side_by_side(trained: Trained, tmp_path: Path) -> None:
    lab, root, leaf, _ = trained
    other = tmp_path / "other"
    shutil.copytree(lab, other)
    shutil.rmtree(other / "runs" / leaf.id)
    written = write_comparison(lab, other)
    assert written == lab / "report-against-other.html"
    page = read_page(written)
    written.unlink()
    assert f"a-run-{leaf.id}" in page.ids and f"b-run-{leaf.id}" not in page.ids
    assert f"a-run-{root.id}" in page.ids and f"b-run-{root.id}" in page.ids
    assert "3 runs, 2 of them finished" in page.shown and "2 runs, 1 of them" in page.shown
    assert len(page.figures()) == 5, "curves, rates and a tree; and curves and rates"


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_draws_every_figure_and_asks_for_nothing(
    trained: Trained, page: Page, browsing: Browsing, theme: str, tmp_path: Path
) -> None:
    address = (trained[0] / "report.html").as_uri()
    phone = {"width": 390, "height": 800}
    with browsing(color_scheme=theme, viewport=phone, offline=True) as (tab, said, asked):
        tab.goto(address)
        draw_all(tab)
        assert said == [] and asked == [address]
        assert tab.locator(".plot .main-svg").count() >= len(page.figures())
        inside = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.evaluate(inside), "a phone scrolls down only"
        ink = tab.locator(".xtick text").first.evaluate("(one) => getComputedStyle(one).fill")
        bright = sum(map(int, re.findall(r"\d+", ink)[:3])) / 3
        assert bright > 180 if theme == "dark" else bright < 70
        with tab.expect_download() as saved:
            tab.locator("button.csv").first.click()
        saved.value.save_as(tmp_path / "figure.csv")
        assert tab.pdf()[:5] == b"%PDF-" and said == []
    lines = (tmp_path / "figure.csv").read_text().splitlines()
    points = sum(len(trace["x"]) for trace in page.figures()[0])
    assert lines[0] == "panel,series,x,y,value,run" and len(lines) == points + 1


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nobody_is_shut_out(
    trained: Trained, page: Page, browsing: Browsing, theme: str, width: int
) -> None:
    """By colours without contrast, by what has no name, by what a keyboard does not reach."""
    size = {"width": width, "height": 800}
    with browsing(color_scheme=theme, viewport=size) as (tab, _, _):
        tab.goto((trained[0] / "report.html").as_uri())
        draw_all(tab)
        assert barriers(tab) == []
        tab.evaluate("document.querySelector('figcaption').style.color = 'rgb(128,128,128)'")
        tab.evaluate("document.querySelector('figcaption').style.background = '#777'")
        assert any("color-contrast" in one for one in barriers(tab)), "axe looks"
