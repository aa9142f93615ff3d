"""The matrix of the coordinate check says what the slopes say, and constants get no figure."""

from windtunnel.report.experiments.check import figures, off_theory
from windtunnel.results.check import Causes, CheckedDesign, CheckNumbers, CheckRow, Slope
from windtunnel.results.study import StudyResult

SIZES = (64, 128)


def slope(quantity: str, t: int, value: float | None, verdict: str = "pass") -> Slope:
    return Slope.model_validate(
        {
            "axis": "width",
            "quantity": quantity,
            "statistic": "value",
            "t": t,
            "slope": value,
            "low": value,
            "high": value,
            "expected": (-0.1, 0.1),
            "verdict": verdict,
        }
    )


def rows(quantity: str, t: int, values: tuple[float, float]) -> list[CheckRow]:
    return [
        CheckRow(
            params=1,
            params_total=1,
            tokens=t,
            seed=0,
            kind="probe",
            axis="width",
            size=size,
            t=t,
            quantity=quantity,
            statistic="value",
            value=value,
        )
        for size, value in zip(SIZES, values, strict=True)
    ]


def drawn_of() -> list:
    design = CheckedDesign(
        parametrization="minicpm",
        widths=SIZES,
        depths=(),
        width=64,
        depth=2,
        seeds=1,
        steps=(0, 1),
        lr=0.01,
        eps=1e-8,
        head_size=16,
        context=32,
        embedding_as="vector",
        tied=False,
    )
    slopes = (slope("logits", 0, 0.0), slope("logits", 1, 0.4, "fail"), slope("gain", 0, 0.0))
    numbers = CheckNumbers(
        design=design, corpus=None, causes=Causes(width=("a rule",), depth=()), quantities=slopes
    )
    table = [
        *rows("logits", 0, (1.0, 1.0)),
        *rows("logits", 1, (1.0, 1.32)),
        *rows("gain", 0, (1.0, 1.0 + 1e-7)),
    ]
    result = StudyResult[CheckNumbers](study="check", verdict="fail", numbers=numbers)
    return figures(result, table)


def test_the_distance_from_the_theory_is_beyond_what_it_allows() -> None:
    assert off_theory(slope("logits", 0, 0.05)) == 0
    assert round(off_theory(slope("logits", 0, 0.4)) or 0, 9) == 0.3
    assert round(off_theory(slope("logits", 0, -0.4)) or 0, 9) == -0.3
    assert off_theory(slope("logits", 0, None)) is None


def test_a_cell_is_a_quantity_at_a_time_and_a_failure_is_crossed() -> None:
    (_, (matrix,)), *_ = drawn_of()
    heat = matrix.data[0]
    assert list(heat.y) == ["logits value", "gain value"] and list(heat.x) == ["0", "1"]
    assert [list(row) for row in heat.text] == [["", "✕"], ["", ""]]
    assert heat.z[0][0] == 0 and round(heat.z[0][1], 9) == 0.3


def test_a_constant_gets_no_small_figure_and_causes_are_named() -> None:
    _, (caption, panels) = drawn_of()
    assert [panel.layout.title.text for panel in panels] == ["logits value"]
    assert "a rule" in caption
