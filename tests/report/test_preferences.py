"""What a run that learnt from preferences shows on the page."""

from collections.abc import Callable
from typing import Any

from preferences import some_pairs, write_lines

from windtunnel.data.shards import Corpus
from windtunnel.family.dpo import Asked, dpo
from windtunnel.recipe import Recipe
from windtunnel.report import runs
from windtunnel.report.blocks import Chart, RunId, Table
from windtunnel.report.page import write_page
from windtunnel.report.preferences import preference_figure, sections
from windtunnel.report.view import LabView
from windtunnel.train.loop import train
from windtunnel.train.run import create


def test_the_page_has_a_section_of_its_own(
    lab: Any, stem: Callable[..., Recipe], corpus: Corpus
) -> None:
    """With every number of the last validation; its loss is not drawn among those of text."""
    parent = create(lab.path, stem(20 * 128), corpus)
    train(parent, corpus)
    data = write_lines(lab.path.parent / "pairs.jsonl", some_pairs())
    assert not list(sections(LabView(lab.path)))
    (run,), pairs = dpo(parent, [data], Asked(lrs=(1e-3,), betas=(0.25,), name="preferring"))
    train(run, pairs)
    (section,) = sections(LabView(lab.path))
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    (row,) = table.rows
    score = run.validations()[-1].validation.preference
    assert score and len(row) == len(table.heads)
    shown = (f"{score.accuracy:.1%}", f"{score.margin:+.3f}", f"{score.divergence:.4f}")
    assert {RunId(run.id), "sigmoid", "0.25", *shown} <= set(row)

    curves = next(one for one in runs.sections(LabView(lab.path)) if one.anchor == "curves")
    (chart,) = [block for block in curves.blocks if isinstance(block, Chart)]
    assert len(chart.figures[0].data) == 2, "the parent's alone"
    (curve,) = preference_figure([run]).data
    assert (curve.x[0], curve.y[0]) == (0, 0.5)
    assert curve.y[-1] == round(score.accuracy, 4)
    page = write_page(lab.path).read_text()
    assert 'id="preferences"' in page and "preferring" in page
