"""The ledger of forecasts: lines are only added, whole, by however many processes; whatever is
changed later shows.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import add, forecast, outcome

from windtunnel.errors import InputError
from windtunnel.plan.ledger import held, read_ledger, seconds_of

FIRST, SECOND, THIRD = forecast(1), forecast(2), forecast(3)
PROCESSES, LINES = 4, 25
ADDING = f"""
import sys
from pathlib import Path
from ledgers import add, forecast
for number in range({LINES}):
    add(Path(sys.argv[1]), forecast(1000 * int(sys.argv[2]) + number))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ledger of four lines."""
    return add(tmp_path / "lab", FIRST, SECOND, outcome(FIRST, 4.05), THIRD)


def rewrite(file: Path, number: int, **keys: object) -> None:
    """One of its lines with other values, counted from 1."""
    lines = file.read_text().splitlines()
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | keys)
    file.write_text("\n".join(lines) + "\n")


def test_what_is_added_is_read(file: Path) -> None:
    ledger = read_ledger(file.parent)
    assert [one.id for one in ledger.forecasts] == [FIRST.id, SECOND.id, THIRD.id]
    (opened,) = ledger.outcomes
    assert (opened.forecast, opened.loss, opened.inside50) == (FIRST.id, 4.05, True)
    assert ledger.changed == () and ledger.file == file
    assert ledger.chain == json.loads(file.read_text().splitlines()[-1])["chain"]
    content = ledger.forecasts[1].model_dump(exclude={"time", "chain"})
    assert content == SECOND.model_dump(exclude={"time", "chain"})


def test_a_line_says_when_it_was_added(file: Path) -> None:
    line = read_ledger(file.parent).forecasts[0]
    assert seconds_of(line) <= file.stat().st_mtime
    assert seconds_of(line.model_copy(update={"time": "1970-01-02T00:00:01Z"})) == 86401
    with pytest.raises(InputError, match="time 'soon'"):
        seconds_of(line.model_copy(update={"time": "soon"}))


def test_a_lab_without_one_has_an_empty_ledger(tmp_path: Path) -> None:
    ledger = read_ledger(tmp_path / "lab")
    assert (ledger.forecasts, ledger.outcomes, ledger.chain) == ([], [], "")
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_changed_line_shows_and_no_other(file: Path, number: int) -> None:
    rewrite(file, number, loss=3.9)
    ledger = read_ledger(file.parent)
    assert ledger.changed == (number,)
    changed = [one.id for one in ledger.forecasts if ledger.is_changed(one)]
    assert changed == [{1: FIRST, 2: SECOND, 4: THIRD}[number].id]


def test_a_key_that_nobody_reads_is_part_of_the_chain(file: Path) -> None:
    rewrite(file, 2, note="looked good")
    assert read_ledger(file.parent).changed == (2,)


@pytest.mark.parametrize(
    ("order", "changed"), [((0, 2, 3), (2,)), ((1, 2, 3), (1,)), ((0, 1, 3, 2), (3, 4))]
)
def test_lines_that_are_taken_out_or_moved_show(
    file: Path, order: tuple[int, ...], changed: tuple[int, ...]
) -> None:
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[i] for i in order) + "\n")
    assert read_ledger(file.parent).changed == changed


def test_a_changed_line_stays_seen_when_others_follow(file: Path) -> None:
    rewrite(file, 2, loss=3.9)
    add(file.parent, forecast(4))
    assert read_ledger(file.parent).changed == (2,)


@pytest.mark.parametrize("kept", [1, 40, -2])
def test_half_a_line_of_a_process_that_died_is_left_out_and_replaced(file: Path, kept: int) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[0][:kept])
    assert len(read_ledger(file.parent).entries) == 4
    assert not file.read_bytes().startswith(whole + b"\n")
    add(file.parent, forecast(4))
    ledger = read_ledger(file.parent)
    assert file.read_bytes().startswith(whole)
    assert [one.id for one in ledger.forecasts][-1] == forecast(4).id
    assert len(ledger.entries) == 5 and ledger.changed == ()


def test_what_an_editor_or_git_does_to_line_ends_changes_nothing(file: Path) -> None:
    whole = file.read_bytes()
    for content in (whole.rstrip(b"\n"), whole + b"\n", whole.replace(b"\n", b"\r\n")):
        file.write_bytes(content)
        assert len(read_ledger(file.parent).entries) == 4
        add(file.parent, forecast(4))
        ledger = read_ledger(file.parent)
        assert len(ledger.entries) == 5 and ledger.changed == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"kind": "forecast", "id": "a"', "line 2: damaged"),
        ('{"kind": "forecast", "id": "a"}', "line 2: plan: missing"),
        ('{"kind": "guess"}', "line 2: kind: expected forecast or outcome"),
        ("7", "line 2: kind: expected"),
        ("\xff", "line 2: damaged"),
        ("\0\0\0\0", "line 2: damaged"),
    ],
)
def test_a_damaged_line_is_refused_in_one_line(file: Path, text: str, said: str) -> None:
    first, _, *others = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([first, text.encode("latin-1"), *others, b""]))
    before = file.read_bytes()
    for refuse in (lambda: read_ledger(file.parent), lambda: add(file.parent, THIRD)):
        with pytest.raises(InputError, match=rf"forecasts\.jsonl, {said}"):
            refuse()
    assert file.read_bytes() == before


def test_a_place_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "lab" / "forecasts.jsonl").mkdir(parents=True)
    with pytest.raises(InputError, match=r"forecasts\.jsonl: could not be written: Is a directory"):
        add(tmp_path / "lab", FIRST)
    with pytest.raises(InputError, match=r"forecasts\.jsonl: could not be read: Is a directory"):
        read_ledger(tmp_path / "lab")


def test_what_is_held_knows_what_was_added(tmp_path: Path) -> None:
    with held(tmp_path / "lab") as ledger:
        assert ledger.says.forecasts == []
        added = ledger.add(FIRST)
        assert ledger.says.forecasts == [added] and ledger.says.chain == added.chain
        ledger.add(SECOND)
        numbers = [entry.number for entry in ledger.says.entries]
    assert numbers == [entry.number for entry in read_ledger(tmp_path / "lab").entries] == [1, 2]


def test_a_full_disk_adds_nothing(file: Path) -> None:
    """A limit on the size of files stands for it: some bytes of the line are written."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from ledgers import add, forecast
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({file.stat().st_size + 100},) * 2)
add(Path(sys.argv[1]), forecast(4))
"""
    before = file.read_bytes()
    command = [sys.executable, "-c", code, str(file.parent)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    assert done.stderr.splitlines()[-1].endswith(
        "forecasts.jsonl: could not be written: File too large"
    )
    assert file.read_bytes() == before


def test_many_processes_add_to_it_at_once(tmp_path: Path) -> None:
    adding = [
        subprocess.Popen([sys.executable, "-c", ADDING, str(tmp_path), str(n)], env=_environment())
        for n in range(PROCESSES)
    ]
    assert [process.wait() for process in adding] == [0] * PROCESSES
    ledger = read_ledger(tmp_path)
    assert ledger.changed == ()
    asked = [forecast(1000 * n + i).id for n in range(PROCESSES) for i in range(LINES)]
    assert sorted(one.id for one in ledger.forecasts) == sorted(asked)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
