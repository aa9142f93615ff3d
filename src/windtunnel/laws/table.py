"""Anybody's table of trained models: columns by the names that people give them, numbers as people
write them.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

# Our names of columns, and others' for the same thing; case, spaces and punctuation don't count.
_NAMES = {
    "params": (
        *("n", "params", "parameters", "nparams", "numparams", "numparameters", "modelsize"),
        *(
            "modelparams",
            "paramcount",
            "size",
            "paramsnonemb",
            "paramsnonembedding",
            "nonembparams",
        ),
        *("nonembeddingparams", "nonembeddingparameters"),
        *("paramsactive", "activeparams"),
    ),
    "params_with_head": ("paramswithhead",),
    "params_total": ("paramstotal", "totalparams", "totalparameters", "ntotal"),
    "tokens": (
        *("d", "tokens", "numtokens", "ntokens", "traintokens", "trainingtokens", "tokensseen"),
        *("datasize", "datasetsize", "trainedtokens", "totaltokens"),
    ),
    "loss": (
        *("l", "loss", "valloss", "validationloss", "evalloss", "testloss", "finalloss"),
        *(
            "finalvalloss",
            "trainloss",
            "trainingloss",
            "crossentropy",
            "crossentropyloss",
            "celoss",
        ),
        *("ce", "nll", "nats", "lossnats"),
    ),
    "flops": ("c", "flops", "flop", "compute", "trainflops", "trainingflops", "trainingflop"),
    "source": ("source", "dataset", "corpus", "domain"),
}
_OURS = {theirs: ours for ours, names in _NAMES.items() for theirs in names}
# What is measured in another unit, and how it becomes nats a token.
_NOT_NATS = {
    **dict.fromkeys(
        ("ppl", "perplexity", "valppl", "valperplexity", "evalppl", "testppl", "testperplexity"),
        "a perplexity is e^loss, so take its natural logarithm",
    ),
    **dict.fromkeys(
        ("bpb", "bitsperbyte", "valbpb", "bpc", "bitsperchar", "bitspercharacter"),
        "bits are of a byte or a character of text, and laws are of tokens",
    ),
    **dict.fromkeys(
        ("bits", "bitspertoken", "bpt", "lossbits"),
        "a nat is 1.4427 bits, so multiply by 0.6931",
    ),
}
_DELIMITERS = (",", ";", "\t")
_TIMES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "bn": 1e9, "t": 1e12, "tn": 1e12}
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z]{0,2})", re.IGNORECASE)
# Digits in groups of three: 47,557,632 or 47 557 632 or 47'557'632 or 47.557.632.
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:([,.'\s_])\d{3})(?:\1\d{3})*")


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table with a header, its columns separated by commas, semicolons, tabs or
    spaces; what is known by another name has ours (params, params_with_head, params_total,
    tokens, loss, flops, source), and every other column its own. Raises ValueError where the file
    is no table, or where two columns could be the same thing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such table") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable table: {error}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return []
    try:
        header, *rows = _split(lines)
    except csv.Error as error:
        raise ValueError(f"{path}: not a readable table: {error}") from None
    names = _named(header, str(path))
    for number, row in enumerate(rows, 2):
        if len(row) > len(names):
            raise ValueError(
                f"{path}: line {number} has {len(row)} columns, and the header {len(names)}"
            )
    return [dict(zip(names, row + [""] * (len(names) - len(row)), strict=True)) for row in rows]


def other_unit(name: str, columns: Iterable[str]) -> str:
    """Of a column that is not there, which one holds the same in another unit, and what to do; or
    nothing.
    """
    if name != "loss":
        return ""
    for column in columns:
        if advice := _NOT_NATS.get(_plain(column)):
            return f"; {column} is not a loss in nats a token: {advice}"
    return ""


def number(text: str, name: str) -> float:
    """A positive number as people write it: 47.6M, 1.2e9, 47,557,632, 2.1 B. A single comma is a
    decimal one in a loss. Raises ValueError.
    """
    plain = text.strip()
    grouped = _GROUPED.fullmatch(plain)
    if name == "loss":
        plain = plain.replace(",", ".")
    elif grouped and not (grouped[1] == "." and plain.count(".") == 1):
        plain = plain.replace(grouped[1], "")
    else:
        plain = plain.replace(",", ".").replace("_", "")
    found = _NUMBER.fullmatch(plain)
    if not found or found[2].lower() not in _TIMES:
        raise ValueError(f"{name} is {text!r}; expected a positive number, such as 47.6M")
    value = float(found[1]) * _TIMES[found[2].lower()]
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {text!r}; expected a positive number")
    return value


def _split(lines: list[str]) -> list[list[str]]:
    """The cells of each line, by the separator that the header has most of; spaces if it has
    none.
    """
    header = lines[0].lstrip("# ")
    counts = {delimiter: header.count(delimiter) for delimiter in _DELIMITERS}
    most = max(counts, key=lambda delimiter: counts[delimiter])
    if not counts[most]:
        return [line.split() for line in (header, *lines[1:])]
    text = io.StringIO("\n".join((header, *lines[1:])))
    cells = csv.reader(text, delimiter=most, skipinitialspace=True, strict=True)
    return [[cell.strip() for cell in row] for row in cells]


def _named(header: list[str], where: str) -> list[str]:
    """Our names of the columns. One that has our name already is meant; else two that could have
    it are an error.
    """
    known = {column: _OURS.get(_plain(column), column) for column in header}
    counts = Counter(known[column] for column in header)
    for ours, count in counts.items():
        theirs = [column for column in header if known[column] == ours]
        if count == 1 or ours == "":
            continue
        if theirs.count(ours) != 1:
            raise ValueError(f"{where}: columns {' and '.join(theirs)} could both be {ours}")
        for column in theirs:
            known[column] = column
    return [known[column] for column in header]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
