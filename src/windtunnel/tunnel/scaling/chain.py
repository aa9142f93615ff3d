"""Where the batch of a stem changes and where branches leave it: the same for every size, but that
smaller ones may go further.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.errors import InputError
from windtunnel.quantities import about
from windtunnel.results.scaling import Segment
from windtunnel.scaling_recipe import BatchRule
from windtunnel.tunnel.proxy import stem_warmup
from windtunnel.tunnel.scaling.design import Design


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

    def first(self, points: int) -> "Chain":
        """As far as the branch of so many is the last one."""
        kept = self.points[:points]
        last = kept[-1]
        segment = self.segments[last.segment]
        ended = segment.model_copy(update={"end": last.at})
        return replace(self, segments=(*self.segments[: last.segment], ended), points=kept)

    def middle(self, segment: int) -> float:
        """The length in tokens that a segment's rate is meant for: the middle of those of the
        branches that leave it, or of the segment where none does.
        """
        part = self.segments[segment]
        lengths = [point.tokens for point in self.points if point.segment == segment]
        ends = lengths or [max(part.begin, part.batch), part.end]
        return math.exp(sum(map(math.log, ends)) / len(ends))

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


def lengths_of(design: Design) -> list[int]:
    """The lengths that are asked for, in tokens; those of the smallest size."""
    ratio = (design.longest / design.shortest) ** (1 / (design.points - 1))
    every = np.arange(design.points + design.further)
    return [round(length) for length in design.shortest * ratio**every]


def lay_out(design: Design, rule: BatchRule) -> Chain:
    """Where the batch changes and where branches leave, in whole steps, of the smallest size.
    Raises InputError for lengths shorter than a few steps, or so near to each other that two would
    be one.
    """
    lengths = lengths_of(design)
    leaving = [round((1 - design.decay) * length) for length in lengths]
    # segments first: a branch leaves in whole steps of the segment that it leaves
    segments = _segments(rule.batch(leaving[0]), leaving[-1], rule)
    points = []
    for length, at in zip(lengths, leaving, strict=True):
        points.append(_branch_point(segments, length, at))
    warmup = stem_warmup(design.shortest, design.longest)
    ends = [point.at for point in points]
    # two branches at one token would be one run, and one inside of the warm-up has no stable phase
    if len(set(ends)) < len(ends) or ends[0] <= warmup:
        raise InputError(
            f"lengths {', '.join(map(about, lengths))}: in steps of {segments[0].batch} to "
            f"{segments[-1].batch} tokens, and after {about(warmup)} tokens of warm-up, they must "
            "differ by a step or more"
        )
    return Chain(segments=tuple(segments), points=tuple(points), warmup=warmup)


def _segments(batch: int, last: int, rule: BatchRule) -> list[Segment]:
    """Stretches of a stem up to `last` tokens, each with twice the batch of the one before.

    A stretch ends in a whole step of both batches, at the border of the law or just before; the
    last one has room for two steps or more.
    """
    segments = []
    begin = 0
    while (border := rule.border(batch)) + 2 * batch <= last:
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
