"""Tables as people write them: separators, names of columns, numbers."""

from pathlib import Path

import pytest

from windtunnel.laws.points import read_points
from windtunnel.laws.table import number, read_table

CELLS = [(n, d, 5 - n / 1e9 - d / 1e12) for n in (1e8, 2e8, 4e8) for d in (1e9, 4e9, 2e10)]


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "runs.txt"
    file.write_text(text, encoding="utf-8")
    return file


def lines(header: str, between: str, form: str = "{:.0f}|{:.0f}|{:.4f}") -> str:
    rows = [form.format(*cell).replace("|", between) for cell in CELLS]
    return "\n".join([header.replace("|", between), *rows]) + "\n"


@pytest.mark.parametrize("between", [",", ";", "\t", " ", "   ", ", "])
@pytest.mark.parametrize(
    "header",
    ["N|D|L", "params|tokens|loss", "Parameters|Training_Tokens|Val_Loss", "n_params|tokens|nll"],
)
def test_separators_and_names_are_understood(tmp_path: Path, header: str, between: str) -> None:
    points = read_points(write(tmp_path, lines(header, between)))
    assert points.counts == ("params",)
    assert points.size.tolist() == [n for n, _, _ in CELLS]
    assert points.tokens.tolist() == [d for _, d, _ in CELLS]
    assert points.loss == pytest.approx([loss for _, _, loss in CELLS], abs=1e-4)


def test_a_header_may_be_a_comment_and_lines_may_be_blank(tmp_path: Path) -> None:
    text = "\ufeff# " + lines("N|D|L", "  ").replace("\n", "\n\n") + "\n\n"
    assert len(read_points(write(tmp_path, text))) == len(CELLS)


def test_decimal_commas_stand_between_semicolons(tmp_path: Path) -> None:
    text = lines("N|D|L", ";").replace(".", ",")
    points = read_points(write(tmp_path, text))
    assert points.loss == pytest.approx([loss for _, _, loss in CELLS], abs=1e-4)


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    text = lines("size|tokens|final loss", ",", '"{:,.0f}"|{:.2e}|{:.4f}')
    assert read_points(write(tmp_path, text)).size.tolist() == [n for n, _, _ in CELLS]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("47.6M", 47.6e6),
        ("47,6M", 47.6e6),
        ("47.6 m", 47.6e6),
        ("2.1B", 2.1e9),
        ("1.5T", 1.5e12),
        ("300bn", 300e9),
        ("1.2e9", 1.2e9),
        ("1E+09", 1e9),
        ("47,557,632", 47557632),
        ("47 557 632", 47557632),
        ("47'557'632", 47557632),
        ("47_557_632", 47557632),
        ("47.557.632", 47557632),
        ("47,557", 47557),
        ("1.5", 1.5),
        (" 12 ", 12),
    ],
)
def test_counts(text: str, expected: float) -> None:
    assert number(text, "params") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("text", "expected"), [("2.93", 2.93), ("2,927", 2.927), ("3", 3.0)])
def test_losses(text: str, expected: float) -> None:
    assert number(text, "loss") == expected


@pytest.mark.parametrize("text", ["", "nan", "inf", "-1", "0", "M", "1.2.3", "4x", "12 apples"])
def test_what_is_no_positive_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        number(text, "tokens")


def test_only_the_total_count_is_enough(tmp_path: Path) -> None:
    points = read_points(write(tmp_path, lines("total params|D|L", ",")))
    assert points.counts == ("params_total",) and len(points) == len(CELLS)


def test_copies_of_a_row_count_once(tmp_path: Path) -> None:
    text = lines("N|D|L", ",")
    assert len(read_points(write(tmp_path, text + text.partition("\n")[2]))) == len(CELLS)


def test_one_source_is_one_text(tmp_path: Path) -> None:
    text = lines("N|D|L|dataset", ",", "{:.0f}|{:.0f}|{:.4f}|pile")
    assert len(read_points(write(tmp_path, text))) == len(CELLS)


def test_a_column_with_our_name_is_the_one_that_is_meant(tmp_path: Path) -> None:
    (row,) = read_table(write(tmp_path, "N,tokens,loss,train_loss\n1e6,2e7,3.5,3.2\n"))
    assert row == {"params": "1e6", "tokens": "2e7", "loss": "3.5", "train_loss": "3.2"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("N,D,val_loss,train_loss\n", "columns val_loss and train_loss could both be loss"),
        ("N,D,L\n1,2,3,4\n", "line 2 has 4 columns, and the header 3"),
        ('N,D,L\n"1,2,3\n', "not a readable table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ValueError) as refused:
        read_table(file)
    assert str(refused.value).startswith(str(file)) and expected in str(refused.value)
