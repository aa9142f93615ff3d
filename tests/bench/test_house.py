"""The plan of the house, drawn of a small package and of this repository."""

import house
import pytest

SMALL = {
    "__init__.py": "",
    "errors.py": '"""What can go wrong."""\n',
    "low/__init__.py": "",
    "low/base.py": "from windtunnel.errors import InputError\n",
    "high/__init__.py": "",
    "high/one.py": "from windtunnel.high import two\nfrom windtunnel.low.base import a, b\n",
    "high/two.py": "def f():\n    import windtunnel.low.base\n",
    "high/three.py": "from windtunnel.high.one import a\n",
}
DENSE = '''"""A module."""

# A comment of its own.
TABLE = [x for y in range(3) for x in range(y)]  # a comment beside code
TEXT = "# no comment"


class Public:
    """It has a docstring."""

    field: int = 0
    """So has its field."""

    def bare(self):
        return {k: [v for v in range(k)] for k in range(3)}


def _private():
    return [x for x in range(3)]
'''


def test_imports_are_counted_between_folders() -> None:
    between = house.arrows(SMALL)
    assert between == {("low", "."): 1, ("high", "low"): 2}


def test_what_stands_in_a_folder() -> None:
    assert house.standing(SMALL, "high") == house.Standing(3, 2, 3)
    assert house.standing(SMALL, ".") == house.Standing(3, 2, 3)  # errors.py, low, high


def test_a_circle_is_told_from_a_chain() -> None:
    circle = {"a.py": "import windtunnel.b\n", "b.py": "from windtunnel import a\n"}
    assert house.standing(circle, ".").longest == 0
    for_types = circle | {"b.py": "if TYPE_CHECKING:\n    from windtunnel import a\n"}
    assert house.standing(for_types, ".").longest == 2


def test_density() -> None:
    found = house.density([DENSE])
    assert found.statements == 8  # three assignments, class, two functions, two returns
    assert found.comments == 1
    assert found.nested == 2
    assert (found.public, found.undocumented) == (2, 1)
    assert found.long_lines == 0


def test_the_table_goes_between_its_marks(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{house.BEGIN}\nold\n{house.END}\nbelow\n")
    monkeypatch.setattr(house, "PAGE", page)
    house.write(house.tables({"now": SMALL}), "bench/house.py --write")
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n")
    assert "\nold\n" not in text and "2 pairs of folders, 3 imports" in text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="expected the two lines"):
        house.write("", "")


def test_this_house_has_no_circle_and_makes_its_claims() -> None:
    now = house.working_tree()
    assert house.standing(now, ".").longest > 1
    assert "statements of src" in {claim["claim"] for claim in house.claims(now, None)}
