"""The plan of the house: its files by folder, which folder imports which, and how dense the code
is.

    .venv/bin/python bench/house.py [--before REVISION] [--write]

Reads the source with `ast`; nothing of the project is imported. With --before, a revision of the
repository stands beside the working tree. With --write, the tables are also put into
docs/architecture.md, below "The plan of the house". Prints three tables and, last, one JSON list.
It ends with 1 where a figure misses its target.

* Folders: files, statements (docstrings not counted), and what stands directly in the folder
  (files and subfolders) with the imports among them: how many pairs import one another, and the
  longest chain of such imports.
* Imports: for each folder, how many imports of each other folder its files hold. One file that
  imports one module counts once, wherever in the file it does so. What only a type checker imports
  does not count.
* Density: how much stands on a line, what is explained, and what is nested.
"""

import ast
import functools
import io
import subprocess
import tarfile
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

from claims import Claim, arguments, claim, end

ROOT = Path(__file__).parents[1]
PACKAGE = "windtunnel"
SOURCE = f"src/{PACKAGE}"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- bench/house.py: begins -->", "<!-- bench/house.py: ends -->"
LONG = 100  # characters of the longest line that is allowed
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

Texts = Mapping[str, str]  # the text of each file, by its path below the package
Arrows = Counter[tuple[str, str]]  # imports, by importing and imported folder or module


@dataclass(frozen=True, kw_only=True)
class Density:
    """How dense some files are. Lines that are blank do not count."""

    files: int
    statements: int
    """Docstrings not counted."""
    lines: int
    characters: int
    long_lines: int
    """Lines of more than 100 characters."""
    comments: int
    """Lines that hold a comment and nothing else."""
    unformatted: int
    """Times that the formatter is told to skip something."""
    nested: int
    """Comprehensions with more than one `for`, or within which another one stands."""
    public: int
    """Functions, methods and classes whose name has no leading underscore."""
    undocumented: int
    """Those of them without a docstring."""

    def rows(self) -> dict[str, str]:
        """What the table says of it, by the name of the row."""
        lines = max(1, self.lines)
        return {
            "files": f"{self.files}",
            "statements, docstrings not counted": f"{self.statements:,}",
            "lines that are not blank": f"{self.lines:,}",
            "characters a line": f"{self.characters / lines:.1f}",
            "lines over 100 characters": f"{self.long_lines / lines:.1%}",
            "whole-line comments": f"{self.comments / lines:.1%}",
            "nested comprehensions per 1,000 lines": f"{1000 * self.nested / lines:.2f}",
            "`fmt: skip`": f"{self.unformatted}",
            "public names": f"{self.public:,}",
            "public names without a docstring": f"{self.undocumented}",
        }


@dataclass(frozen=True)
class Standing:
    """What stands directly in a folder, files and subfolders, and how it hangs together."""

    rooms: int
    arrows: int
    """Pairs of them of which one imports the other."""
    longest: int
    """Rooms in the longest chain of imports; 0 where the imports run in a circle."""


def main() -> None:
    """Print the tables, and the figures as JSON."""
    parser = arguments(__doc__)
    parser.add_argument("--before", metavar="REVISION", help="a revision to compare with")
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    given = parser.parse_args()
    versions = {"now": working_tree()}
    if given.before:
        versions = {given.before: at_revision(given.before)} | versions
    page = tables(versions)
    print(page)
    if given.write:
        command = "bench/house.py --write" + (f" --before {given.before}" if given.before else "")
        write(page, command)
    end(claims(versions["now"], versions.get(given.before)))


def working_tree() -> Texts:
    """The package's files as they stand in the checkout."""
    folder = ROOT / SOURCE
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def at_revision(revision: str) -> Texts:
    """The package's files as git has them at a revision. Ends with git's own error where the
    revision is not known.
    """
    command = ["git", "-C", str(ROOT), "archive", revision, SOURCE]
    packed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    texts = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and member.name.endswith(".py"):
                texts[member.name.removeprefix(f"{SOURCE}/")] = file.read().decode()
    return dict(sorted(texts.items()))


def tables(versions: Mapping[str, Texts]) -> str:
    """The three tables as text, the versions side by side."""
    parts = [
        ["Folders: files, statements, what stands in each, and the imports among it", ""],
        _folders(versions),
        ["", "Imports between folders", ""],
        _imports(versions),
        ["", "Density", ""],
        _densities(versions),
    ]
    return "\n".join(line.rstrip() for part in parts for line in part)


def _folders(versions: Mapping[str, Texts]) -> list[str]:
    head = "files  statements  rooms  arrows  longest"
    lines = [f"{'':24}" + "".join(f"  {name:^{len(head)}}" for name in versions)]
    lines.append(f"{'':24}" + f"  {head}" * len(versions))
    shown = {folder for texts in versions.values() for folder in map(folder_of, texts)}
    for folder in sorted(shown):
        line = f"{folder:24}"
        for texts in versions.values():
            within = {path: text for path, text in texts.items() if folder_of(path) == folder}
            if within:
                found, stands = density(within.values()), standing(texts, folder)
                line += f"  {found.files:5}  {found.statements:10,}"
                line += f"  {stands.rooms:5}  {stands.arrows:6}  {stands.longest or 'circle':>7}"
            else:
                line += "  " + " " * len(head)
        lines.append(line)
    return lines


def _imports(versions: Mapping[str, Texts]) -> list[str]:
    lines = []
    for name, texts in versions.items():
        between = arrows(texts)
        lines += [f"{name}: {len(between)} pairs of folders, {between.total():,} imports"]
        for folder in sorted({start for start, _ in between}):
            to = [f"{end} {n}" for (start, end), n in sorted(between.items()) if start == folder]
            lines += _wrapped(f"  {folder:24}", to)
    return lines


def _wrapped(label: str, items: Iterable[str], width: int = 98) -> list[str]:
    lines = [label]
    for item in items:
        if len(lines[-1]) + len(item) + 2 > width:
            lines.append(" " * len(label))
        lines[-1] += f"  {item}"
    return lines


def _densities(versions: Mapping[str, Texts]) -> list[str]:
    columns = [density(texts.values()).rows() for texts in versions.values()]
    lines = [f"{'':40}" + "".join(f"{name:>10}" for name in versions)]
    lines += [
        f"{row:40}" + "".join(f"{column[row]:>10}" for column in columns) for row in columns[0]
    ]
    return lines


def folder_of(path: str) -> str:
    """The folder of a file; files at the top of the package are in `.`."""
    return PurePosixPath(path).parent.as_posix()


def arrows(texts: Texts) -> Arrows:
    """How many imports one folder holds of another, by importing and imported folder."""
    found: Arrows = Counter()
    for path, target in _imported(texts):
        start, end = folder_of(path), folder_of(target)
        if start != end:
            found[start, end] += 1
    return found


def standing(texts: Texts, folder: str) -> Standing:
    """What stands in a folder, and the imports among it."""
    rooms = {room for path in texts if (room := _room(path, folder))}
    pairs = set()
    for path, target in _imported(texts):
        start, end = _room(path, folder), _room(target, folder)
        if start and end and start != end:
            pairs.add((start, end))
    return Standing(len(rooms), len(pairs), _longest(pairs))


def _room(path: str, folder: str) -> str | None:
    """The file or subfolder of `folder` that a file is, or is in; None for `__init__.py` and for
    files elsewhere.
    """
    prefix = "" if folder == "." else f"{folder}/"
    if not path.startswith(prefix):
        return None
    first = path.removeprefix(prefix).split("/")[0]
    return None if first == "__init__.py" else first


def _longest(pairs: set[tuple[str, str]]) -> int:
    """Rooms in the longest chain; 1 where nothing imports anything, 0 where there is a circle."""
    depth = dict.fromkeys((room for pair in pairs for room in pair), 1)
    for _ in range(len(depth) + 1):
        deeper = {
            (start, end): depth[end] + 1 for start, end in pairs if depth[start] <= depth[end]
        }
        if not deeper:
            return max(depth.values(), default=1)
        for (start, _end), found in deeper.items():
            depth[start] = max(depth[start], found)
    return 0


def _imported(texts: Texts) -> set[tuple[str, str]]:
    """Every pair of a file and a file of the package that it imports."""
    known = {_module(path): path for path in texts}
    found = set()
    for path, text in texts.items():
        for name in _names_in(text):
            # `from windtunnel.a import b`: b is a module, or else a name within a
            target = known.get(name) or known.get(name.rpartition(".")[0])
            if target and target != path:
                found.add((path, target))
    return found


@functools.cache  # what stands in a folder hangs on all files, so each is asked once a folder
def _names_in(text: str) -> frozenset[str]:
    """What a file imports when it runs."""
    found: set[str] = set()
    for node in _run_time_nodes(ast.parse(text)):
        found.update(_names(node))
    return frozenset(found)


def _run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node within, but for what stands below `if TYPE_CHECKING:`."""
    yield node
    for inner in ast.iter_child_nodes(node):
        if not (isinstance(inner, ast.If) and ast.unparse(inner.test) == "TYPE_CHECKING"):
            yield from _run_time_nodes(inner)


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _module(path: str) -> str:
    parts = [PACKAGE, *PurePosixPath(path).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def density(texts: Iterable[str]) -> Density:
    """How dense some files are, taken together."""
    totals = dict.fromkeys((field.name for field in fields(Density)), 0)
    for text in texts:
        for name, value in _density_of(text).items():
            totals[name] += value
    return Density(**totals)


def _density_of(text: str) -> dict[str, int]:
    nodes = list(ast.walk(ast.parse(text)))
    lines = [line for line in text.splitlines() if line.strip()]
    public = [n for n in nodes if isinstance(n, DEFINITIONS) and not n.name.startswith("_")]
    statements = sum(isinstance(node, ast.stmt) for node in nodes)
    return {
        "files": 1,
        "statements": statements - sum(_docstrings(node) for node in nodes),
        "lines": len(lines),
        "characters": sum(len(line) for line in lines),
        "long_lines": sum(len(line) > LONG for line in lines),
        "comments": _whole_line_comments(text),
        "unformatted": text.count("fmt: skip"),
        "nested": sum(isinstance(node, COMPREHENSIONS) and _nests(node) for node in nodes),
        "public": len(public),
        "undocumented": sum(ast.get_docstring(node) is None for node in public),
    }


def _docstrings(node: ast.AST) -> int:
    """Strings that stand as statements in a body: docstrings, and those below fields."""
    body = getattr(node, "body", [])
    if not isinstance(body, list):  # the body of a lambda is an expression
        return 0
    constants = [
        s.value for s in body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)
    ]
    return sum(isinstance(constant.value, str) for constant in constants)


def _nests(node: ast.AST) -> bool:
    within = [inner for inner in ast.walk(node) if isinstance(inner, ast.comprehension)]
    return len(within) > 1


def _whole_line_comments(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(t.type == tokenize.COMMENT and t.line.strip().startswith("#") for t in tokens)


def claims(now: Texts, before: Texts | None) -> list[Claim]:
    """What the redesign asked for, as other scripts of bench/ print it."""
    found, tunnel = density(now.values()), standing(now, "tunnel")
    lines = found.lines
    least = density(before.values()).statements if before else found.statements
    figures = [
        ("statements of src", found.statements, "statements", f"at most {least}", 0, least),
        ("characters a line", found.characters / lines, "characters", "39 to 51", 39, 51),
        ("lines over 100 characters", found.long_lines / lines, "share", "at most 0.05", 0, 0.05),
        ("whole-line comments", found.comments / lines, "share", "0.04 to 0.12", 0.04, 0.12),
        ("nested comprehensions", 1000 * found.nested / lines, "per 1,000 lines", "under 1", 0, 1),
        ("fmt: skip", found.unformatted, "times", "0", 0, 0),
        ("public names without a docstring", found.undocumented, "names", "0", 0, 0),
        ("imports between the rooms of tunnel/", tunnel.arrows, "pairs", "at most 19", 0, 19),
    ]
    return [
        claim(what, round(value, 4), unit, target, low <= value <= high)
        for what, value, unit, target, low, high in figures
    ]


def write(page: str, command: str) -> None:
    """Put the tables between the two marks of docs/architecture.md, below the command that made
    them.
    """
    text = PAGE.read_text(encoding="utf-8")
    before, begins, rest = text.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (begins and ends):
        raise SystemExit(f"{PAGE}: expected the two lines {BEGIN} and {END}")
    shown = f"    .venv/bin/python {command}"
    PAGE.write_text(
        f"{before}{BEGIN}\n\n{shown}\n\n```text\n{page}\n```\n\n{END}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
