"""By how much a prediction was off, as everything here that speaks of an error means it."""


def relative_error(predicted: float, got: float) -> float:
    """Predicted over got, less 1: above 0 where too much was predicted."""
    return predicted / got - 1
