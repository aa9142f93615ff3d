"""`windtunnel scaling --dry-run`: what is printed, for people and for programs, and what is
refused.
"""

from typing import Any

import pytest

SMALL = (
    "--corpus",
    "tiny",
    "--sizes",
    "16x2,32x2,48x3,64x4,80x4",
    "--shortest",
    "240k",
    "--longest",
    "480k",
    "--points",
    3,
    "--seeds",
    1,
    "--no-audit",
)


def test_a_dry_run_trains_nothing_and_says_what_to_expect(lab: Any) -> None:
    before = lab.files()
    done = lab.run("scaling", *SMALL, "--dry-run", "--target", "96x4@2M", "--simulations", 2)
    assert done.returncode == 1, done.stderr
    for words in (
        "simulated, nothing trained",
        "96x4",
        "2M tokens",
        "90% interval at the target",
        "core-hours",
        "NO GO",
        "reads the corpus",
        "where the law is coupled",
        "E 2.955, A 446.4, alpha 0.5533, B 143, beta 0.3509, c 1, gamma 0 (",
    ):
        assert words in done.stdout
    assert lab.files() == before


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--dry-run", "--target", "96x4"), ["--target 96x4", "@TOKENS"]),
        (("--dry-run", "--target", "96x4@2M", "--budget", "much"), ["much", "2h"]),
        (("--budget", "1e13"), ["--dry-run"]),
    ],
)
def test_what_is_refused(lab: Any, options: tuple[str, ...], names: list[str]) -> None:
    done = lab.run("scaling", *SMALL, *options)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1
    for name in names:
        assert name in done.stderr
