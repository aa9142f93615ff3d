"""A plan that is trained as it stands, and held against what the run reached."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_labs import with_study

from windtunnel.cli import plan as cli_plan
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.plan.audit import audit
from windtunnel.plan.ledger import read_ledger
from windtunnel.plan.plan import plan
from windtunnel.plan.record import read_plan
from windtunnel.plan.request import Request
from windtunnel.plan.studies import from_lab
from windtunnel.recipe import dump, load
from windtunnel.report.page import write_page
from windtunnel.report.plans import sizes_figure
from windtunnel.results.forecast import Forecast
from windtunnel.train.run import Run, called, create, find_run, open_run

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
        found = audit(lab, run)
        assert found.folder == lab / "plans" / "first"
        after = read_plan(lab / "plans" / "first")
        got, loss = after.audit, run.summary().loss
        assert got is not None and got == found.audit
        assert got.forecast == before.forecast and got.remarks == ()
        assert got.run == run.id and got.loss == pytest.approx(loss)
        assert got.error == pytest.approx(before.loss / loss - 1, rel=1e-6)
        page = write_page(lab).read_text()
        assert "Plan first" in page and f"{loss:.4f}" in page and "arXiv 2305.16264" in page
        names = [trace["name"] for trace in sizes_figure(after).to_dict()["data"]]
        assert names == ["sizes at this cost", "plan, 90% interval", "got"]

    def test_the_same_plan_again_has_the_same_bytes_and_keeps_its_audit(
        self, trained: Trained
    ) -> None:
        lab, run, corpus = trained
        folder = audit(lab, run, "first").folder
        assert folder is not None
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        ledger = (lab / "forecasts.jsonl").read_bytes()
        plan(lab, from_lab(lab, "sizes"), FIRST, corpus)
        assert (lab / "forecasts.jsonl").read_bytes() == ledger
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
        assert (said := read_plan(folder).audit) and said.run == run.id

    def test_a_run_of_an_earlier_release_is_audited_though_its_id_is_another(
        self, trained: Trained
    ) -> None:
        lab, run, _ = trained
        old = open_run(Path(shutil.copytree(run.path, lab / "runs" / "0123456789ab")))
        assert (old.id, old.present_id) == ("0123456789ab", run.id)
        said = audit(lab, old).audit
        assert said.run == old.id and said.forecast and said.remarks == ()
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


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Trained:
    """The same, to be tampered with: nothing of it was audited yet."""
    lab = Path(shutil.copytree(trained[0], tmp_path / "lab"))
    keep = (lab / "forecasts.jsonl").read_text().splitlines()[:1]
    (lab / "forecasts.jsonl").write_text(keep[0] + "\n")
    change_plan(lab, audit=...)
    return lab, find_run(lab, trained[1].id), Corpus.open(lab / "corpora" / "tiny")


def change_plan(lab: Path, **keys: Any) -> None:
    """Other values in plan.json; `...` takes a key out."""
    file = lab / "plans" / "first" / "plan.json"
    content = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def change_study(lab: Path) -> None:
    """Measured once more: every loss is 1% higher."""
    file = lab / "studies" / "sizes" / "table.csv"
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"loss": 1.01 * float(row["loss"])} for row in rows)


def the_seal(lab: Path) -> Forecast:
    return read_ledger(lab).forecasts[0]


class TestASeal:
    def test_it_is_what_the_plan_predicts_of_the_run(self, copied: Trained) -> None:
        lab, run, _ = copied
        seal, made = the_seal(lab), read_plan(lab / "plans" / "first")
        assert (seal.plan, seal.run, seal.id) == ("first", run.id, made.forecast)
        said = (seal.loss, seal.interval50, seal.interval90, seal.params, seal.tokens, seal.flops)
        assert said == (
            made.loss,
            made.interval50,
            made.interval90,
            made.params,
            made.tokens,
            made.flops,
        )
        dearest = float(from_lab(lab, "sizes").points.flops.max())
        assert seal.distance.flops == pytest.approx(made.flops / dearest, rel=1e-9)
        reach = made.extrapolation
        assert (seal.distance.params, seal.distance.tokens) == (reach.params, reach.tokens)
        assert not seal.begun and seal.recipe["model.width"] == 32

    def test_an_audit_opens_it_once(self, copied: Trained) -> None:
        lab, run, _ = copied
        first, loss = audit(lab, run).audit, run.summary().loss
        (opened,) = read_ledger(lab).outcomes
        assert (opened.forecast, opened.run, opened.late) == (the_seal(lab).id, run.id, False)
        assert opened.loss == pytest.approx(loss) and opened.error == first.error
        before = (lab / "forecasts.jsonl").read_bytes()
        assert audit(lab, run).audit == first
        assert (lab / "forecasts.jsonl").read_bytes() == before

    def test_it_counts_and_not_what_plan_json_was_made_to_say(self, copied: Trained) -> None:
        lab, run, _ = copied
        change_plan(lab, loss=run.summary().loss)
        found = audit(lab, run).audit
        assert found.predicted == the_seal(lab).loss and abs(found.error) > 0.001
        assert found.remarks == ("plan.json no longer says what was sealed: loss",)
        assert read_ledger(lab).outcomes[0].error == found.error
        assert "Plan.json no longer says what was sealed: loss." in write_page(lab).read_text()

    def test_a_plan_that_is_made_again_by_other_laws_does_not_move_it(
        self, copied: Trained
    ) -> None:
        lab, run, corpus = copied
        change_study(lab)
        plan(lab, from_lab(lab, "sizes"), FIRST, corpus)
        seal, again = read_ledger(lab).forecasts
        assert again.run == seal.run and again.loss == pytest.approx(1.01 * seal.loss, rel=1e-3)
        assert again.begun and not seal.begun and again.points != seal.points
        found = audit(lab, run)
        assert found.audit.predicted == seal.loss and found.folder
        (remark,) = found.audit.remarks
        assert remark.startswith("plan.json no longer says what was sealed: loss, interval50")

    def test_one_that_came_after_training_began_says_so(self, copied: Trained) -> None:
        lab, run, corpus = copied
        (lab / "forecasts.jsonl").unlink()
        plan(lab, from_lab(lab, "sizes"), FIRST, corpus)
        assert audit(lab, run).audit.remarks == ("the forecast was sealed after training began",)
        assert read_ledger(lab).outcomes[0].late

    def test_a_run_that_was_trained_elsewhere_before_says_so(
        self, copied: Trained, tmp_path: Path
    ) -> None:
        lab, run, corpus = copied
        os.utime(run.path / "run.json", (0, 0))
        kept = shutil.move(run.path, tmp_path / "kept")
        (lab / "forecasts.jsonl").unlink()
        plan(lab, from_lab(lab, "sizes"), FIRST, corpus)
        shutil.move(kept, run.path)
        assert not the_seal(lab).begun
        assert audit(lab, run).audit.remarks == ("the forecast was sealed after training began",)

    def test_a_recipe_that_was_edited_before_training_is_another_run(self, copied: Trained) -> None:
        lab, run, corpus = copied
        file = lab / "plans" / "first" / "plan.toml"
        file.write_text(dump(load(file).change(optimizer={"lr": 0.02}, seed=3)))
        other = create(lab, load(file), corpus)
        for name in ("status.json", "metrics.jsonl"):
            shutil.copy(run.path / name, other.path / name)
        found = audit(lab, other)
        assert found.folder and found.audit.forecast == the_seal(lab).id
        assert found.audit.remarks == (
            "the run is not the one that was sealed: it differs in optimizer.lr, seed",
        )
        assert read_ledger(lab).outcomes[0].other_run
        # and the run that was sealed is audited by its seal, whatever the recipe says by now
        found = audit(lab, run)
        assert found.audit.remarks == (
            "plan.toml is no longer the recipe that was sealed: optimizer.lr, seed",
        )
        assert [one.other_run for one in read_ledger(lab).outcomes] == [True, False]

    def test_it_is_opened_where_the_plan_is_of_another_run_by_now_or_gone(
        self, copied: Trained
    ) -> None:
        lab, run, corpus = copied
        plan(lab, from_lab(lab, "sizes"), replace(FIRST, tokens=20_000), corpus)
        found = audit(lab, run)
        assert found.folder is None and found.audit.forecast == the_seal(lab).id
        assert read_plan(lab / "plans" / "first").audit is None
        shutil.rmtree(lab / "plans")
        assert audit(lab, run) == found
        assert len(read_ledger(lab).outcomes) == 1

    def test_a_person_and_a_program_are_told(self, copied: Trained, make_lab: Any) -> None:
        lab, run, _ = copied
        change_plan(lab, loss=1.0)
        command, seal = replace(make_lab(), path=lab), the_seal(lab)
        done = command.run("plan", "--audit", run.id)
        assert done.returncode == 0, done.stderr
        told = f"(run {run.id}): the forecast {seal.id} of {seal.loss:.4f} was "
        assert told in done.stdout
        assert "\n        plan.json no longer says what was sealed: loss\n" in done.stdout
        following = f"windtunnel chat {called(run)} --lab {lab}"
        assert done.stdout.splitlines()[-1] == following
        said = command.json("plan", "--audit", run.id)
        assert (said["plan"], said["audit"]["forecast"]) == ("first", seal.id)
        shutil.rmtree(lab / "plans")
        done = command.run("plan", "--audit", run.id)
        line, *_, last = done.stdout.splitlines()
        assert line.startswith("got ") and told in line and last == following
        said["audit"].pop("remarks")
        assert command.json("plan", "--audit", run.id) == said["audit"] | {"remarks": []}

    def test_a_program_waits_for_nothing_that_is_not_printed(
        self, copied: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What to type next, for which every run of the lab is read."""
        lab, run, _ = copied
        monkeypatch.setattr(cli_plan, "next_for", lambda *_: pytest.fail("looked up"))
        cli_plan._audit(lab, run.id, "", as_json=True)
        assert json.loads(capsys.readouterr().out)["plan"] == "first"

    def test_the_page_says_the_same_error(self, copied: Trained) -> None:
        lab, run, _ = copied
        found = audit(lab, run).audit
        said = (
            f"the forecast of {found.predicted:.4f} was {found.error:+.2%} off, and the loss lies"
        )
        assert said in write_page(lab).read_text()

    def test_one_whose_line_was_changed_says_so(self, copied: Trained) -> None:
        lab, run, _ = copied
        line = json.loads((lab / "forecasts.jsonl").read_text())
        (lab / "forecasts.jsonl").write_text(json.dumps(line | {"loss": 3.0}) + "\n")
        remarks = audit(lab, run).audit.remarks
        assert remarks[0] == "its line in the ledger was changed after it was sealed"

    def test_another_loss_later_does_not_replace_the_first(self, copied: Trained) -> None:
        lab, run, _ = copied
        first = audit(lab, run).audit
        file = run.path / "metrics.jsonl"
        lines = file.read_text().splitlines()
        last = json.loads(lines[-1])
        last["validation"]["loss"] = 1.0
        file.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
        found = audit(lab, run).audit
        assert found.loss == 1.0
        assert found.remarks == (
            f"in the ledger it was opened before, with a loss of {first.loss:.4f}",
        )
        assert [one.loss for one in read_ledger(lab).outcomes] == [first.loss]

    def test_the_last_one_before_training_is_opened(self, copied: Trained, tmp_path: Path) -> None:
        lab, run, corpus = copied
        kept = shutil.move(run.path, tmp_path / "kept")
        change_study(lab)
        plan(lab, from_lab(lab, "sizes"), FIRST, corpus)
        shutil.move(kept, run.path)
        os.utime(run.path / "run.json")
        seal, second = read_ledger(lab).forecasts
        assert seal.id != second.id
        assert audit(lab, run).audit.forecast == second.id

    def test_a_lab_without_a_ledger_is_audited_as_it_stands(self, copied: Trained) -> None:
        """Of the last release: no ledger, and a plan that names no forecast."""
        lab, run, _ = copied
        (lab / "forecasts.jsonl").unlink()
        change_plan(lab, forecast=...)
        found = audit(lab, run)
        assert found.folder and found.audit.forecast is None
        assert found.audit.remarks == ("nothing was sealed: this is what the plan says now",)
        assert not (lab / "forecasts.jsonl").exists()

    def test_one_that_was_taken_out_of_the_ledger_is_missed(self, copied: Trained) -> None:
        lab, run, _ = copied
        (lab / "forecasts.jsonl").write_text("")
        (remark,) = audit(lab, run).audit.remarks
        assert "is no longer in the lab's ledger" in remark
