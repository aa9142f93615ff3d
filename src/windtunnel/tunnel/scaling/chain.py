"""Where the batch of a stem changes and where branches leave it: the same for every size."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from windtunnel.data.shards import Corpus
from windtunnel.errors import InputError
from windtunnel.laws import laptop
from windtunnel.laws.batch import ByTokens
from windtunnel.quantities import about
from windtunnel.results.batch import BATCH
from windtunnel.results.experiments import study_of
from windtunnel.results.scaling import Segment
from windtunnel.tunnel.scaling.design import Design

# Share of the geometric mean of the shortest and the longest length: a stem has one warm-up for
# all of its branches.
_WARMUP = 0.02
_SMALLEST_BATCH = 512  # tokens a step, whatever the law says


@dataclass(frozen=True)
class BatchLaw:
    """The batch of a run by its tokens: that of a law, as a power of two, so that every batch
    divides the next one.
    """

    by_tokens: ByTokens
    origin: str

    def batch(self, tokens: float) -> int:
        """Tokens a step of a run of this length."""
        return max(_SMALLEST_BATCH, 2 ** round(math.log2(self.by_tokens.predict(tokens))))

    def border(self, batch: int) -> float:
        """Tokens at which `batch` has become as wrong as twice that batch."""
        return self.by_tokens.tokens(batch * math.sqrt(2)) if self.by_tokens.p > 0 else math.inf


LAPTOP_BATCH = BatchLaw(laptop.BATCH_LAW, laptop.ORIGIN)


@dataclass(frozen=True)
class BranchPoint:
    """A branch: it leaves a segment of the stem at `at` tokens and decays over `decay` tokens."""

    segment: int
    at: int
    decay: int

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.at + self.decay


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A stem, whose batch grows along the way by a law, and where it is left."""

    law: BatchLaw
    segments: tuple[Segment, ...]
    points: tuple[BranchPoint, ...]
    warmup: int  # tokens

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens at the ends of the branches."""
        return tuple(point.tokens for point in self.points)

    @property
    def trained(self) -> int:
        """Tokens trained: the stem once, and every decay."""
        return self.segments[-1].end + sum(point.decay for point in self.points)

    @property
    def retrained(self) -> int:
        """Tokens of training each point from scratch, as a cosine schedule needs it."""
        return sum(self.lengths)

    @property
    def steps(self) -> float:
        """Steps of the stem and of every decay."""
        along = sum((segment.end - segment.begin) / segment.batch for segment in self.segments)
        return along + sum(
            point.decay / self.segments[point.segment].batch for point in self.points
        )

    @property
    def fewest_steps(self) -> int:
        """Steps of the shortest branch, from the stem's beginning."""
        return self.points[0].tokens // self.segments[0].batch


def batch_law(lab: Path, corpus: Corpus, design: Design) -> BatchLaw:
    """The design's own batch; else what the lab's batch study found on this corpus, or the
    laptop-scale law where it has none. Raises InputError for a damaged study.
    """
    if design.batch:
        return BatchLaw(ByTokens(design.batch, 0.0), "given")
    study = study_of(lab, BATCH, corpus.folder.name)
    law = study.numbers.laws.get("tokens") if study else None
    if law is None:
        return LAPTOP_BATCH
    return BatchLaw(ByTokens(law.constants["c"], law.constants["p"]), "the lab's batch study")


def batch_of(design: Design, law: BatchLaw, tokens: float) -> int:
    """Tokens a step of a run of this length: the design's own batch as it was given, else the
    law's.
    """
    return design.batch or law.batch(tokens)


def lengths_of(design: Design) -> list[int]:
    """The lengths that are asked for, in tokens."""
    spaced = np.geomspace(design.shortest, design.longest, design.points)
    return [round(length) for length in spaced]


def lay_out(design: Design, law: BatchLaw) -> Chain:
    """Where the batch changes and where branches leave, in whole steps. Raises InputError for
    lengths shorter than a few steps, or so near to each other that two would be one.
    """
    lengths = lengths_of(design)
    leaving = [round((1 - design.decay) * length) for length in lengths]
    # segments first: a branch leaves in whole steps of the segment that it leaves
    segments = _segments(batch_of(design, law, leaving[0]), leaving[-1], law)
    points = []
    for length, at in zip(lengths, leaving, strict=True):
        points.append(_branch_point(segments, length, at))
    warmup = round(_WARMUP * math.sqrt(design.shortest * design.longest))
    ends = [point.at for point in points]
    # two branches at one token would be one run, and one inside of the warm-up has no stable phase
    if len(set(ends)) < len(ends) or ends[0] <= warmup:
        raise InputError(
            f"lengths {', '.join(map(about, lengths))}: in steps of {segments[0].batch} to "
            f"{segments[-1].batch} tokens, and after {about(warmup)} tokens of warm-up, they must "
            "differ by a step or more"
        )
    return Chain(law=law, segments=tuple(segments), points=tuple(points), warmup=warmup)


def _segments(batch: int, last: int, law: BatchLaw) -> list[Segment]:
    """Stretches of a stem up to `last` tokens, each with twice the batch of the one before.

    A stretch ends in a whole step of both batches, at the border of the law or just before; the
    last one has room for two steps or more.
    """
    segments = []
    begin = 0
    while (border := law.border(batch)) + 2 * batch <= last:
        end = int(border) - int(border) % (2 * batch)
        segments.append(Segment(begin=begin, end=end, batch=batch))
        batch, begin = 2 * batch, end
    segments.append(Segment(begin=begin, end=last - last % batch, batch=batch))
    return segments


def _branch_point(segments: list[Segment], length: int, at: int) -> BranchPoint:
    """The branch of about this length that leaves at about this token, in whole steps of the
    segment that is left. At its very beginning a segment has no step of its own yet.
    """
    begun = [
        index
        for index, segment in enumerate(segments)
        if at >= segment.begin + segment.batch or index == 0
    ]
    index = max(begun)
    step = segments[index].batch
    at = min(at - at % step, segments[index].end)
    return BranchPoint(index, at, max(step, round((length - at) / step) * step))
