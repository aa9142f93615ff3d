"""Long questions that are made by a seed: something stands in a long text and is asked for at its
end. They train a model to use what is far away, and measure whether it does.

| question  | what stands in the text               | what is asked for          |
|-----------|---------------------------------------|----------------------------|
| passkey   | a number of five digits, once         | the number                 |
| number    | a number of ten digits, once          | the number                 |
| needles   | eight numbers, each with a name       | the number of one name     |
| key-value | nothing but lines of keys and values  | the value of one key       |
| counting  | a mark, one to nine times             | how often                  |

The text around is the corpus's own, but for key-value. To add one, add its record to `QUESTIONS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from windtunnel.choices import Table

_NAMES = "amber basil cedar delta ember fern gold hazel iris jade kelp lilac maple nectar olive"
_NEEDLES = 8
_MARKS = 9

Ids = NDArray[np.int64]
# So many tokens of text that nothing is asked about.
Filler = Callable[[int], Ids]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A text with its question and answer."""

    ids: Ids
    """All its tokens; the answer is the last of them."""
    answer: int
    """How many tokens the answer has."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and of what a question is made."""

    encode: Callable[[str], Ids]
    """The ids of a piece of text."""
    length: int
    """Tokens of the whole, which it has exactly."""
    depth: float
    """Where what is asked for stands: 0 at the beginning, 1 just before the question."""
    filler: Filler
    rng: Generator

    def digits(self, count: int) -> str:
        """A random number of so many digits."""
        return "".join(map(str, self.rng.integers(0, 10, count)))


@dataclass(frozen=True, kw_only=True)
class QuestionKind:
    """One kind of question."""

    name: str
    help: str
    make: Callable[[Place], Question]
    """Raises ValueError where the length has no room for it."""
    anywhere: bool = True
    """Whether the depth says where the answer stands."""


def shortest(kind: QuestionKind, encode: Callable[[str], Ids]) -> int:
    """The fewest tokens that have room for it, to a power of two."""
    rng, length = np.random.default_rng(0), 16
    filler = filler_from(np.zeros(1, np.int64), rng)
    while True:
        place = Place(encode=encode, length=length, depth=0.5, filler=filler, rng=rng)
        try:
            kind.make(place)
            return length
        except ValueError:
            length *= 2


def _number(digits: int, what: str) -> Callable[[Place], Question]:
    def make(place: Place) -> Question:
        number = place.digits(digits)
        said = place.encode(f"\nThe {what} is {number}. Remember it: {number} is the {what}.\n")
        asked = place.encode(f"\nWhat is the {what}? The {what} is")
        return _hidden(place, [(place.depth, said)], asked, place.encode(f" {number}."))

    return make


def _needles(place: Place) -> Question:
    names = place.rng.permutation(_NAMES.split())[:_NEEDLES].tolist()
    depths = [place.depth, *place.rng.random(_NEEDLES - 1)]
    numbers = [place.digits(4) for _ in names]
    said = []
    for name, depth, number in zip(names, depths, numbers, strict=True):
        said.append((depth, place.encode(f"\nThe number of {name} is {number}.\n")))
    asked = place.encode(f"\nWhat is the number of {names[0]}? The number of {names[0]} is")
    return _hidden(place, said, asked, place.encode(f" {numbers[0]}."))


def _counting(place: Place) -> Question:
    mark = place.encode("\n(a red flag)\n")
    asked = place.encode("\nHow many red flags are in the text? The number of red flags is")
    room = (place.length - len(asked) - len(place.encode(" 1."))) // len(mark)
    times = int(place.rng.integers(1, min(_MARKS, max(1, room)) + 1))
    said = [(float(depth), mark) for depth in place.rng.random(times)]
    return _hidden(place, said, asked, place.encode(f" {times}."))


def _key_value(place: Place) -> Question:
    key, value = place.digits(4), place.digits(4)
    wanted = place.encode(f"{key}: {value}\n")
    asked = place.encode(f"\nWhat is the value of {key}? The value of {key} is")
    answer = place.encode(f" {value}.")
    room = place.length - len(asked) - len(answer) - len(wanted)
    lines: list[Ids] = []
    held = 0
    while True:
        other = place.digits(4)
        line = place.encode(f"{other}: {place.digits(4)}\n")
        if held + len(line) > room:
            break
        if other != key:
            lines.append(line)
            held += len(line)
    lines.insert(round(place.depth * len(lines)), wanted)
    # what is left over is less than a line
    blank = place.encode("\n")
    lines.insert(0, np.resize(blank, max(0, room - held)))
    return _put_together(place, lines, asked, answer)


def _hidden(place: Place, said: Sequence[tuple[float, Ids]], asked: Ids, answer: Ids) -> Question:
    """The pieces that are `said` in filler, each at its depth, and the question behind."""
    held = sum(len(piece) for _, piece in said) + len(asked) + len(answer)
    filler = place.filler(max(0, place.length - held))
    pieces: list[Ids] = []
    begin = 0
    for depth, piece in sorted(said, key=lambda one: one[0]):
        end = round(depth * len(filler))
        pieces += [filler[begin:end], piece]
        begin = end
    return _put_together(place, [*pieces, filler[begin:]], asked, answer)


def _put_together(place: Place, pieces: Sequence[Ids], asked: Ids, answer: Ids) -> Question:
    ids = np.concatenate([*pieces, asked, answer])
    if len(ids) != place.length:
        raise ValueError(f"{place.length} tokens have no room for a question of {len(ids)}")
    return Question(ids=ids, answer=len(answer))


QUESTIONS = Table(
    "long question",
    [
        QuestionKind(
            name="passkey",
            help="a number of five digits that stands once in the text",
            make=_number(5, "pass key"),
        ),
        QuestionKind(
            name="number",
            help="a number of ten digits that stands once in the text",
            make=_number(10, "long number"),
        ),
        QuestionKind(
            name="needles",
            help="one of eight numbers, each of which stands in the text with a name",
            make=_needles,
        ),
        QuestionKind(
            name="key-value",
            help="the value of one key, out of a text of keys and values",
            make=_key_value,
        ),
        QuestionKind(
            name="counting",
            help="how often a mark stands in the text, one to nine times",
            make=_counting,
            anywhere=False,
        ),
    ],
)


def filler_from(ids: Ids, rng: Generator) -> Filler:
    """Stretches of these tokens, each from a place of its own."""

    def stretch(count: int) -> Ids:
        start = int(rng.integers(0, max(1, len(ids) - count + 1)))
        return np.resize(np.roll(ids, -start), count) if len(ids) < count else ids[start:][:count]

    return stretch
