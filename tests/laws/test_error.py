"""An error is predicted over got, less 1."""

import pytest

from windtunnel.laws.error import relative_error


@pytest.mark.parametrize(("predicted", "got", "error"), [(4.0, 3.2, 0.25), (3.0, 4.0, -0.25)])
def test_too_much_predicted_is_above_zero(predicted: float, got: float, error: float) -> None:
    assert relative_error(predicted, got) == error
