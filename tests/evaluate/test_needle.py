"""Questions about long texts find what a model uses: one that sees little answers what stands near
the end.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ship_models import model_of, weights_of

from windtunnel.data.questions import QUESTIONS
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.evaluate import needle
from windtunnel.evaluate.model import Done, Likelihood, Pair, nothing
from windtunnel.evaluate.needle import NEAR, Far, answered, saved
from windtunnel.evaluate.own import OwnModel
from windtunnel.report.far import heat_map
from windtunnel.report.page import write_page
from windtunnel.results.evaluation import Evaluation

LENGTH = 512


class Sees(OwnModel):
    """A model that looks at its last tokens alone, and finds there what it is asked for."""

    def __init__(self, corpus: Corpus, last: int) -> None:
        model = model_of("tied")
        super().__init__(
            "x", model, weights_of(model), 4 * LENGTH, corpus.tokenizer, None, [0], "cpu"
        )
        self._last = last

    def likelihoods(self, pairs: Sequence[Pair], done: Done) -> list[Likelihood]:
        found = []
        for context, said in pairs:
            seen = context[-self._last :]
            # without the full stop, which the answer has behind it
            there = any(seen[i : i + len(said) - 1] == said[:-1] for i in range(len(seen)))
            found.append(Likelihood(-float(len(said)) * (1 if there else 2), there))
        done(len(pairs))
        return found


def by_depth(corpus: Corpus, last: int, kind: str) -> dict[str, float]:
    far = Far(lengths=(LENGTH,), each=3)
    ids, measures = answered(Sees(corpus, last), kind, far, nothing)
    assert len(ids) == len(set(ids)) == 15
    assert measures[0].values and len(measures[0].values) == 15
    return {measure.filter: measure.value for measure in measures}


@pytest.mark.parametrize("kind", ["passkey", "number", "needles", "key-value"])
def test_what_stands_beyond_its_sight_is_not_found(kind: str, corpus: Corpus) -> None:
    near = by_depth(corpus, LENGTH // 2, kind)
    assert near[f"{LENGTH}@0"] == 0.0 and near[f"{LENGTH}@1"] == 1.0
    assert set(by_depth(corpus, LENGTH, kind).values()) == {1.0}
    assert 0 < near["none"] < 1


def test_a_longer_text_is_asked_about_as_before_and_one_too_long_is_refused(
    corpus: Corpus,
) -> None:
    short, both = Far(lengths=(LENGTH,), each=2), Far(lengths=(LENGTH, 2 * LENGTH), each=2)
    model = Sees(corpus, LENGTH)
    few, many = (
        answered(model, "passkey", short, nothing),
        answered(model, "passkey", both, nothing),
    )
    assert few[0] == many[0][: len(few[0])] and few[1][1:] == many[1][1:6]
    with pytest.raises(InputError, match="--far 4096: x was made for 2048 tokens"):
        answered(model, "passkey", Far(lengths=(4096,)), nothing)
    with pytest.raises(InputError, match="--far 16: passkey: 16 tokens have no room"):
        answered(model, "passkey", Far(lengths=(16,)), nothing)


class Likes(OwnModel):
    """A model that finds a token the likelier the more came before it."""

    def likelihoods(self, pairs: Sequence[Pair], done: Done) -> list[Likelihood]:
        done(len(pairs))
        return [Likelihood(-len(said) * 1000 / len(before), False) for before, said in pairs]


def test_distant_text_saves_what_it_saves(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    model = model_of("tied")
    likes = Likes("x", model, weights_of(model), 4 * LENGTH, corpus.tokenizer, None, [0], "cpu")
    documents = [(f"prose/{i}", np.arange(1000) % 300) for i in range(3)]
    monkeypatch.setattr(needle, "_documents", lambda corpus, longest: documents)
    ids, measures = saved(likes, corpus, Far(lengths=(256, 512, 1000, 1500)), nothing)
    # at 256 there is nothing distant, and no document reaches 1500
    assert ids == [f"{at}#prose/{i}" for at in (512, 1000) for i in range(3)]
    found = {(one.metric, one.filter): one.value for one in measures}
    for at in (512, 1000):
        whole = found["bits_per_byte", f"{at}, all before"]
        near = found["bits_per_byte", f"{at}, the last {NEAR}"]
        assert whole == pytest.approx(near * NEAR / (at - 64))
        assert found["bits_per_byte_saved", f"{at}, all before"] == pytest.approx(near - whole)


def test_a_heat_map_has_every_length_and_depth(corpus: Corpus) -> None:
    far = Far(lengths=(LENGTH, 2 * LENGTH), each=1)
    items, measures = answered(Sees(corpus, LENGTH // 2), "passkey", far, nothing)
    found = Evaluation(
        task="far/passkey",
        model="x",
        tokens=1,
        engine="x",
        settings={},
        key="x",
        items=items,
        measures=measures,
    )
    (drawn,) = heat_map(found).data
    assert drawn.x == (str(LENGTH), str(2 * LENGTH)) and len(drawn.y) == 5
    assert list(drawn.z[0]) == [0.0, 0.0] and list(drawn.z[-1]) == [1.0, 1.0]


def test_by_the_real_command_line_it_is_kept_with_the_run(lab: Any, recipe: Any) -> None:
    short = {"tokens": 1024, "warmup": 0, "decay": 512}
    run = lab.train(recipe(data={"context": 512}, schedule=short, train={"batch": 512}))
    told = lab.json("evaluate", run.name, "--far", "512")
    assert [one["task"] for one in told["evaluations"]][:2] == ["far/passkey", "far/number"]
    assert len(told["evaluations"]) == len(QUESTIONS) + 1
    assert all(0 <= one["value"] <= 1 for one in told["evaluations"][0]["measures"])
    assert len(list((Path(run) / "evaluations").glob("*far-*"))) == len(QUESTIONS) + 1
    assert lab.json("evaluate", run.name, "--far", "512") == told
    refused = lab.run("evaluate", run.name, "--far", "4k")
    assert refused.returncode == 2 and "was made for 512 tokens" in refused.stderr
    page = write_page(lab.path).read_text()
    assert f'id="far-{run.name}"' in page and "What is far away" in page
