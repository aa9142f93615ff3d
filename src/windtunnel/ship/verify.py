"""What was written, loaded by the engine that people will load it with, compared with our own
forward pass in fp32: the log-probabilities of held-out tokens, and the ids of lines of text.
"""

from pathlib import Path

import numpy as np

from windtunnel.results.export import Agreement
from windtunnel.ship.forward import log_probabilities
from windtunnel.ship.held_out import HeldOut
from windtunnel.ship.layouts import Layout
from windtunnel.ship.portable import PortableModel


def verify(
    layout: Layout, dtype: str, path: Path, portable: PortableModel, held: HeldOut
) -> Agreement:
    """Load what `layout.write` left at `path`, a folder or a file with its numbers in `dtype`, and
    compare it with the model that was to be written. Raises InputError where the engine is not
    installed or does not load it.
    """
    ours = log_probabilities(portable.model, portable.weights, held.windows)
    found = layout.engine(path, held)
    difference = np.abs(ours - found.log_probabilities)
    bits_per_byte = held.bits_per_byte(ours)
    # An engine that makes no ids gives none, and then none are compared.
    expected = portable.tokenizer.encode_batch(held.lines[: len(found.ids)])
    wrong = sum(ids.tolist() != its for ids, its in zip(expected, found.ids, strict=True))
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
        lines=len(found.ids),
        wrong_lines=wrong,
    )
