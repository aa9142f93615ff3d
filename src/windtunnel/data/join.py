"""A corpus of text and of conversations: the sources of a text corpus, and conversations beside
them as sources like any other. Nothing is copied: the files are hard links to those of the corpora
that are joined.

A text's windows then also number their documents, as those of conversations do, so that attention
can stay within each.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from windtunnel.data.chat import build_chat
from windtunnel.data.readers import Progress
from windtunnel.data.shards import Corpus, Manifest, Shard, SourceEntry, Split, appearing
from windtunnel.errors import InputError
from windtunnel.files import write_whole


def join(corpora: Path, text: Corpus, added: Mapping[str, Corpus]) -> Corpus:
    """The corpus, in the folder `corpora`, of `text` and of corpora of conversations, whose one
    source is called by the name that it has here. Asking for it again finds it. Raises InputError
    for another tokenizer, a name that is taken, and windows of different lengths.
    """
    packings = [corpus.manifest.packing for corpus in added.values()]
    if text.holds != "text" or not packings or not all(packings):
        raise InputError(f"{text.folder}: expected a corpus of text to add conversations to")
    contexts = {packing.context for packing in packings if packing}
    if len(contexts) > 1:
        listed = " and ".join(map(str, sorted(contexts)))
        raise InputError(f"conversations packed into windows of {listed} tokens cannot be joined")
    for name, corpus in added.items():
        if name in text.sources:
            raise InputError(f"'{name}' is a source of {text.folder} already: choose another name")
        if corpus.manifest.tokenizer_sha256 != text.manifest.tokenizer_sha256:
            raise InputError(f"{corpus.folder}: its tokenizer is not that of {text.folder}")
    parts = [text.digest, *(f"{name} {corpus.digest}" for name, corpus in added.items())]
    fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    folder = corpora / f"{text.folder.name}+{'+'.join(added)}-{fingerprint[:8]}"
    if not (folder / "manifest.json").exists():
        _write(folder, fingerprint, text, added)
    return Corpus.open(folder)


def with_conversations(
    corpora: Path,
    text: Corpus,
    files: Mapping[str, Sequence[str | Path]],
    context: int,
    max_bad: float = 0.01,
    progress: Progress | None = None,
) -> Corpus:
    """`text` and conversations out of files, by the name that each source shall have, packed into
    windows of `context` tokens. Raises InputError as `join` and `build_chat` do.
    """
    tokenizer = text.folder / "tokenizer.json"
    added = {
        name: build_chat(corpora, data, tokenizer, context, max_bad, progress)
        for name, data in files.items()
    }
    return join(corpora, text, added)


def _write(folder: Path, fingerprint: str, text: Corpus, added: Mapping[str, Corpus]) -> None:
    """Write the corpus's folder, which appears whole. Raises InputError."""
    sources = dict(text.manifest.sources)
    places = {name: (text, name) for name in sources}
    for name, corpus in added.items():
        ((own, entry),) = corpus.manifest.sources.items()
        sources[name] = _renamed(entry, own, name)
        places[name] = (corpus, own)
    packing = next(iter(added.values())).manifest.packing
    manifest: Manifest = replace(
        text.manifest, fingerprint=fingerprint, sources=sources, packing=packing
    )
    with appearing(folder) as part:
        text.tokenizer.keep(part)
        for name, (corpus, own) in places.items():
            shutil.copytree(
                corpus.folder / own, part / name, copy_function=_link, dirs_exist_ok=True
            )
        write_whole(part / "manifest.json", manifest.to_json())


def _link(source: str, target: str) -> None:
    """A second name of the same file; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _renamed(entry: SourceEntry, own: str, name: str) -> SourceEntry:
    """The entry with its files in another folder."""

    def moved(split: Split) -> Split:
        return replace(split, shards=tuple(_moved(shard, own, name) for shard in split.shards))

    return replace(entry, train=moved(entry.train), validation=moved(entry.validation))


def _moved(shard: Shard, own: str, name: str) -> Shard:
    files = {}
    for field in ("file", "offsets", "learnt"):
        path = getattr(shard, field)
        files[field] = path and name + path.removeprefix(own)
    return replace(shard, **files)
