"""The best learning rate by size, length and batch, as results tell it."""

from windtunnel.results.record import Record


class RateFound(Record):
    """lr (N / params)^by_params (D / tokens)^by_tokens (B / batch)^by_batch: the best base rate of
    a model of N parameters without embeddings, trained on D tokens with B a step.
    """

    lr: float
    """The best base rate at `params`, `tokens` and `batch`."""
    params: float
    """Parameters without embeddings at which it is `lr`."""
    tokens: float
    """Tokens of training at which it is `lr`."""
    batch: float
    """Tokens a step at which it is `lr`."""
    by_params: float
    """The power of the parameters."""
    by_tokens: float
    """The power of the tokens, at one batch."""
    by_batch: float
    """The power of the batch."""
    covariance: tuple[tuple[float, float, float, float], ...]
    """4 by 4, of the natural logarithm of `lr` and of the three powers, in this order."""

    largest_batch: float | None = None
    """Tokens a step of the largest batch that was measured; None of one rate for all, and in
    results of earlier releases.
    """

    @property
    def powers(self) -> str:
        """The powers in words."""
        return f"N^{self.by_params:.2f} D^{self.by_tokens:.2f} B^{self.by_batch:.2f}"
