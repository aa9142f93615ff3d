"""Small faults are made one at a time, where tests could notice them."""

import ast
from pathlib import Path

import mutants
import pytest

SOURCE = '''"""A module."""

LIMIT = 10


def share(part: float, of: float, cap: float = 2.0) -> float:
    """A share."""
    if not of:
        raise ValueError(f"of {part + of}: expected more than {3}")
    print("told")
    found = min(part / of, cap)
    found -= 1
    for one, other in zip([part], [of], strict=True):
        minimise(one, other, options={"maxiter": 10, "seed": 1}, ftol=1e-9)
    return -found if part <= of and LIMIT else found
'''
# Of the source above, by line: annotations, texts and what is said in an error are left alone.
CHANGES = [
    (3, "10", "20"),
    (6, "2.0", "4.0"),
    (8, "not of", "not not of"),
    (8, "not of", "of"),
    (10, "print('told')", "nothing"),
    (11, "min(part / of, cap)", "max(part / of, cap)"),
    (11, "part / of", "part * of"),
    (12, "found -= 1", "found += 1"),
    (12, "found -= 1", "nothing"),
    (12, "1", "2"),
    (14, "1", "2"),
    (14, "minimise(one, other, options={'maxiter': 10, 'seed': 1}, ftol=1e-09)", "nothing"),
    (15, "part <= of and LIMIT", "not (part <= of and LIMIT)"),
    (15, "part <= of and LIMIT", "part <= of or LIMIT"),
    (15, "part <= of", "part < of"),
    (15, "part <= of", "part > of"),
    (15, "-found", "found"),
]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mutants, "PACKAGE", tmp_path)
    path = tmp_path / "shares.py"
    path.write_text(SOURCE)
    return path


def test_every_kind_of_fault_is_found_once(module: Path) -> None:
    found = [(one.line, one.before, one.after) for one in mutants.mutants_of(module)]
    assert sorted(found) == sorted(CHANGES)


def test_a_mutant_differs_in_its_one_change(module: Path) -> None:
    original = ast.unparse(ast.parse(SOURCE)).splitlines()
    for one in mutants.mutants_of(module):
        lines = mutants.mutated(module, one.number).splitlines()
        changed = [pair for pair in zip(original, lines, strict=True) if pair[0] != pair[1]]
        assert len(changed) == 1, one
        compile("\n".join(lines), one.name, "exec")


def test_the_same_seed_draws_the_same_mutants(module: Path) -> None:
    once, again = (mutants.drawn([module], 5, seed=1) for _ in range(2))
    assert once == again and len(once) == 5
    assert mutants.drawn([module], 99, seed=1) != once


def test_what_fails_or_hangs_is_a_killed_mutant() -> None:
    def hang() -> int:
        while True:
            pass

    assert not mutants._run(lambda: 0, limit=60)
    assert mutants._run(lambda: 1, limit=60)
    assert mutants._run(lambda: 1 // 0, limit=60)
    assert mutants._run(hang, limit=0.1)


def test_a_constant_meets_the_tests_of_functions_and_a_statement_those_of_any_of_its_lines(
    module: Path,
) -> None:
    """Every import executes a constant; and of a statement of several lines the first is enough."""
    module.write_text(
        "LIMIT = 10\n\n\n"
        "def share(part):\n    return min(\n        part,\n        LIMIT + 1,\n    )\n"
    )
    constant, *others = mutants.mutants_of(module)
    assert constant.line == 1 and constant.executed == {5, 6, 7, 8}
    assert {one.line for one in others} == {5, 7}
    assert all(one.executed == {5, 6, 7, 8} for one in others)
    module.write_text("LIMIT = 10\n")
    (alone,) = mutants.mutants_of(module)
    assert alone.executed == {1}, "of a module without functions nothing else is known"
