"""The table of precisions: every file is written, and measured by llama.cpp."""

from pathlib import Path

import pytest
from ship_models import model_of, portable_of, weights_of

from windtunnel.data.shards import Corpus
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
