"""Mutation score: how many small faults in the code the tests notice.

    .venv/bin/python bench/mutants.py [--only laws/fit.py ...] [--sample 12] [--seed 0]
                                      [--judges laws plan ...] [--workers 2] [--out mutants]

A mutant is the source with one small change: a comparison turned or moved to its edge, an operator
or a constant replaced, a condition negated, a call or an assignment left out. Of every module that
is named (by default: laws, plan, tunnel, ship, the schedule and the roles) a few are drawn at
random, the same for the same seed, in proportion to what there is to change.

First every test file runs once on the source as it stands: it must pass, and coverage.py notes
which lines it executes. Then each mutant meets the test files that execute its statement (of what
is executed by every import, such as a constant: those that execute a function of its module), the
one named after its module first and the others from the shortest on, until one fails. A test that
takes ten times as long as it did counts as one that fails. Files that only other processes execute
are not seen by coverage, so the score is a lower bound.

Left out are texts and messages; where an optimiser stops (`maxiter`, `ftol` and the like), since a
search that goes on for longer gives the same; and `strict` of zip, which only a program that
contradicts itself ever meets.

Everything is written to --out as it is found (JSON lines), and what stands there is not run again:
another source takes another folder.
Prints the survivors, a table by folder and, last, one JSON list; it ends with 1 where less than
85% are killed.
"""

import ast
import contextlib
import copy
import json
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from claims import arguments, claim, end, header, row

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "windtunnel"
TESTS = ROOT / "tests"
JUDGED = ("laws", "plan", "tunnel", "ship", "train/schedule.py", "model/roles.py")
# Where tests of these may be: what else executes a line is found by coverage.
JUDGES = ("laws", "plan", "tunnel", "ship", "train", "model", "recipe", "results", "cli", "report")
TARGET = 0.85
PATIENCE = 10  # times as long as a test file took on the source as it stands
LEAST = 60.0  # seconds that any file may take
# What most tests import, read once for all of them: the children are forked.
HEAVY = ("torch", "scipy.optimize", "scipy.stats", "pydantic", "hypothesis", "pytest", "typer")

TURNED: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
REPLACED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
SWAPPED = {
    "min": "max",
    "minimum": "maximum",
    "argmin": "argmax",
    "any": "all",
    "log2": "log",
    "log": "log2",
    "mean": "max",
    "median": "mean",
    "ceil": "floor",
    "floor": "ceil",
}
SWAPPED |= {new: old for old, new in SWAPPED.items() if new not in SWAPPED}


# Arguments and options that say when an optimiser stops, or that zip is to check its caller.
LEFT_OUT = ("maxiter", "max_nfev", "ftol", "gtol", "xtol", "strict")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change."""

    module: str  # below src/windtunnel
    number: int  # of the changes that its module has
    line: int
    executed: frozenset[int]  # a test that executes one of these lines meets it
    before: str
    after: str

    @property
    def name(self) -> str:
        """Unique among all."""
        return f"{self.module}:{self.number}"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of a mutant."""

    name: str
    line: int
    before: str
    after: str
    killer: str | None  # the test file that noticed it


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """How a test file does on the source as it stands."""

    test: str
    seconds: float
    lines: dict[str, list[int]]  # executed, by module


def main() -> None:
    """Parse, run, print."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", default=JUDGED, help="modules or folders")
    parser.add_argument("--judges", nargs="+", default=JUDGES, help="folders or files of tests")
    parser.add_argument("--sample", type=int, default=12, help="mutants of a module of mean size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "mutants")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    modules = [path for named in asked.only for path in _modules(named)]
    mutants = drawn(modules, asked.sample, asked.seed)
    for name in HEAVY:
        __import__(name)
    baselines = _baselines(asked.judges, asked.out, asked.workers)
    judged = _judged(asked.out, mutants, baselines, asked.workers)
    for one in judged:
        if one.killer is None:
            print(f"survived  {one.name} line {one.line}: {one.before}  ->  {one.after}")
    print("\n" + header("folder", "mutants", "killed", "share"))
    by_folder: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        by_folder[one.name.rpartition("/")[0]].append(one)
    for folder, found in sorted(by_folder.items()):
        killed = sum(one.killer is not None for one in found)
        print(row(folder, len(found), killed, f"{killed / len(found):.0%}"))
    killed = sum(one.killer is not None for one in judged)
    share = killed / max(1, len(judged))
    print(row("all", len(judged), killed, f"{share:.1%}"))
    end([claim("mutants killed", share, "share", TARGET, share >= TARGET)])


def drawn(modules: list[Path], sample: int, seed: int) -> list[Mutant]:
    """A number of changes of each module, in proportion to how many it has; `sample` on the
    mean.
    """
    changes = {path: list(mutants_of(path)) for path in modules}
    total = sum(map(len, changes.values()))
    found: list[Mutant] = []
    for path, possible in changes.items():
        share = round(sample * len(modules) * len(possible) / max(1, total))
        rng = random.Random(f"{seed}/{path.relative_to(PACKAGE)}")
        found += rng.sample(possible, min(len(possible), max(1, share)))
    return found


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every change of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = str(path.relative_to(PACKAGE))
    statements = _statements(tree)
    called = frozenset().union(*(lines for lines, inside in statements if inside))
    for number, (node, changed) in enumerate(_changes(tree)):
        around = [found for found in statements if node.lineno in found[0]]
        lines, inside = min(around, key=lambda found: len(found[0]))
        yield Mutant(
            module=module,
            number=number,
            line=node.lineno,
            # Imports execute what stands outside of functions, whether it is used or not.
            executed=lines if inside or not called else called,
            before=ast.unparse(node),
            after=ast.unparse(changed) if changed else "nothing",
        )


def mutated(path: Path, number: int) -> str:
    """The source of a module with one of its changes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node, changed = list(_changes(tree))[number]
    swap = _Swap(node, changed or ast.copy_location(ast.Pass(), node))
    return ast.unparse(ast.fix_missing_locations(swap.visit(tree)))


def _statements(tree: ast.AST, inside: bool = False) -> list[tuple[frozenset[int], bool]]:
    """Of every statement the lines (of one with a body: its head), and whether a call executes
    it.
    """
    found: list[tuple[frozenset[int], bool]] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
            found.append((frozenset(range(node.lineno, last + 1)), inside))
        called = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        found += _statements(node, called)
    return found


class _Swap(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """The new node for the old one."""
        return self._new if node is self._old else self.generic_visit(node)


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST | None]]:
    """Nodes and what replaces them; None: the statement is left out."""
    for node in _judgeable(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            for turned in TURNED.get(type(node.ops[0]), []):
                yield node, _with(node, ops=[turned()])
        elif isinstance(node, ast.BinOp) and type(node.op) in REPLACED:
            if not any(_is_text(side) for side in (node.left, node.right)):
                yield node, _with(node, op=REPLACED[type(node.op)]())
        elif isinstance(node, ast.AugAssign):
            if type(node.op) in REPLACED:
                yield node, _with(node, op=REPLACED[type(node.op)]())
            yield node, None
        elif isinstance(node, ast.BoolOp):
            yield node, _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield node, node.operand
        elif isinstance(node, ast.IfExp | ast.If | ast.While):
            negated = ast.UnaryOp(ast.Not(), node.test)
            yield node.test, ast.copy_location(negated, node.test)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, _with(node, value=_other(node.value))
        elif isinstance(node, ast.Call):
            if changed := _other_function(node.func):
                yield node, _with(node, func=changed)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, None


def _judgeable(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but texts, annotations, messages, and arguments that are left out."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.JoinedStr):
                continue
            if isinstance(child, ast.keyword) and child.arg in LEFT_OUT:
                continue
            if isinstance(node, ast.Dict) and name == "values" and _is_left_out(node, child):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield child
            yield from _judgeable(child)


def _is_left_out(options: ast.Dict, value: ast.AST) -> bool:
    """Whether a value of a dictionary is such an argument."""
    key = options.keys[[id(one) for one in options.values].index(id(value))]
    return isinstance(key, ast.Constant) and key.value in LEFT_OUT


def _with(node: ast.AST, **changes: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _other(value: float) -> float:
    """Another constant: of a small number the next one, since one more of many is no fault."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int) and value < 10:
        return value + 1
    return value * 2 if value else 1.0


def _other_function(called: ast.expr) -> ast.expr | None:
    if isinstance(called, ast.Name) and called.id in SWAPPED:
        return ast.copy_location(ast.Name(SWAPPED[called.id], ast.Load()), called)
    if isinstance(called, ast.Attribute) and called.attr in SWAPPED:
        return _with(called, attr=SWAPPED[called.attr])  # type: ignore[return-value]
    return None


def _modules(named: str) -> list[Path]:
    path = PACKAGE / named
    if path.is_file():
        return [path]
    found = sorted(path.rglob("*.py"))
    if not found:
        sys.exit(f"{named}: no module or folder of {PACKAGE}")
    return found


def _baselines(judges: Iterable[str], out: Path, workers: int) -> list[Baseline]:
    """Of every test file of these folders, run once; not those in `baseline.jsonl`."""
    file = out / "baseline.jsonl"
    known = {one["test"]: Baseline(**one) for one in _lines(file)}
    tests = [
        str(path.relative_to(ROOT))
        for named in judges
        for path in ([TESTS / named] if named.endswith(".py") else _tests(TESTS / named))
    ]

    def measure(test: str) -> Baseline:
        place = out / "covered" / test.replace("/", ".")
        started = time.monotonic()
        failed = _run(lambda: _covered(test, place), limit=3600.0)
        if failed:
            sys.exit(f"{test} fails on the source as it stands")
        seconds = time.monotonic() - started
        found = Baseline(
            test=test, seconds=seconds, lines=json.loads(place.read_text(encoding="utf-8"))
        )
        _append(file, asdict(found))
        print(f"{seconds:6.1f} s  {test}", flush=True)
        return found

    missing = [test for test in tests if test not in known]
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(measure, missing):
            known[found.test] = found
    return [known[test] for test in tests]


def _tests(folder: Path) -> list[Path]:
    return sorted(folder.rglob("test_*.py"))


def _judged(
    out: Path, mutants: list[Mutant], baselines: list[Baseline], workers: int
) -> list[Judged]:
    """What became of each; those in `judged.jsonl` are not run again."""
    file = out / "judged.jsonl"
    known = {one["name"]: Judged(**one) for one in _lines(file)}

    def judge(mutant: Mutant) -> Judged:
        killer = _killer(out, mutant, baselines)
        found = Judged(
            name=mutant.name,
            line=mutant.line,
            before=mutant.before,
            after=mutant.after,
            killer=killer,
        )
        _append(file, asdict(found))
        said = f"killed by {killer}" if killer else "SURVIVED"
        print(f"{mutant.name}: {mutant.before}  ->  {mutant.after}: {said}", flush=True)
        return found

    missing = [mutant for mutant in mutants if mutant.name not in known]
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(judge, missing):
            known[found.name] = found
    return [known[mutant.name] for mutant in mutants]


def _killer(out: Path, mutant: Mutant, baselines: list[Baseline]) -> str | None:
    """The first test file that fails."""
    own = f"test_{Path(mutant.module).stem}.py"
    meeting = [one for one in baselines if mutant.executed & set(one.lines.get(mutant.module, []))]
    meeting.sort(key=lambda one: (Path(one.test).name != own, one.seconds))
    source = _overlay(out / "sources" / mutant.name.replace("/", ".").replace(":", "."), mutant)
    for one in meeting:
        limit = max(LEAST, PATIENCE * one.seconds)
        if _run(lambda test=one.test: _pytest(test, source), limit):
            return one.test
    return None


def _overlay(folder: Path, mutant: Mutant) -> Path:
    """A copy of the source, by links, in which one module is the mutant."""
    for path in PACKAGE.rglob("*"):
        if path.suffix == ".pyc" or path.is_dir():
            continue
        copied = folder / path.relative_to(SOURCE)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.unlink(missing_ok=True)
        if str(path.relative_to(PACKAGE)) == mutant.module:
            copied.write_text(mutated(path, mutant.number), encoding="utf-8")
        else:
            copied.symlink_to(path)
    return folder


def _covered(test: str, place: Path) -> int:
    """Run a test file, and write which lines of which modules it executes."""
    from coverage import Coverage

    place.parent.mkdir(parents=True, exist_ok=True)
    watch = Coverage(data_file=None, source=[str(PACKAGE)])
    watch.start()
    failed = _pytest(test, SOURCE)
    watch.stop()
    data = watch.get_data()
    lines = {
        str(Path(name).relative_to(PACKAGE)): sorted(data.lines(name) or [])
        for name in data.measured_files()
    }
    place.write_text(json.dumps(lines), encoding="utf-8")
    return failed


def _pytest(test: str, source: Path) -> int:
    """Run a test file on a source; its exit code."""
    import pytest

    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = str(source)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    os.chdir(ROOT)
    return int(pytest.main(["-x", "-p", "no:cacheprovider", "--no-header", "--tb=no", test]))


def _run(task: Callable[[], int], limit: float) -> bool:
    """Whether a task fails, or takes too long, in a process of its own, with all that it starts."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            os.setsid()
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(silent, stream)
            code = task()
        os._exit(code)
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _lines(file: Path) -> list[dict]:
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if file.exists()
        else []
    )


def _append(file: Path, found: dict) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
