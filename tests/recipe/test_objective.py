"""Objectives are a table of records: what of a batch is learnt, from what kind of corpus."""

from collections.abc import Callable

import pytest
import torch

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.model.decoder import Decoder
from windtunnel.recipe import OBJECTIVES, ObjectiveKind, Recipe, Seen, dump, load, objective_of
from windtunnel.results.run import Engine
from windtunnel.train.objective import Batch, Objective
from windtunnel.train.run import create

Make = Callable[..., Recipe]


def test_an_unknown_objective_is_refused_with_the_known_ones(recipe: Make) -> None:
    with pytest.raises(
        InputError, match=r"train\.objective: .*next-token, answers.*did you mean 'answers'"
    ):
        recipe(train={"objective": "answer"})


def test_where_nobody_says_it_the_corpus_does() -> None:
    assert objective_of(None, "text").name == "next-token"
    assert objective_of(None, "conversations").name == "answers"
    # a user's words may be learnt, too
    assert objective_of("next-token", "conversations").name == "next-token"
    with pytest.raises(InputError, match=r"train\.objective='answers' needs conversations"):
        objective_of("answers", "text")


def test_a_corpus_that_does_not_have_what_it_needs_is_refused(
    recipe: Make, corpus: Corpus, tmp_path
) -> None:
    with pytest.raises(InputError, match="needs conversations, but the corpus is text"):
        create(tmp_path, recipe(train={"objective": "answers"}), corpus)
    assert not list(tmp_path.iterdir())


def test_it_stands_in_the_recipes_file_where_it_was_said(recipe: Make, tmp_path) -> None:
    for objective in (None, "answers"):
        asked = recipe(train={"objective": objective})
        (tmp_path / "recipe.toml").write_text(dump(asked))
        assert load(tmp_path / "recipe.toml") == asked


def test_only_answers_looks_at_what_is_marked() -> None:
    marked = torch.tensor([[True, False, True]])
    nats, found = torch.tensor([1.0, 2.0, 4.0]), {}
    for name in ("next-token", "answers"):
        kind = OBJECTIVES[name]
        seen = Seen(learnt=kind.learnt(marked), documents=torch.zeros(1, 3, dtype=torch.long))
        found[name] = kind.loss(nats, seen, torch.tensor(2)).item(), kind.size(seen).item()
    assert found == {"next-token": (3.5, 3), "answers": (2.5, 2)}


@pytest.fixture
def hardest(monkeypatch: pytest.MonkeyPatch) -> str:
    """One objective more: targets that are far from known count twice."""
    kind = ObjectiveKind(
        name="hardest",
        help="for this test",
        needs="text",
        learnt=lambda marked: marked,
        size=OBJECTIVES["next-token"].size,
        loss=lambda nats, seen, total: (nats * (1 + (nats > 1).float())).sum(-1) / total,
    )
    monkeypatch.setitem(OBJECTIVES, kind.name, kind)
    return kind.name


def test_an_added_objective_is_learnt(hardest: str, recipe: Make) -> None:
    asked = recipe(train={"objective": hardest})
    engine = Engine(device="cpu", precision="fp32", compiled=False, micro_batch=32, threads=1)
    batch = torch.arange(4 * 33).reshape(4, 33)
    losses = []
    for kind in (OBJECTIVES["next-token"], objective_of(asked.train.objective, "text")):
        model = Decoder(asked.model, 32, 0)
        objective = Objective(model, engine, kind=kind)
        losses.append(objective.add_gradient(batch).item())
    assert losses[1] == pytest.approx(2 * losses[0]), "an untrained model knows nothing"


def test_a_batch_is_read_from_its_marks() -> None:
    """Token t of document n is t + n 2^32, and ~ of that where it is not learnt."""
    plain = torch.tensor([[5, 6, 7, 8]])
    numbered = plain + (torch.tensor([[0, 0, 1, 1]]) << 32)
    batch = Batch.read(torch.where(torch.tensor([[True, False, False, True]]), numbered, ~numbered))
    assert batch.inputs.tolist() == [[5, 6, 7]] and batch.targets.tolist() == [[6, 7, 8]]
    assert batch.marked.tolist() == [[False, False, True]]
    assert batch.documents(None) is None
    documents = batch.documents(end=6)
    assert documents is not None and documents.tolist() == [[0, 0, 2]]
