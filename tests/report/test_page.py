"""The page of a lab with trained runs is one file that needs nothing else, and shows what the
runs recorded.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.recipe import Recipe
from windtunnel.report.experiments import FIGURES
from windtunnel.report.page import write_page
from windtunnel.results.experiments import EXPERIMENTS
from windtunnel.results.tour import TOUR
from windtunnel.train.branch import branch
from windtunnel.train.loop import Watch, train
from windtunnel.train.run import Run, create
from windtunnel.train.schedule import rate_at
from windtunnel.tunnel.check.check import Design, check

BROWSER = "/usr/bin/chromium"
NAME = "a <b>bold</b> & </script><script>console.error('from a name')</script> name"
LOADING = {"src", "href", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """What a page would load, what it shows as text, its scripts and its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.shown, self.styles = "", ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        self.loaded += [f"{tag} {key}={value}" for key, value in attrs if key in LOADING]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles += data
        else:
            self.shown += data

    def figures(self) -> list[list[dict[str, Any]]]:
        """The traces of each figure."""
        drawn = [
            (script, re.search(r'Plotly\.newPlot\(\s*"[0-9a-f-]{36}",\s*', script))
            for script in self.scripts
        ]
        return [
            json.JSONDecoder().raw_decode(script[place.end() :])[0]
            for script, place in drawn
            if place
        ]


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
    return Page(written.read_text(encoding="utf-8"))


def test_it_loads_nothing(page: Page) -> None:
    assert page.loaded == []
    assert not re.search(r"url\(|@import", page.styles)
    assert not {"link", "iframe", "img", "object", "embed", "base"}.intersection(page.tags)


def test_it_is_one_file_and_writing_it_again_replaces_it(trained: Trained, page: Page) -> None:
    lab = trained[0]
    before = sorted(path.name for path in lab.iterdir())
    again = Page(write_page(lab).read_text(encoding="utf-8"))
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
    assert "3 runs, 7.68k tokens trained" in page.shown
    place = [page.shown.index(run.id) for run in trained[1:]]
    assert place == sorted(place), "a branch stands below its stem"


def test_a_name_is_text_whatever_it_contains(page: Page) -> None:
    assert NAME in page.shown
    assert "b" not in page.tags
    assert not [script for script in page.scripts if script.startswith("console.error")]
    labels = {trace["name"] for figure in page.figures() for trace in figure}
    assert len(page.figures()) == 2 and any(label.startswith(NAME) for label in labels)


def test_the_loss_figure_has_what_the_runs_recorded(trained: Trained, page: Page) -> None:
    losses, _ = page.figures()
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
        assert list(zip(points["x"], points["y"], strict=True)) == held


def test_the_rate_figure_has_the_rates_of_the_recipes(trained: Trained, page: Page) -> None:
    _, rates = page.figures()
    assert len(rates) == 3
    for run, trace in zip(trained[1:], rates, strict=True):
        assert (trace["x"][0], trace["x"][-1]) == (run.at_tokens or 0, run.recipe.total_tokens)
        assert trace["y"] == [rate_at(run.recipe, x) * run.recipe.optimizer.lr for x in trace["x"]]


def test_a_branch_whose_stem_was_removed_is_still_shown(trained: Trained, tmp_path: Path) -> None:
    lab, root, leaf, _ = trained
    shutil.copytree(lab, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "runs" / root.id)
    shown = Page(write_page(tmp_path / "copy").read_text(encoding="utf-8")).shown
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
    page = Page(write_page(tmp_path / "copy").read_text(encoding="utf-8"))
    assert page.loaded == [] and len(page.figures()) == 4
    assert f"Check {result['verdict']}" in page.shown and result["summary"] in page.shown
    assert "1 runs of studies" in page.shown
    curves = {trace["legendgroup"] for trace in page.figures()[2]}
    assert curves == {root.id, leaf.id}, "what a study shows in its own figures is not shown twice"


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
    page = Page(write_page(lab).read_text(encoding="utf-8"))
    _, said = page.shown.split("What cannot be read")
    for file in (leaf / "recipe.toml", begun / "metrics.jsonl", *damaged):
        assert said.count(str(file)) == 1
    assert [{trace["legendgroup"] for trace in page.figures()[0]}] == [{root.name}]
    assert root.name in page.shown and begun.name in page.shown, "in the table of runs"


@pytest.mark.parametrize("folders", ["", "lab", "lab/runs"])
def test_a_lab_without_runs_is_refused(tmp_path: Path, folders: str) -> None:
    (tmp_path / folders).mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match="no runs to report"):
        write_page(tmp_path / "lab")
    assert not list(tmp_path.rglob("report.html"))


@pytest.mark.skipif(
    not os.path.exists(BROWSER), reason=f"no browser: {BROWSER} is not on this machine"
)
def test_a_browser_draws_it_without_an_error(trained: Trained, page: Page, tmp_path: Path) -> None:
    def browse(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--window-size=1200,2400",
            *arguments,
            (trained[0] / "report.html").as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        logged = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        assert not logged, "the page logs nothing"
        return done

    picture = tmp_path / "page.png"
    browse(f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    drawn = browse("--dump-dom").stdout
    assert drawn.count('class="scatterlayer') >= 2
