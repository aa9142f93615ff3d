"""The table of precisions: every file is written, and measured by llama.cpp."""

from pathlib import Path

import numpy as np
import pytest
from ship_models import model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.results.export import Precision
from windtunnel.ship.held_out import held_out
from windtunnel.ship.precisions import calibration, markdown, table

pytest.importorskip("gguf")


def test_the_table_measures_every_file(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    model = model_of("tied")
    held = held_out(corpus, 32, 200, 10)
    portable = portable_of(model, weights_of(model), corpus.tokenizer, 32)
    rows = table(portable, tmp_path, calibration(corpus, 32, 1000), held)
    assert [row.name for row in rows] == [
        "F32",
        "F16",
        "Q8_0",
        "Q6_K",
        "Q5_K_M",
        "Q5_1",
        "Q4_K_M",
        "Q4_1",
        "Q4_0",
        "Q4_1 calibrated",
    ]
    assert all(
        row.bytes == row.file.stat().st_size and row.generation > 0 and row.prompt > 0
        for row in rows
    )
    off = {row.name: row.difference for row in rows}
    assert off["F32"] < 1e-4 < off["Q8_0"] < off["Q4_1"]
    lines = markdown(rows).splitlines()
    assert len(lines) == 12 and lines[2].startswith("| F32 | ") and "| +0.0000 |" in lines[2]


def test_calibration_text_is_spread_over_every_source(corpus: Corpus) -> None:
    """Three sources, of which each gives a third of 1,000 tokens in windows of 64."""
    windows = calibration(corpus, 64, 1000)
    assert windows.shape == (3 * 5, 64)
    for index, source in enumerate(corpus.sources.values()):
        starts = np.linspace(0, source.train.tokens - 64, 5).astype(int)
        read = source.train.read(starts, 64)
        assert windows[5 * index : 5 * index + 5].tolist() == read.tolist()
    assert len(calibration(corpus, 64, 10)) == 3, "one of each at least"
    smallest = min(source.train.tokens for source in corpus.sources.values())
    assert len(calibration(corpus, smallest, 3 * smallest)) == 3
    assert len(calibration(corpus, smallest + 1, 2 * smallest + 2)) == 2, "of those that hold one"
    with pytest.raises(InputError, match="no source holds 10000000 tokens"):
        calibration(corpus, 10_000_000)


def test_changes_are_against_the_first_row_of_the_table() -> None:
    rows = [
        Precision(
            name=name,
            file=Path("x"),
            bytes=size,
            bits_per_byte=bits,
            difference=off,
            generation=1234.4,
            prompt=56789.0,
        )
        for name, size, bits, off in (
            ("F32", 2_500_000, 1.5, 0.0),
            ("Q4_0", 400_000, 1.6234, 0.021),
        )
    ]
    said = markdown(rows).splitlines()
    assert len(said) == 4
    assert said[2] == "| F32 | 2.50 | 1.5000 | +0.0000 | 0.0000 | 1,234 | 56,789 |"
    assert said[3] == "| Q4_0 | 0.40 | 1.6234 | +0.1234 | 0.0210 | 1,234 | 56,789 |"


def test_calibration_takes_twenty_thousand_tokens(corpus: Corpus) -> None:
    """In windows of 64 from each of three sources: 104."""
    assert calibration(corpus, 64).shape == (3 * 104, 64)
