"""Which learning rate the runs of a scaling study have."""

from pathlib import Path
from typing import Any

import pytest
from plan_labs import with_search_study, with_transfer_study

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.results.scaling import RateUsed
from windtunnel.results.studied import PAPER_RATE
from windtunnel.tunnel.scaling.design import RATE_RULES, Design, RateRule
from windtunnel.tunnel.scaling.rate import Rate, rate_of


def used(lab: Path, corpus: Corpus, **design: Any) -> RateUsed:
    return rate_of(lab, corpus, Design(**design)).used


def test_what_transfer_found_comes_before_what_the_search_found(
    tmp_path: Path, corpus: Corpus
) -> None:
    name = corpus.folder.name
    assert used(tmp_path, corpus) == RateUsed(
        origin="the paper's (section 3.3); no study of the lab", lr=PAPER_RATE
    )
    with_search_study(tmp_path, 0.02, "beats", corpus=name)
    found = used(tmp_path, corpus)
    assert (found.lr, found.interval) == (0.02, None) and "search study" in found.origin
    with_transfer_study(tmp_path, 0.03214, (0.025, 0.04), corpus=name)
    found = used(tmp_path, corpus)
    assert found.lr == 0.0321, "three digits"
    assert found.interval == (0.025, 0.04)
    assert found.origin == "the lab's transfer study (64x2, 800000 tokens)"
    assert used(tmp_path, corpus, lr=0.007) == RateUsed(origin="given", lr=0.007)


def test_what_was_found_on_another_corpus_or_lost_is_not_taken(
    tmp_path: Path, corpus: Corpus
) -> None:
    with_transfer_study(tmp_path, 0.03, (0.025, 0.04), corpus="another")
    with_search_study(tmp_path, 0.02, "loses", corpus=corpus.folder.name)
    assert used(tmp_path, corpus).lr == PAPER_RATE


def rate(rule: str) -> Rate:
    return Rate(RateUsed(origin="given", lr=0.01), rule)


def test_the_rate_stays_or_goes_by_the_root_of_the_batch() -> None:
    assert [rate("fixed").at(batch) for batch in (512, 8192)] == [0.01, 0.01]
    by_root = [rate("sqrt").at(batch) for batch in (512, 2048, 8192)]
    assert by_root == pytest.approx([0.005, 0.01, 0.02])


def test_a_rule_of_the_rate_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RATE_RULES, "linear", RateRule("linear", "as the batch", lambda r: r))
    assert rate("linear").at(1024) == pytest.approx(0.005)
    with pytest.raises(InputError, match="'cubic': expected one of fixed, sqrt, linear"):
        rate("cubic").at(1024)
