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
