"""A study and a table as evidence."""

from pathlib import Path

import pytest
from plan_labs import CHINCHILLA, table_of

from windtunnel.errors import InputError
from windtunnel.plan.evidence import from_table


def test_rates_and_batches_stay_with_their_points(tmp_path: Path) -> None:
    """Of rows some are another source's, some another kind's, and some end early."""
    rows = ["params,tokens,loss,lr,batch,source,kind"]
    for i, n in enumerate((1e6, 4e6, 16e6)):
        for k, d in enumerate((1e8, 4e8, 16e8)):
            end = ("", ",all", ",all,branch")[(i + k) % 3]
            rows += [
                f"{n},{d},9,9,9,wiki,branch",
                f"{n},{d},9,9,9,all,audit",
                f"{n},{d},{CHINCHILLA.at(n, d)},{n**-0.3},{int(d**0.6)}{end}",
            ]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    found = from_table(tmp_path / "rows.csv")
    assert len(found.points) == len(found.rates) == 9
    assert [rate for _, rate in found.rates] == pytest.approx(found.points.size**-0.3)
    assert found.batches is not None and found.batches.batch == pytest.approx(
        found.points.tokens**0.6, rel=1e-3
    )


@pytest.mark.parametrize("value", ["0", "-1", "fast", "nan"])
def test_a_rate_that_is_none_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lr is"):
        from_table(table_of(tmp_path / "t.csv", lr=value))


def runs_of(tmp_path: Path, *rows: str, header: str = "run,params,tokens,loss") -> Path:
    file = tmp_path / "runs.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


CELLS = [(n, d) for n in (1e6, 4e6, 16e6) for d in (1e8, 4e8, 16e8)]


def test_of_a_grid_of_rates_the_best_run_of_each_cell_counts(tmp_path: Path) -> None:
    """Two or more runs a cell."""
    rows = []
    for n, d in CELLS:
        loss = CHINCHILLA.at(n, d)
        rows += [f"a{n}{d},{n},{d},{loss + 0.1}", f"b{n}{d},{n},{d},{loss}"]
    found = from_table(runs_of(tmp_path, *rows))
    assert found.points.loss == pytest.approx([CHINCHILLA.at(n, d) for n, d in CELLS])
    assert found.provenance.how == "runs.csv: 9 points, the best of 18 runs"
    assert found.provenance.runs == tuple(f"b{n}{d}" for n, d in CELLS)
    # fewer than two a cell are repeats of some
    some = from_table(runs_of(tmp_path, *rows[:-1]))
    assert len(some.points) == 17 and some.provenance.how == "runs.csv: 17 points"


def test_repeats_with_other_seeds_all_count(tmp_path: Path) -> None:
    rows = []
    for n, d in CELLS:
        rows += [f"r,{n},{d},{CHINCHILLA.at(n, d) + seed},{seed}" for seed in (0, 1)]
    found = from_table(runs_of(tmp_path, *rows, header="run,params,tokens,loss,seed"))
    assert len(found.points) == 18


def test_a_table_decays_as_the_paper_does_and_has_no_noise(tmp_path: Path) -> None:
    rows = [f"r,{n},{d},{CHINCHILLA.at(n, d)},{int(d**0.6)}" for n, d in CELLS]
    found = from_table(runs_of(tmp_path, *rows, header="run,params,tokens,loss,batch"))
    assert (found.decay.share, found.decay.shape, found.decay.floor) == (0.1, "exponential", 0.1)
    assert found.seed_sd is None and found.rates == [] and found.lab is None
    assert found.batches is not None
    assert found.batches.error.tolist() == [0.2] * 9, "of the logarithm of a batch"
    assert found.batches.params.tolist() == found.points.size.tolist()
    assert found.batches.loss.tolist() == found.points.loss.tolist()
