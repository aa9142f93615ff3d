"""The sections of the page, in the order in which a lab's story is told. To add one, write a
function from a `LabView` to its sections (none, where the lab has nothing to say there) and put it
where it belongs in SECTIONS.
"""

from collections.abc import Callable, Iterable

from windtunnel.report import (
    evaluations,
    far,
    forecasts,
    plans,
    preferences,
    runs,
    samples,
    studies,
)
from windtunnel.report.blocks import Section
from windtunnel.report.view import LabView

Sections = Callable[[LabView], Iterable[Section]]

SECTIONS: tuple[Sections, ...] = (
    studies.of("check"),
    studies.of("search"),
    studies.of("transfer"),
    studies.of("batch"),
    studies.of("scaling"),
    plans.sections,
    forecasts.sections,
    samples.sections,
    studies.of("dynamics"),
    studies.of("ablate"),
    studies.of("ablate-longer"),
    preferences.sections,
    evaluations.sections,
    far.sections,
    runs.sections,
)


def sections_of(view: LabView) -> list[Section]:
    """All that the lab has to show."""
    found: list[Section] = []
    for sections in SECTIONS:
        found += view.attempt(lambda which=sections: list(which(view))) or []
    return found
