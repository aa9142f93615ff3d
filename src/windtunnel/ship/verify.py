"""What was written, loaded by the engine that people will load it with, compared with the model
that was to be written: the log-probabilities of held-out tokens with our own forward pass in fp32,
the ids of lines of text with and without special tokens, a conversation by the chat template, and
the tokens that end an answer.
"""

from pathlib import Path

import numpy as np

from windtunnel.results.export import Agreement
from windtunnel.ship.engines import Asked
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.held_out import HeldOut
from windtunnel.ship.layouts import Layout
from windtunnel.ship.portable import PortableModel
from windtunnel.ship.template import TALK, conversation

_MARKED = 20  # of the lines, with special tokens


def verify(
    layout: Layout, dtype: str, path: Path, portable: PortableModel, held: HeldOut
) -> Agreement:
    """Load what `layout.write` left at `path`, a folder or a file with its numbers in `dtype`, and
    compare it with the model that was to be written. Raises InputError where the engine is not
    installed or does not load it.
    """
    tokenizer, marks = portable.tokenizer, portable.marks
    rendered = conversation(portable)
    marked = [*held.lines[:_MARKED], *([rendered] if rendered else [])]
    messages = TALK if rendered else ()
    asked = Asked(held=held, marked=marked, messages=messages, ends=marks.ends)
    ours = log_probabilities(portable.model, portable.weights, held.windows, held.skip)
    found = layout.engine(path, asked)
    difference = np.abs(ours - found.log_probabilities)
    bits_per_byte = held.bits_per_byte(ours)
    expected = [ids.tolist() for ids in tokenizer.encode_batch(held.lines)]
    with_special = [tokenizer.encode_marked(text) for text in marked]
    bound = layout.bounds[dtype]
    return Agreement(
        layout=layout.title(dtype),
        engine=found.engine,
        tokens=held.tokens,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        bits_per_byte=bits_per_byte,
        bits_per_byte_change=held.bits_per_byte(found.log_probabilities) - bits_per_byte,
        most=bound.difference,
        most_change=bound.change,
        lines=len(expected),
        wrong_lines=_different(expected, found.ids),
        marked_lines=len(marked),
        wrong_marked_lines=_different(with_special, found.marked),
        template=_plain(found.rendered, portable) == _plain(rendered, portable)
        if rendered
        else None,
        ends=[tokenizer.name(end) for end in marks.ends],
        missed_ends=[tokenizer.name(end) for end in marks.ends if end not in found.ends],
    )


def _different(expected: list[list[int]], found: list[list[int]]) -> int:
    return sum(ours != theirs for ours, theirs in zip(expected, found, strict=True))


def _plain(rendered: str, portable: PortableModel) -> str:
    """Without the token that begins a text, which llama.cpp leaves to its tokenizer."""
    begin = portable.marks.begin
    return rendered if begin is None else rendered.removeprefix(portable.tokenizer.name(begin))
