"""Lines of characters of all planes and classes, on which tokenizers often differ."""

import random
import unicodedata


def unicode_line(seed: int) -> str:
    """40 characters, assigned ones, with spaces and digits between."""
    source = random.Random(seed)
    made = []
    while len(made) < 40:
        kind = source.random()
        if kind < 0.3:
            made.append(source.choice(" '\t  0123456789.,-\u00a0\u3000sStTlL"))
            continue
        high = source.choice([0x80, 0x300, 0x3000, 0xA000, 0x20000])
        character = chr(source.randrange(1, high + 0x2000))
        if unicodedata.category(character) not in ("Cs", "Cn", "Cc"):
            made.append(character)
    return "".join(made)
