"""Parametrizations: for each, what every role's init, learning rate, weight decay and Adam eps are,
and the multipliers of the forward pass. Init, optimiser, forward pass, export and the coordinate
check read this table, and nothing else knows a rule.

With m = width / base_width, L = depth, mL = depth / base_depth, and lr, std, eps those of the
recipe:

| role               | minicpm (paper Table 7) | completep (2505.01618)   | standard        |
|--------------------|-------------------------|--------------------------|-----------------|
| matrix: std, lr    | std/sqrt(m), lr/m       | std/sqrt(m), lr/m        | std/sqrt(m), lr |
| matrix, gain: eps  | eps                     | eps / (m mL)             | eps             |
| embedding, head:   | eps                     | eps / m                  | eps             |
|   eps              |                         |                          |                 |
| matrix: lr of Muon | `spectral_lr`           | `spectral_lr`            | `adam_sized_lr` |
| head: std, lr      | std/sqrt(m), lr/m       | std, lr                  | std/sqrt(m), lr |
| embedding: std, lr | std, lr (or as matrix)  | std, lr                  | std, lr         |
| gain: init, lr     | 1, lr                   | 1, lr                    | 1, lr           |
| embedding output   | x scale_emb             | x scale_emb              | x 1             |
| residual branch    | x scale_depth / sqrt(L) | x scale_depth            | x 1             |
|                    |                         |   / (sqrt(base_depth) mL)|                 |
| logits             | x 1/m                   | x 1/m                    | x 1             |

completep is that paper's alpha = 1: branches shrink as 1/L. What its logits multiply by 1/m reaches
every gradient, and what branches multiply by 1/L those of the matrices and gains within: Adam's eps
shrinks as the gradient that it stands beside. The last norm's gain stands beside no branch; it has
the others' rule all the same, which makes its eps smaller than it need be, and never larger.

A tied head is the embedding and has its rule. A router is a matrix, and so is each expert's part
of a tensor. Attention keeps 1/sqrt(head_size): the head size does not grow with the width. Weight
decay is independent of the rate, so no role needs a multiplier: matrices decay, gains do not;
embeddings do as the paper's "2-D tensors" would under AdamW.

To add one, add its record to `PARAMETRIZATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from windtunnel.choices import Table

if TYPE_CHECKING:
    from windtunnel.recipe.sections import Model

Role = Literal["embedding", "head", "matrix", "gain"]

# How a factor of the table goes with the width in Tensor Programs IV and V for Adam, as the power
# of m; a factor that is not here does not depend on the width. Equivalent tables move a factor
# from init and rate to a multiplier: such a parametrization brings slopes of its own.
MUP_WIDTH_SLOPES = {
    "matrix init": -0.5,
    "matrix lr": -1.0,
    "logit multiplier": -1.0,
    "matrix eps": -1.0,
    "gain eps": -1.0,
    "embedding eps": -1.0,
    "head eps": -1.0,
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How tensors of one role are initialised and updated."""

    mean: float
    """Of the normal distribution from which the init is drawn."""
    std: float
    """The standard deviation of the same."""
    lr: float
    """Multiplies the recipe's `optimizer.lr`."""
    eps: float
    """Multiplies the recipe's `optimizer.eps`."""
    weight_decay: float
    """Multiplies the recipe's `optimizer.weight_decay`."""


@dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Constants of the forward pass."""

    embedding: float
    """Of what the embedding gives."""
    residual: float
    """Of each branch, attention and feed-forward, before it is added to the residual stream."""
    attention: float
    """Of the products of queries and keys."""
    logits: float
    """Of what enters the head."""


@dataclass(frozen=True, kw_only=True)
class Parametrization:
    """One table of rules, and what theory expects where they hold (`tunnel/check/theory.py`)."""

    name: str
    help: str
    rules: Callable[[Model], dict[Role, Rule]]
    multipliers: Callable[[Model], Multipliers]
    orthogonal_lr: Callable[[Model, int, int], float]
    """Multiplies the recipe's `optimizer.lr` for an orthogonal step (Muon's) of a matrix (out, in),
    in place of the matrix rule's `lr`, which is Adam's."""
    residual_exponent: float
    """alpha: a model whose size is kept as it grows in depth adds depth^-alpha of each branch."""
    revision: int = 1
    """Raised when its rules change: runs by the older ones are other runs."""
    width_slopes: Mapping[str, float] = field(default_factory=lambda: MUP_WIDTH_SLOPES)
    """The power of m with which a factor goes, for those that depend on the width."""

    @property
    def depth_slopes(self) -> dict[str, float]:
        """The power of the depth with which a factor goes, for those that depend on it."""
        alpha = self.residual_exponent
        return {"residual multiplier": -alpha, "matrix eps": -alpha, "gain eps": -alpha}


def _weight(std: float, lr: float = 1.0, eps: float = 1.0) -> Rule:
    return Rule(mean=0.0, std=std, lr=lr, eps=eps, weight_decay=1.0)


_GAIN = Rule(mean=1.0, std=0.0, lr=1.0, eps=1.0, weight_decay=0.0)


def _minicpm_rules(model: Model) -> dict[Role, Rule]:
    m = model.width / model.base_width
    vector = _weight(model.init_std)
    matrix = _weight(model.init_std / math.sqrt(m), lr=1 / m)
    embedding = matrix if model.embedding_as == "matrix" else vector
    return {"embedding": embedding, "head": matrix, "matrix": matrix, "gain": _GAIN}


def _minicpm_multipliers(model: Model) -> Multipliers:
    return Multipliers(
        embedding=model.scale_emb,
        residual=model.scale_depth / math.sqrt(model.depth),
        attention=1 / math.sqrt(model.head_size),
        logits=model.base_width / model.width,
    )


def _completep_rules(model: Model) -> dict[Role, Rule]:
    m, m_depth = model.width / model.base_width, model.depth / model.base_depth
    within = 1 / (m * m_depth)  # of a branch
    vector = _weight(model.init_std, eps=1 / m)
    matrix = _weight(model.init_std / math.sqrt(m), lr=1 / m, eps=within)
    gain = replace(_GAIN, eps=within)
    return {"embedding": vector, "head": vector, "matrix": matrix, "gain": gain}


def _completep_multipliers(model: Model) -> Multipliers:
    return Multipliers(
        embedding=model.scale_emb,
        residual=model.scale_depth * math.sqrt(model.base_depth) / model.depth,
        attention=1 / math.sqrt(model.head_size),
        logits=model.base_width / model.width,
    )


def _standard_rules(model: Model) -> dict[Role, Rule]:
    m = model.width / model.base_width
    vector, matrix = _weight(model.init_std), _weight(model.init_std / math.sqrt(m))
    return {"embedding": vector, "head": matrix, "matrix": matrix, "gain": _GAIN}


def _standard_multipliers(model: Model) -> Multipliers:
    return Multipliers(
        embedding=1.0, residual=1.0, attention=1 / math.sqrt(model.head_size), logits=1.0
    )


# RMS of AdamW's steps over its lr, measured while models of many sizes are trained (2502.16982,
# section 2.2): a step of that size can share AdamW's lr and weight decay.
_ADAM_RMS = 0.2


def spectral_lr(model: Model, out: int, into: int) -> float:
    """The rate of an orthogonal step that keeps its effect as the width grows.

    A step changes what a matrix computes by O(1) at any width where its largest singular value
    goes as sqrt(out / in) (2310.17813, condition 1). An orthogonal step has all of them at 1, so
    its rate takes sqrt(max(1, out / in)) (torch's adjust_lr_fn="original") and no share of the
    width. At the base width it is as large as AdamW's: RMS 0.2 sqrt(base_width / in) lr.
    """
    return _ADAM_RMS * math.sqrt(model.base_width * max(1.0, out / into))


def adam_sized_lr(model: Model, out: int, into: int) -> float:
    """The rate of an orthogonal step that has the RMS of AdamW's at any width, 0.2 lr (2502.16982,
    Eq. 4; torch's adjust_lr_fn="match_rms_adamw"). Its effect grows as sqrt(m).
    """
    return _ADAM_RMS * math.sqrt(max(out, into))


PARAMETRIZATIONS = Table(
    "parametrization",
    [
        Parametrization(
            name="minicpm",
            help="the paper's Table 7: rates and inits by the width, branches by 1/sqrt(depth)",
            rules=_minicpm_rules,
            multipliers=_minicpm_multipliers,
            orthogonal_lr=spectral_lr,
            residual_exponent=0.5,
        ),
        Parametrization(
            name="completep",
            help="CompleteP (2505.01618): as minicpm by the width, branches by 1/depth",
            rules=_completep_rules,
            multipliers=_completep_multipliers,
            orthogonal_lr=spectral_lr,
            residual_exponent=1.0,
            revision=2,  # eps of all roles, and not of matrices alone
        ),
        # held against what theory asks, which it does not do
        Parametrization(
            name="standard",
            help="no rule but the init's: one rate for all tensors, no multipliers",
            rules=_standard_rules,
            multipliers=_standard_multipliers,
            orthogonal_lr=adam_sized_lr,
            residual_exponent=0.5,
        ),
    ],
)

ParametrizationName = Annotated[str, PARAMETRIZATIONS]
