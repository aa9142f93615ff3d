"""Bits per byte: of any text, and of answers given their questions.

Of small models this says most: where every choice of an exam is guessed, it still falls with size
and with tokens. It counts bytes of text, so models with different tokenizers compare.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from windtunnel.data.conversations import conversations, messages_of
from windtunnel.data.formats import Malformed
from windtunnel.data.readers import Taken, accepted, items, records
from windtunnel.data.shards import Corpus, TokenStream
from windtunnel.errors import InputError
from windtunnel.evaluate.model import Done, Evaluated, Pair
from windtunnel.evaluate.scores import BITS, item_id, of_items
from windtunnel.evaluate.template import Template
from windtunnel.results.evaluation import Measure

_FEWEST = 30  # texts, for a standard error over them; fewer are cut into blocks
_BLOCK = 4000  # characters of a block, at most
_QUESTION = ("question", "prompt", "problem", "instruction")
_ANSWER = ("answer", "solution", "canonical_solution", "completion", "output", "response")


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is scored as one item."""

    text: str
    before: str = ""
    """What the model reads first, and is not scored on; empty of a plain text."""
    question: str = ""
    """The same before a chat template wrote it, so that models that have others are compared."""

    @property
    def id(self) -> str:
        """Names the item."""
        return item_id(f"{self.question}\0{self.text}")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Items that make up one score."""

    name: str
    digest: str
    """Of all that they say."""
    texts: list[Text]


def of_files(name: str, path: str | Path, limit: int | None = None) -> Texts:
    """The documents under a path, in any format that corpora are read from. Raises InputError."""
    read = islice(accepted(items(path), str(path)), limit)
    return _texts(name, [Text(text=text) for text in _in_blocks(list(read))])


def of_corpus(corpus: Corpus, limit: int | None = None) -> list[Texts]:
    """The held-out documents of each source. Raises InputError where there are none."""
    found = []
    for source in corpus.sources.values():
        held = list(islice(_documents(corpus, source.validation), limit))
        if held:
            name = f"{corpus.folder.name}/{source.name}"
            found.append(_texts(name, [Text(text=text) for text in _in_blocks(held)]))
    if not found:
        raise InputError(f"{corpus.folder}: no source holds out a document")
    return found


def of_solutions(path: Path, template: Template | None, limit: int | None = None) -> Texts:
    """Answers given their questions, from records of {question, answer} by these or the usual other
    names, or from conversations, of which the last answer counts; `template`: how a conversation is
    written, else a question is a line before its answer. Raises InputError.
    """
    found = []
    for question, answer in islice(_solutions(path), limit):
        if template:
            before = template([{"role": "user", "content": question}])
        else:
            before = question if question[-1:].isspace() else f"{question}\n"
        found.append(Text(text=answer, before=before, question=question))
    if not found:
        raise InputError(f"{path}: no answer found; expected records of a question and its answer")
    return _texts(path.name, found)


def bits_per_byte(
    model: Evaluated, texts: Texts, marked: bool, done: Done
) -> tuple[list[str], Measure]:
    """The items by their ids, and their score; `marked`: what stands before a text was written by a
    chat template, with special tokens.
    """
    pairs: list[Pair] = []
    of_text: list[int] = []
    encoded = _encoded(model, texts.texts, marked)
    for number, (context, ids) in enumerate(encoded):
        # an answer keeps half of the context for its question
        for pair in pieces(context, ids, model.context, half=bool(texts.texts[number].before)):
            pairs.append(pair)
            of_text.append(number)
    bits = np.zeros(len(texts.texts))
    found = model.likelihoods(pairs, done)
    np.add.at(bits, of_text, [-one.nats / math.log(2) for one in found])
    sizes = [len(one.text.encode("utf-8", "surrogatepass")) for one in texts.texts]
    return [one.id for one in texts.texts], of_items(
        BITS, bits.tolist(), weights=sizes, higher_is_better=False
    )


def pieces(
    context: Sequence[int], ids: Sequence[int], most: int, half: bool = False
) -> Iterator[Pair]:
    """Of tokens behind a context, pairs of at most `most` + 1 tokens that score each of them once,
    the last with as much before it as there is room for; `half`: of a text that is too long, half
    of the room is for what stands before. (`context` of one token: as lm-eval's rolling windows.)
    """
    whole = [*context, *ids]
    each = most // 2 if half and len(whole) > most + 1 else most
    for start in range(0, len(ids), each):
        end = min(start + each, len(ids))
        at = len(context) + start
        room = most + 1 - (end - start)
        before = whole[max(0, at - room) : at]
        yield Pair(tuple(before), tuple(ids[start:end]))


def _encoded(
    model: Evaluated, texts: Sequence[Text], marked: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """What stands before each text, and the text, as ids."""
    alone = model.encode_plain([one.text for one in texts])
    if marked:
        before = [model.encode(one.before, around=False) if one.before else [] for one in texts]
        together = [[] for _ in texts]
    else:
        before = model.encode_plain([one.before for one in texts])
        together = model.encode_plain([one.before + one.text for one in texts])
    for context, text, both in zip(before, alone, together, strict=True):
        # where a word does not reach over the line between them, as it was in training
        if context and both[: len(context)] == context:
            text = both[len(context) :]
        yield (context if context[:1] == [model.prefix] else [model.prefix, *context]), text


def _texts(name: str, texts: list[Text]) -> Texts:
    return Texts(name=name, digest=item_id(" ".join(one.id for one in texts)), texts=texts)


def _in_blocks(texts: list[str]) -> list[str]:
    """The texts, or where they are few, blocks of their lines, each an item of its own."""
    if len(texts) >= _FEWEST:
        return texts
    blocks: list[str] = []
    for text in texts:
        block = ""
        for line in text.splitlines(keepends=True):
            for start in range(0, len(line), _BLOCK):
                part = line[start : start + _BLOCK]
                if block and len(block) + len(part) > _BLOCK:
                    blocks.append(block)
                    block = ""
                block += part
        if block.strip():
            blocks.append(block)
    return blocks


def _documents(corpus: Corpus, stream: TokenStream) -> Iterator[str]:
    ends = [*stream.starts[1:].tolist(), stream.tokens]
    for start, end in zip(stream.starts.tolist(), ends, strict=True):
        ids = stream.read(np.array([start]), end - start)[0]
        text = corpus.tokenizer.decode(ids[ids != corpus.document_end])
        if text.strip():
            yield text


def _solutions(path: Path) -> Iterator[tuple[str, str]]:
    for record in records(path):
        if isinstance(record, Taken):
            continue
        if isinstance(record, Malformed):
            raise InputError(f"{record.where}: {record.why}")
        found = _solution(record.value)
        if found is None:
            # other shapes are those of conversations
            yield from _answered(path)
            return
        question, answer = found
        if not answer.strip():
            raise InputError(f"{record.where}: the answer is empty")
        yield question, answer


def _solution(value: object) -> tuple[str, str] | None:
    """The question and the answer of a record that names them."""
    if not isinstance(value, dict):
        return None
    question = next((value[key] for key in _QUESTION if isinstance(value.get(key), str)), None)
    answer = next((value[key] for key in _ANSWER if isinstance(value.get(key), str)), None)
    if question is None or answer is None or not question:
        return None
    return question, answer


def _answered(path: Path) -> Iterator[tuple[str, str]]:
    for text in accepted(conversations([path]), str(path)):
        *before, last = messages_of(text)
        if last["role"] == "assistant" and before:
            yield "\n".join(message["content"] for message in before), last["content"]
