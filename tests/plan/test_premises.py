"""What a plan takes as given where nobody says it: by about the size that is asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_labs import table_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.plan.evidence import Evidence, from_table
from windtunnel.plan.premises import _about_size, premises_of
from windtunnel.plan.request import Request


@pytest.mark.parametrize(
    ("request_of", "budget", "size"),
    [
        ({"params": 3e6}, None, 3e6),
        ({"shape": (64, 4)}, None, 11.5 * 64**2 * 4),
        ({"tokens": 2_000_000}, None, 1e5),
        ({"flops": 1.2e14}, 1.2e14, 1e6),  # 6 N 20 N
        ({"bytes_served": 10**9, "quantisation": "f16"}, None, 5e8),
        ({"bytes_served": 10**9, "quantisation": "f16", "tokens": 2_000_000}, None, 1e5),
        ({"bytes_served": 10**5, "quantisation": "f16", "tokens": 2_000_000}, None, 5e4),
        ({"bytes_served": 10**9, "quantisation": "f16", "flops": 1.2e14}, 1.2e14, 1e6),
        ({"bytes_served": 10**5, "quantisation": "f16", "flops": 1.2e14}, 1.2e14, 5e4),
    ],
)
def test_a_size_is_guessed_from_the_budget(
    request_of: dict, budget: float | None, size: float
) -> None:
    """What must fit a device bounds it, and is the size where nothing else is said."""
    assert _about_size(Request(**request_of), budget) == pytest.approx(size)


@pytest.mark.parametrize(
    ("params", "vocab", "context", "base"),
    [
        (8.9e6, 2048, 256, 32),
        (9.1e6, 32_768, 1024, 256),
        (0.99e8, 32_768, 1024, 256),
        (1.01e8, 32_768, 4096, 256),
    ],
)
def test_vocabulary_context_and_base_suit_the_size(
    params: float, vocab: int, context: int, base: int, evidence: Evidence
) -> None:
    found = premises_of(evidence, Request(params=params), None, None)
    assert (found.family.vocab, found.assumed_vocab, found.family.context) == (
        vocab,
        vocab,
        context,
    )
    assert found.family.model(64, 4).base_width == base
    said = premises_of(evidence, Request(params=params, vocab=999, context=64), None, None)
    assert (said.family.vocab, said.assumed_vocab, said.family.context) == (999, None, 64)


def test_the_tokens_of_a_corpus_and_those_in_hand_bound_each_other(
    evidence: Evidence, corpus: Corpus
) -> None:
    held = corpus.train_tokens

    def unique(tokens: int | None, corpus: Corpus | None) -> int | None:
        return premises_of(evidence, Request(tokens=tokens, flops=1e12), corpus, 1e12).unique

    assert (unique(None, None), unique(500, None), unique(None, corpus)) == (None, 500, held)
    assert (unique(held - 1, corpus), unique(held + 1, corpus)) == (held - 1, held)
    with pytest.raises(InputError, match="--epochs: of which tokens"):
        premises_of(evidence, Request(flops=1e12, epochs=2), None, 1e12)
    wrong = Request(flops=1e12, vocab=corpus.manifest.vocab + 1)
    with pytest.raises(InputError, match=f"has a vocabulary of {corpus.manifest.vocab}"):
        premises_of(evidence, wrong, corpus, 1e12)


def test_settings_are_the_runs_and_a_tables_rates_are_those_of_ordinary_networks(
    evidence: Evidence, tmp_path: Path
) -> None:
    table = from_table(table_of(tmp_path / "table.csv"))

    def fixed(found: Evidence, **request: Any) -> str | None:
        asked = Request(params=1e5, **request)
        return premises_of(found, asked, None, None).family.fixed.get("parametrization")

    assert fixed(table) == "standard" and fixed(table, parametrization="minicpm") == "minicpm"
    assert fixed(replace(table, rates=[])) is None and fixed(evidence) is None
