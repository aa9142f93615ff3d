"""Conversations beside text: linked and not copied, numbered, weighed like any source, refused
where they do not fit.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from chats import write_chats

from windtunnel.data.chat import build_chat
from windtunnel.data.join import join, with_conversations
from windtunnel.data.shards import Corpus
from windtunnel.data.windows import Windows
from windtunnel.errors import InputError
from windtunnel.recipe import OBJECTIVES, Data
from windtunnel.train.objective import Batch

CONTEXT = 32


@pytest.fixture(scope="module")
def joined(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("joined")
    data = write_chats(folder / "chats.jsonl")
    return with_conversations(folder / "corpora", corpus, {"said": [data]}, CONTEXT)


def windows_of(corpus: Corpus, **mixture: float) -> Windows:
    data = {"corpus": "x", "context": CONTEXT, "mixture": mixture, "mask_documents": True}
    return Windows(corpus, Data.model_validate(data), 0)


def test_it_holds_the_sources_of_both(joined: Corpus, corpus: Corpus) -> None:
    assert list(joined.sources) == [*corpus.sources, "said"]
    assert joined.holds == "conversations" and joined.document_end == -1
    for name, source in corpus.sources.items():
        assert joined.sources[name].train.tokens == source.train.tokens
    mine, theirs = (one.folder / "prose/train-00000.bin" for one in (joined, corpus))
    assert mine.stat().st_ino == theirs.stat().st_ino, "a link, and no copy"
    again = Corpus.open(joined.folder, rehash=True)
    assert again.digest == joined.digest


def test_a_texts_documents_are_numbered_too(joined: Corpus, corpus: Corpus) -> None:
    """Attention stays within each, as it does by the end tokens of a corpus of text alone."""
    theirs = Batch.read(torch.from_numpy(windows_of(corpus, prose=1).read(0, 20 * CONTEXT)))
    mine = Batch.read(torch.from_numpy(windows_of(joined, prose=1).read(0, 20 * CONTEXT)))
    assert torch.equal(mine.inputs, theirs.inputs) and torch.equal(mine.targets, theirs.targets)
    assert mine.marked.all(), "every token of a text is learnt"
    apart = [one.documents(end) for one, end in ((mine, -1), (theirs, corpus.document_end))]
    assert apart[0] is not None and apart[1] is not None
    assert torch.equal(apart[0].diff() != 0, apart[1].diff() != 0)


def test_the_mixture_weighs_them(joined: Corpus) -> None:
    windows = windows_of(joined, prose=0.7, said=0.3)
    source, _ = windows.order.at(0, 1000)
    shares = np.bincount(source, minlength=4) / 1000
    assert shares == pytest.approx([0.7, 0, 0, 0.3], abs=0.01)
    batch = Batch.read(torch.from_numpy(windows.read(0, 200 * CONTEXT)))
    of_chats = torch.from_numpy(source[:200] == 3)
    learnt = OBJECTIVES["answers"].learnt(batch.marked)
    assert learnt[~of_chats].all() and 0 < learnt[of_chats].float().mean() < 0.7
    assert OBJECTIVES["next-token"].learnt(batch.marked).all()


def test_asked_again_it_is_found(joined: Corpus, corpus: Corpus) -> None:
    chats = next(joined.folder.parent.glob("chats-*"))
    stamp = (joined.folder / "manifest.json").stat().st_mtime_ns
    again = join(joined.folder.parent, corpus, {"said": Corpus.open(chats)})
    assert again.folder == joined.folder
    assert (again.folder / "manifest.json").stat().st_mtime_ns == stamp


def test_what_does_not_fit_is_refused(joined: Corpus, corpus: Corpus, tmp_path: Path) -> None:
    chats = Corpus.open(next(joined.folder.parent.glob("chats-*")))
    with pytest.raises(InputError, match=r"'prose' is a source of .* already"):
        join(tmp_path, corpus, {"prose": chats})
    with pytest.raises(InputError, match="expected a corpus of text"):
        join(tmp_path, joined, {"more": chats})
    definition = json.loads((corpus.folder / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition, indent=3))
    data = write_chats(tmp_path / "chats.jsonl")
    other = build_chat(tmp_path, [data], tmp_path / "tokenizer.json", CONTEXT)
    with pytest.raises(InputError, match="its tokenizer is not that of"):
        join(tmp_path, corpus, {"said": other})
    longer = build_chat(tmp_path, [data], corpus.folder / "tokenizer.json", 2 * CONTEXT)
    with pytest.raises(InputError, match="windows of 32 and 64 tokens cannot be joined"):
        join(tmp_path, corpus, {"said": chats, "more": longer})
