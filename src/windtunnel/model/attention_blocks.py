"""How attention that is written out goes through a window: in causal blocks of queries. It needs no
torch.
"""

# Queries of a block: few enough to skip most of the masked half, enough to fill a product.
_BLOCK = 64
# Tokens of the longest window whose weights are kept for the backward pass: they grow with its
# square, and take more than all the rest beyond.
KEPT = 2048


def blocks(context: int) -> list[tuple[int, int]]:
    """Of each block of a window of `context` tokens: its queries, and the keys up to its end."""
    ends = [min(start + _BLOCK, context) for start in range(0, context, _BLOCK)]
    return [(end - start, end) for start, end in zip(range(0, context, _BLOCK), ends, strict=True)]
