"""What a run that learnt from preferences shows on the page."""

from collections.abc import Callable
from typing import Any

from preferences import some_pairs, write_lines

from windtunnel.data.shards import Corpus
from windtunnel.family.dpo import Asked, dpo
from windtunnel.recipe import Recipe
from windtunnel.report.figures import loss_figure
from windtunnel.report.page import write_page
from windtunnel.report.preferences import preference_figure
from windtunnel.train.loop import train
from windtunnel.train.run import create


def test_the_page_has_a_section_of_its_own(
    lab: Any, stem: Callable[..., Recipe], corpus: Corpus
) -> None:
    """With every number of the last validation; its loss is not drawn among those of text."""
    parent = create(lab.path, stem(20 * 128), corpus)
    train(parent, corpus)
    data = write_lines(lab.path.parent / "pairs.jsonl", some_pairs())
    page = write_page(lab.path).read_text()
    assert "<h2>Preferences</h2>" not in page
    (run,), pairs = dpo(parent, [data], Asked(lrs=(1e-3,), betas=(0.25,), name="preferring"))
    train(run, pairs)
    page = write_page(lab.path).read_text()
    section = page[page.index("<h2>Preferences</h2>") : page.index("<h2>Loss</h2>")]
    score = run.validations()[-1].validation.preference
    assert score and run.id in section and ">0.25<" in section and ">sigmoid<" in section
    for shown in (f"{score.accuracy:.1%}", f"{score.margin:+.3f}", f"{score.divergence:.4f}"):
        assert shown in section
    rest = page[page.index("<h2>Loss</h2>") : page.index("<h2>Runs</h2>")]
    assert "preferring" not in rest and "preferring" in page[page.index("<h2>Runs</h2>") :]
    assert len(loss_figure([parent]).data) == 2
    (curve,) = preference_figure([run]).data
    assert (curve.x[0], curve.y[0]) == (0, 0.5)
    assert curve.y[-1] == round(score.accuracy, 4)
