"""Tables that people bring: what is read, and what is refused with a word on what is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.laws.points import LossPoints, check, fittable, measured, read_points
from windtunnel.laws.table import read_table

HEADER = "params,tokens,loss"
ROWS = [f"{n},{d},{5 - 0.1 * np.log(n * d):.4f}" for n in (1e5, 2e5, 4e5) for d in (1e6, 2e6, 4e6)]


def table(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "table.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_three_columns_are_enough(tmp_path: Path) -> None:
    points = read_points(table(tmp_path, HEADER, *ROWS))
    assert len(points) == 9 and points.counts == ("params",) and fittable(points)
    assert points.flops == pytest.approx(6 * points.size * points.tokens)
    assert len(np.unique(points.stem)) == 9


def test_of_a_study_the_finished_branches_count(tmp_path: Path) -> None:
    header = "run,params,params_total,tokens,flops,loss,bits_per_byte,source,seed,kind,stem"
    rows = [
        f"r{n}{d},{n}k,{2 * n}k,{d}M,{7 * n * d},{3 + 1 / n},2,all,0,branch,s{n}"
        for n in (1, 2, 4)
        for d in (1, 2, 4)
    ]
    more = [
        "x,1,2,1,7,9,2,wiki,0,branch,s1",
        "y,9,18,9,9,2.5,2,all,0,audit,",
        "z,4,8,8,9,,,all,0,branch,s4",
    ]
    points = read_points(table(tmp_path, header, *rows, *more))
    assert len(points) == 9 and points.counts == ("params", "params_total")
    assert len(np.unique(points.stem)) == 3 and points.flops[0] == 7
    rows_of_it = read_table(tmp_path / "table.csv")
    assert [rows_of_it[i]["run"] for i in measured(rows_of_it)] == [
        row.partition(",")[0] for row in rows
    ]


def test_rows_that_end_early_count_where_they_say_enough(tmp_path: Path) -> None:
    """Ends of lines that hold nothing are often left out."""
    points = read_points(
        table(
            tmp_path, f"{HEADER},source,kind,stem", *ROWS[:5], *(f"{row},,,a" for row in ROWS[5:])
        )
    )
    assert points.loss == pytest.approx([float(row.split(",")[2]) for row in ROWS])
    with pytest.raises(ValueError, match="line 2: loss is ''; expected a positive number"):
        read_points(table(tmp_path, f"{HEADER},source,kind", "1e5,1e6", *ROWS))


@pytest.mark.parametrize(
    ("stems", "expected"),
    [
        (list("aaabbbccc"), [0, 0, 0, 1, 1, 1, 2, 2, 2]),
        (["pile"] * 9, range(9)),  # no stem has more than one size: this column says something else
        ([""] * 9, range(9)),
        ([*"aaabbb", "", "", ""], [0, 0, 0, 1, 1, 1, 2, 3, 4]),
    ],
)
def test_points_whose_stem_is_not_known_are_each_their_own(
    tmp_path: Path, stems: list[str], expected: Any
) -> None:
    lines = [f"{row},{stem}" for row, stem in zip(ROWS, stems, strict=True)]
    assert list(read_points(table(tmp_path, f"{HEADER},stem", *lines)).stem) == list(expected)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([HEADER, *ROWS, "1e5,1e6,nan"], "line 11: loss is 'nan'; expected a positive number"),
        ([HEADER, *ROWS, "1e5,1e6,-2"], "line 11: loss is '-2'"),
        ([HEADER, *ROWS, "-1,1e6,2"], "line 11: params is '-1'"),
        ([HEADER, *ROWS, "1e5,,2"], "line 11: tokens is ''"),
        ([HEADER, *ROWS, "1e5,1e6,250"], "a loss of 250: expected nats/token"),
        (
            [HEADER, *(f"1e5,{d}e4,{4 - d / 1e7}" for d in range(1, 12))],
            "1 size: how the loss falls with size needs 3",
        ),
        (
            [HEADER, *(f"{n}e5,1e6,{4 - n / 100}" for n in range(1, 12))],
            "1 length: how the loss falls with tokens",
        ),
        (
            [HEADER, *(f"{n}e5,{20 * n}e5,{4 - n / 100}" for n in range(1, 12))],
            "all points lie on one ray, 20 tokens a param",
        ),
        (
            [HEADER, *(f"{n}e5,{n * n}e6,{4 - n / 100}" for n in range(1, 12))],
            "size and tokens grow together along one curve",
        ),
        (
            [f"{HEADER},dataset", *(f"{row},{text}" for row in ROWS for text in ("pile", "c4"))],
            "no row of it is a point: column source says 'pile', 'c4': a law is of one text, so "
            "keep the rows of one of them",
        ),
        (
            [
                f"{HEADER},kind",
                *(f"{row},{kind}" for row, kind in zip(ROWS, "abcdabcda", strict=True)),
            ],
            "column kind says 'a', 'b', 'c' and so on; expected branch or run or final, or no such "
            "column",
        ),
        (
            [f"{HEADER},kind", "1,2,,branch", "1,2,3,audit"],
            "no row of it is a point: expected one with a loss",
        ),
        (
            [HEADER, *(f"{n / 1e9},{d},{4 - n / 1e9}" for n in (1e8, 2e8) for d in (1e6, 2e6))],
            "params go up to 0.2: are these billions? expected counts, such as 47.6M or 1.2e9",
        ),
        (
            [HEADER, *(f"{n},{d},{4 - n / 1e9}" for n in (1e8, 2e8) for d in (1, 2.5))],
            "tokens go up to 2.5: are these billions?",
        ),
        (
            ["N,D,ppl", *ROWS],
            "loss missing; found params, tokens, ppl; ppl is not a loss in nats a token: a "
            "perplexity is e^loss, so take its natural logarithm",
        ),
        (
            ["params,tokens,bits_per_byte", *ROWS],
            "bits_per_byte is not a loss in nats a token: bits are of a byte",
        ),
        ([HEADER, *ROWS[:4]], "4 points: a law of five or six parameters needs at least 8"),
        (
            ["params,loss", "1,2"],
            "needs columns params, tokens and loss; tokens missing; found params, loss",
        ),
        (
            [HEADER],
            "needs columns params, tokens and loss; params, tokens, loss missing; the table is "
            "empty",
        ),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, lines: list[str], expected: str) -> None:
    file = table(tmp_path, *lines)
    with pytest.raises(ValueError) as refused:
        read_points(file)
    assert str(refused.value).startswith(str(file)) and expected in str(refused.value)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such table"):
        read_points(tmp_path / "nothing.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="not a readable table"):
        read_points(tmp_path / "binary.csv")


def test_select_keeps_every_column() -> None:
    points = LossPoints.of(
        {"params": np.arange(1.0, 10), "params_total": np.arange(2.0, 11)},
        np.arange(9.0) + 1,
        np.full(9, 3.0),
        stem=list("aaabbbccc"),
    )
    part = points.select(points.stem == 1)
    assert (
        len(part) == 3 and list(part.params["params_total"]) == [5, 6, 7] and set(part.stem) == {1}
    )
    with pytest.raises(ValueError, match="3 points"):
        check(part)
    assert not fittable(part)


def points(params: Any, tokens: Any, loss: Any = 3.0) -> LossPoints:
    n, d = np.broadcast_arrays(np.asarray(params, float), np.asarray(tokens, float))
    return LossPoints.of(n.ravel(), d.ravel(), np.full(n.size, loss))


@pytest.mark.parametrize(
    ("made", "fits"),
    [
        # three sizes at three lengths, less one of nine points, and less two
        (points([[1e5], [2e5], [4e5]], [1e6, 2e6, 4e6]).select(range(8)), True),
        (points([[1e5], [2e5], [4e5]], [1e6, 2e6, 4e6]).select(range(7)), False),
        (points([[1e5], [2e5]], [1e6, 2e6, 4e6, 8e6]), False),
        (points([[1e5], [2e5], [3e5], [4e5]], [1e6, 2e6]), False),
        (points([[1e5], [2e5], [4e5]], [1e6, 2e6, 4e6], 20.0), True),
        (points([[1e5], [2e5], [4e5]], [1e6, 2e6, 4e6], 20.1), False),
    ],
)
def test_a_law_needs_eight_points_three_sizes_and_three_lengths(
    made: LossPoints, fits: bool
) -> None:
    assert fittable(made) is fits


@pytest.mark.parametrize(("spread", "said"), [(1.49, "one ray"), (1.51, "")])
def test_tokens_a_parameter_must_spread_by_half(spread: float, said: str) -> None:
    """Ten sizes on one ray, and one that is trained longer."""
    n = np.geomspace(1e5, 1e6, 10)
    made = points([*n, n[0]], [*(20 * n), spread * 20 * n[0]])
    if said:
        with pytest.raises(ValueError, match=said):
            check(made)
    else:
        check(made)


@pytest.mark.parametrize(("off", "told"), [(1.18, False), (1.21, True)])
def test_points_must_lie_a_fifth_off_every_curve(off: float, told: bool) -> None:
    """In the one that varies less, which here is the size: tokens grow as its square, and lie
    above and below the line by twice as much.
    """
    x = np.repeat(np.linspace(0, 8, 40), 2)
    above = 2 * np.tile([-0.5, 0.5], 40) * np.log(off)
    made = points(1e5 * np.exp(x), 1e6 * np.exp(2 * x + above))
    assert fittable(made) is told
    turned = points(1e5 * np.exp(2 * x + above), 1e6 * np.exp(x))
    assert fittable(turned) is told, "either may be the steep one"


def test_a_point_without_a_seed_or_flops_has_the_usual_ones() -> None:
    made = points([[1e5], [2e5]], [1e6, 2e6])
    assert made.seed.tolist() == [0] * 4 and made.stem.tolist() == [0, 1, 2, 3]
    assert made.flops.tolist() == [6e11, 12e11, 12e11, 24e11]


@pytest.mark.parametrize(
    ("params", "tokens", "says"),
    [
        ("999", "1e6", "params go up to 999"),
        ("1000", "9999", "tokens go up to 9999"),
        ("1000", "10000", "1 point: a law"),
    ],
)
def test_counts_in_billions_are_told_from_small_models(
    tmp_path: Path, params: str, tokens: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        read_points(table(tmp_path, HEADER, f"{params},{tokens},3"))


def test_seeds_are_numbered_in_their_order(tmp_path: Path) -> None:
    lines = [f"{row},{seed}" for row, seed in zip(ROWS, "baabaabba", strict=True)]
    found = read_points(table(tmp_path, f"{HEADER},seed", *lines))
    assert found.seed.tolist() == [0, 1, 1, 0, 1, 1, 0, 0, 1]


def test_one_model_of_a_thousand_parameters_is_enough(tmp_path: Path) -> None:
    """However small the others are."""
    lines = [f"{n},{d},{4 - n / 1e4}" for n in (100, 200, 1000) for d in (1e4, 2e4, 4e4)]
    assert len(read_points(table(tmp_path, HEADER, *lines))) == 9
    short = [f"{n},{d},{4 - n / 1e6}" for n in (1e4, 2e4, 4e4) for d in (1e3, 2e3, 1e4)]
    assert len(read_points(table(tmp_path, HEADER, *short))) == 9
