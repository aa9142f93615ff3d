"""Where the batch of a stem changes and where branches leave it."""

from typing import Any

import pytest
from batch_study import LAW, with_batch_study

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws.batch import ByTokens
from windtunnel.results.batch import BATCH
from windtunnel.tunnel.scaling.chain import LAPTOP_BATCH, BatchLaw, batch_law, lay_out, lengths_of
from windtunnel.tunnel.scaling.design import Design


def test_the_default_study_is_large_enough_and_costs_at_most_two_fifths_of_retraining() -> None:
    design = Design()
    chain = lay_out(design, LAPTOP_BATCH)
    assert chain.trained / chain.retrained <= 0.4
    assert chain.fewest_steps >= 400
    assert chain.lengths == pytest.approx(lengths_of(design), rel=0.02)
    assert design.audit_tokens >= 2 * max(chain.lengths)
    assert [point.decay / point.tokens for point in chain.points] == pytest.approx(
        [0.1] * 7, rel=0.05
    )


def test_the_cost_is_that_of_one_stem_and_every_decay() -> None:
    design = Design(shortest=256_000, longest=1_024_000, points=3, batch=2048, decay=0.2)
    chain = lay_out(design, BatchLaw(ByTokens(2048, 0), "given"))
    # 0.8 of the longest on the stem; decays of 0.2 of 256k, 512k, 1024k: to whole steps of 2048
    assert chain.segments[-1].end == 819_200
    assert chain.trained == 819_200 + 51_200 + 102_400 + 204_800
    assert chain.retrained == pytest.approx(256_000 + 512_000 + 1_024_000, abs=3 * 2048)


@pytest.mark.parametrize(
    "law",
    [
        LAPTOP_BATCH,
        BatchLaw(ByTokens(0.2, 0.7), "steep"),
        BatchLaw(ByTokens(1e-3, 1.3), "very steep"),
    ],
)
def test_every_link_of_a_chain_stands_where_a_checkpoint_of_both_batches_can(law: BatchLaw) -> None:
    chain = lay_out(Design(shortest=200_000, longest=6_400_000, points=11), law)
    for before, after in zip(chain.segments, chain.segments[1:], strict=False):
        assert before.end == after.begin
        assert after.batch == 2 * before.batch
        assert after.begin % after.batch == 0
        tie = law.border(
            before.batch
        )  # where the law's batch is as near to the one as to the other
        assert law.by_tokens.predict(tie) == pytest.approx(before.batch * 2**0.5)
        assert 0 <= tie - after.begin < after.batch
    for point in chain.points:
        segment = chain.segments[point.segment]
        assert segment.begin < point.at <= segment.end
        assert point.at % segment.batch == point.decay % segment.batch == 0
    assert chain.points[-1].at == chain.segments[-1].end, "the stem goes further than it is used"
    assert len(chain.segments) > 1


def test_one_batch_for_all_where_the_law_says_so_or_a_person() -> None:
    falling = lay_out(Design(), BatchLaw(ByTokens(100_000, -0.3), "falls with the length"))
    assert len(falling.segments) == 1
    assert [
        s.batch for s in lay_out(Design(batch=3072), BatchLaw(ByTokens(3072, 0), "given")).segments
    ] == [3072]


def test_lengths_that_fall_on_one_step_are_refused() -> None:
    with pytest.raises(InputError, match="differ by a step"):
        lay_out(
            Design(shortest=30_000, longest=34_000, batch=4096),
            BatchLaw(ByTokens(4096, 0), "given"),
        )


def test_the_batch_law_is_that_of_the_labs_batch_study(lab: Any, corpus: Corpus) -> None:
    assert batch_law(lab.path, corpus, Design()) is LAPTOP_BATCH
    with_batch_study(lab)
    found = batch_law(lab.path, corpus, Design())
    assert (found.by_tokens.c, found.by_tokens.p) == (LAW["c"], LAW["p"])
    assert batch_law(lab.path, corpus, Design(batch=1024)).batch(10**9) == 1024
    with_batch_study(lab, corpus="another")
    assert batch_law(lab.path, corpus, Design()) is LAPTOP_BATCH
    (BATCH.folder(lab.path) / "result.json").write_text('{"numbers": {}}')
    with pytest.raises(InputError, match=r"batch/result\.json"):
        batch_law(lab.path, corpus, Design())
