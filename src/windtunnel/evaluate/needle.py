"""Whether a model uses what is far away: questions about long texts by length and depth, and how
many bits a byte a text's distant beginning saves.

A question counts as answered where every token of the answer is the likeliest after all before it,
which is what it would say.
"""

import hashlib
import math
import pydoc_data.topics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from windtunnel.data.questions import QUESTIONS, Ids, Place, filler_from
from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.evaluate.model import Done, Evaluated, Pair
from windtunnel.evaluate.scores import BITS, of_items
from windtunnel.results.evaluation import Measure

RIGHT = "exact_match"
SAVED = "bits_per_byte_saved"
NEAR = 256
"""Tokens that remain where the distant ones are taken away."""
_SCORED = 64  # tokens of a document at each position


@dataclass(frozen=True, kw_only=True)
class Far:
    """What is asked about what is far away."""

    lengths: tuple[int, ...]
    """Tokens of a text with its question; the positions in documents are these as well."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    each: int = 8
    """Questions of a kind at each length and depth."""
    documents: int = 64
    """Of a corpus, at most, at each position."""
    kinds: tuple[str, ...] = tuple(QUESTIONS)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question of those that were asked."""

    id: str
    """Its length, depth and number, such as `4096@0.25#3`."""
    pair: Pair


def check(model: Evaluated, far: Far) -> None:
    """Raises InputError for a length that the model was not made for."""
    if (longest := max(far.lengths)) > model.context:
        raise InputError(
            f"--far {longest}: {model.name} was made for {model.context} tokens; expected no more"
        )


def answered(model: Evaluated, kind: str, far: Far, done: Done) -> tuple[list[str], list[Measure]]:
    """The questions of a kind by their ids, and the share that is answered: over all, and at each
    length and depth. Raises InputError.
    """
    check(model, far)
    asked = list(_questions(model, kind, far))
    found = model.likelihoods([one.pair for one in asked], done)
    right = {one.id: float(likely.greedy) for one, likely in zip(asked, found, strict=True)}
    measures = [of_items(RIGHT, list(right.values()))]
    for length in far.lengths:
        for depth in far.depths:
            place = f"{length}@{depth:g}"
            values = [value for id, value in right.items() if id.startswith(f"{place}#")]
            measure = of_items(RIGHT, values, filter=place)
            # the items are those of this place alone, which `values` could not say
            measures.append(measure.model_copy(update={"values": None, "weights": None}))
    return list(right), measures


def saved(
    model: Evaluated, corpus: Corpus, far: Far, done: Done
) -> tuple[list[str], list[Measure]]:
    """Held-out documents by their ids, and at each position the bits a byte with all that comes
    before it, with the last `NEAR` tokens alone, and what the distant ones save. A position that no
    document reaches has none. Raises InputError.
    """
    check(model, far)
    documents = _documents(corpus, max(far.lengths))
    ids: list[str] = []
    measures: list[Measure] = []
    for position in far.lengths:
        start = position - _SCORED
        long = [one for one in documents if len(one[1]) >= position][: far.documents]
        if start <= NEAR or not long:
            done(2 * len(long))
            continue
        whole, near, sizes = [], [], []
        for _, tokens in long:
            scored = tuple(tokens[start:position].tolist())
            whole.append(Pair(tuple(tokens[:start].tolist()), scored))
            near.append(Pair(tuple(tokens[start - NEAR : start].tolist()), scored))
            sizes.append(float(corpus.tokenizer.token_bytes[list(scored)].sum()))
        found = model.likelihoods([*whole, *near], done)
        bits = np.array([-one.nats / math.log(2) for one in found]).reshape(2, -1)
        for metric, values, name in (
            (BITS, bits[0], "all before"),
            (BITS, bits[1], f"the last {NEAR}"),
            (SAVED, bits[1] - bits[0], "all before"),
        ):
            measure = of_items(
                metric,
                values.tolist(),
                filter=f"{position}, {name}",
                weights=sizes,
                higher_is_better=metric == SAVED,
            )
            measures.append(measure.model_copy(update={"values": None, "weights": None}))
        ids += [f"{position}#{name}" for name, _ in long]
    return ids, measures


def digest_of(far: Far, corpus: Corpus | None = None) -> str:
    """Names all that decides the questions, and the documents."""
    said = f"{far} {corpus.digest if corpus else hashlib.sha256(_TEXT.encode()).hexdigest()}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]


# Text that questions stand in: the same for every model, wherever it comes from.
_TEXT = "\n".join(pydoc_data.topics.topics.values())


def _questions(model: Evaluated, kind: str, far: Far) -> Iterator[Asked]:
    def encode(text: str) -> Ids:
        return np.array(model.encode_plain([text])[0], np.int64)

    text = encode(_TEXT)
    for length in far.lengths:
        for depth in far.depths:
            for number in range(far.each):
                # of numbers alone, so that another length or depth changes no other question
                rng = np.random.default_rng([far.seed, length, round(1000 * depth), number])
                place = Place(
                    encode=encode,
                    length=length,
                    depth=depth,
                    filler=filler_from(text, rng),
                    rng=rng,
                )
                try:
                    question = QUESTIONS[kind].make(place)
                except ValueError as error:
                    raise InputError(f"--far {length}: {kind}: {error}") from None
                ids = question.ids.tolist()
                pair = Pair(tuple(ids[: -question.answer]), tuple(ids[-question.answer :]))
                yield Asked(id=f"{length}@{depth:g}#{number}", pair=pair)


def _documents(corpus: Corpus, longest: int) -> Sequence[tuple[str, np.ndarray]]:
    """Held-out documents, each by its source and number, up to so many tokens of them, the longest
    first.
    """
    found = []
    for name, source in corpus.sources.items():
        stream = source.validation
        starts = [*stream.starts.tolist(), stream.tokens]
        for number, (start, end) in enumerate(pairwise(starts)):
            if end - start > NEAR:
                tokens = stream.read(np.array([start]), min(longest, end - start))[0]
                found.append((f"{name}/{number}", tokens))
    return sorted(found, key=lambda one: (-len(one[1]), one[0]))
