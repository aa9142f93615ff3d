"""A plan that is trained as it stands, and held against what the run reached."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from plan_labs import with_study

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.plan.audit import audit
from windtunnel.plan.plan import plan
from windtunnel.plan.record import read_plan
from windtunnel.plan.request import Request
from windtunnel.plan.studies import from_lab
from windtunnel.recipe import load
from windtunnel.report.page import write_page
from windtunnel.report.plans import sizes_figure
from windtunnel.train.run import Run, create, find_run, open_run

EAGER = {"TORCHDYNAMO_DISABLE": "1"}
FIRST = Request(shape=(32, 2), tokens=12_000, name="first")

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
        tokens, summary = read_plan(lab / "plans" / "first").tokens, run.summary()
        assert (summary.status, summary.tokens) == ("done", tokens)
        assert summary.name == "first"

    def test_the_audit_stands_in_the_plan_and_on_the_page(self, trained: Trained) -> None:
        lab, run, _ = trained
        before = read_plan(lab / "plans" / "first")
        after = read_plan(audit(lab, run))
        got, loss = after.audit, run.summary().loss
        assert got is not None
        assert got.run == run.id and got.loss == pytest.approx(loss)
        assert got.error == pytest.approx(before.loss / loss - 1, rel=1e-6)
        page = write_page(lab).read_text()
        assert "Plan first" in page and f"{loss:.4f}" in page and "arXiv 2305.16264" in page
        names = [trace["name"] for trace in sizes_figure(after).to_dict()["data"]]
        assert names == ["sizes at this cost", "plan, 90%", "got"]

    def test_the_same_plan_again_has_the_same_bytes_and_keeps_its_audit(
        self, trained: Trained
    ) -> None:
        lab, run, corpus = trained
        folder = audit(lab, run, "first")
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        plan(lab, from_lab(lab, "sizes"), FIRST, corpus)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
        assert (said := read_plan(folder).audit) and said.run == run.id

    def test_a_run_of_an_earlier_release_is_audited_though_its_id_is_another(
        self, trained: Trained
    ) -> None:
        lab, run, _ = trained
        old = open_run(Path(shutil.copytree(run.path, lab / "runs" / "0123456789ab")))
        assert (old.id, old.present_id) == ("0123456789ab", run.id)
        said = read_plan(audit(lab, old)).audit
        assert said is not None and said.run == old.id
        shutil.rmtree(old.path)

    def test_what_can_not_be_audited(self, trained: Trained, recipe: Any) -> None:
        lab, run, corpus = trained
        with pytest.raises(InputError, match="not a run of any plan of"):
            audit(lab, create(lab, recipe(), corpus))
        with pytest.raises(InputError, match="did you mean 'first'"):
            audit(lab, run, "frist")
        begun = create(lab, load(lab / "plans/first/plan.toml").change(seed=1), corpus)
        with pytest.raises(InputError, match="not a run of the plan 'first'"):
            audit(lab, begun, "first")
