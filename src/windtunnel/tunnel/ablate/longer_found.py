"""What the runs of the study of longer contexts say of one context: each way to set RoPE held
against the best base, and what published rules would cost.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.quantities import about, format_context
from windtunnel.recipe import Model
from windtunnel.recipe.rope_bases import BASE_RULES, base_of
from windtunnel.results.ablate_longer import (
    ArmAfter,
    LengthFound,
    LongerArm,
    LongerNumbers,
    RulePrice,
)
from windtunnel.tunnel.ablate.differences import differences
from windtunnel.tunnel.ablate.positions import FAR

_ROUNDED = 1e-6  # of a logarithm of a base
_SAID = ("kept", "abf")  # rules of which the summary speaks

# Nats a token by part of the texts; by seed, arm and budget, the seeds that have all of them.
Losses = Mapping[tuple[int, str, int], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to set RoPE for one context."""

    name: str
    model: Model
    """The stem's, with this RoPE."""
    changes: dict[str, Any]
    """Of the stem's model, that make it so."""

    @property
    def base(self) -> float | None:
        """RoPE's base; None where its scaling is no base."""
        return base_of(self.model)


def length_found(
    stem: Model, was: int, to: int, texts: int, arms: Sequence[Arm], losses: Losses
) -> LengthFound:
    """`stem`: the model in windows of `was` tokens. `texts`: how many were measured. `losses`: of
    the seeds that have all arms.
    """
    budgets = sorted({tokens for _, _, tokens in losses})
    present = base_of(stem)
    assert present is not None
    best = _best(arms, losses, budgets[-1]) if budgets else None
    after: dict[str, list[ArmAfter]] = {arm.name: [] for arm in arms}
    if best:
        ordered = [best, *(arm for arm in arms if arm != best)]
        for tokens in budgets:
            for name, one in _after(ordered, losses, tokens):
                after[name].append(one)
    found = [
        LongerArm(
            name=arm.name,
            scaling=arm.model.rope_scaling,
            factor=arm.base / present if arm.base else arm.model.rope_factor,
            base=arm.base,
            after=tuple(after[arm.name]),
        )
        for arm in arms
    ]
    reached = best.base if best else None
    return LengthFound(
        context=to,
        documents=texts,
        arms=tuple(found),
        best=reached,
        power=math.log(reached / present) / math.log(to / was) if reached else None,
        alike=tuple(_alike(found)),
        rules=tuple(_rules(stem, was, to, found)),
    )


def _best(arms: Sequence[Arm], losses: Losses, tokens: int) -> Arm:
    """The base with the lowest loss at far positions, mean over seeds."""
    seeds = {seed for seed, _, _ in losses}
    bases = [arm for arm in arms if arm.base is not None]
    return min(bases, key=lambda arm: sum(losses[seed, arm.name, tokens][FAR] for seed in seeds))


def _after(arms: Sequence[Arm], losses: Losses, tokens: int) -> list[tuple[str, ArmAfter]]:
    """Of every arm, by its name; the first one is the best base."""
    seeds = sorted({seed for seed, _, _ in losses})
    parts = list(losses[seeds[0], arms[0].name, tokens])
    measured = []
    for seed in seeds:
        of_seed = [losses[seed, arm.name, tokens] for arm in arms]
        measured.append([[of_arm[part] for part in parts] for of_arm in of_seed])
    values = np.array(measured)  # (seeds, arms, parts)
    apart, _ = differences(values)
    found = []
    for index, arm in enumerate(arms):
        mean = values[:, index].mean(0).tolist()
        over = dict(zip(parts, apart[index - 1], strict=True)) if index else None
        loss = dict(zip(parts, mean, strict=True))
        found.append((arm.name, ArmAfter(tokens=tokens, loss=loss, over=over)))
    return found


def _alike(arms: Sequence[LongerArm]) -> list[float]:
    """The bases that cannot be told from the best one; that one alone with a single seed."""
    alike = []
    for arm in arms:
        if arm.base is None or not arm.after:
            continue
        over = arm.after[-1].over
        interval = over[FAR].interval if over else None
        if over is None or (interval and interval[0] <= 0):
            alike.append(arm.base)
    return alike


def _rules(stem: Model, was: int, to: int, arms: Sequence[LongerArm]) -> list[RulePrice]:
    """Every rule's base, and its price from those that were measured."""
    prices: dict[float, float] = {}  # by the logarithm of the base
    for arm in arms:
        if arm.base is not None and arm.after:
            over = arm.after[-1].over
            prices[math.log(arm.base)] = over[FAR].mean if over else 0.0
    measured = sorted(prices)
    rules = []
    for rule in BASE_RULES.values():
        base = rule.base(stem, was, to)
        at, price = math.log(base), None
        if measured and measured[0] - _ROUNDED <= at <= measured[-1] + _ROUNDED:
            price = float(np.interp(at, measured, [prices[each] for each in measured]))
        rules.append(RulePrice(name=rule.name, base=base, price=price))
    return rules


def summary(numbers: LongerNumbers) -> str:
    """The answer in one sentence."""
    said = []
    for one in numbers.lengths:
        if one.best is None:
            continue
        text = (
            f"for {format_context(one.context)} the best of {_bases(one)} bases is "
            f"{about(one.best)}"
        )
        alike = [base for base in one.alike if base != one.best]
        if alike:
            text += f", with {', '.join(map(about, alike))} not told from it"
        costs = [
            f"{about(rule.base)} ({rule.name}) costs {rule.price:.4f}"
            for rule in one.rules
            if rule.price is not None and rule.name in _SAID
        ]
        said.append(f"{text}; {', '.join(costs)}" if costs else text)
    if not said:
        return "no seed has all its arms, since runs diverged"
    after = about(numbers.budgets[-1])
    return (
        f"{'; '.join(said)} (nats/token beyond {numbers.was} tokens, after {after} in the longer "
        f"context, {numbers.seeds} {'seed' if numbers.seeds == 1 else 'seeds'})"
    )


def _bases(found: LengthFound) -> int:
    return sum(arm.base is not None for arm in found.arms)
