"""What a plan takes as given beside the size: the family of models, and the data."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windtunnel.devices import QUANTISATIONS
from windtunnel.errors import InputError
from windtunnel.laws import laptop
from windtunnel.laws.optimum import FLOPS
from windtunnel.plan.evidence import Evidence
from windtunnel.plan.request import Request
from windtunnel.plan.shapes import Band, Family

if TYPE_CHECKING:
    from windtunnel.data.shards import Corpus

# What the model of a run in the fit says of those that the law describes, whatever their size.
_INHERITED = (
    "base_width",
    "base_depth",
    "parametrization",
    "scale_emb",
    "scale_depth",
    "init_std",
    "embedding_as",
    "tied",
    "rope_base",
    "norm_eps",
)
# Without a run to take settings from: the tunnel's own below the paper's smallest model, the
# paper's from there on.
_LAPTOP_MODEL = {"base_width": laptop.BASE_WIDTH, "base_depth": laptop.BASE_DEPTH}
_LAPTOP_VOCAB, _VOCAB = 2048, 32_768
_LAPTOP_CONTEXT, _SHORT_CONTEXT, _CONTEXT = 256, 1024, 4096
_SHORT_BELOW = 1e8  # parameters
# Tokens a parameter for a first guess of a size, which only has to tell a laptop's models from the
# paper's: about the best ratio of Chinchilla (arXiv 2203.15556).
_TOKENS_EACH = 20


@dataclass(frozen=True, kw_only=True)
class Premises:
    """The models among which a plan chooses, and what there is to train them on."""

    family: Family
    corpus: str | None  # its name
    unique: int | None  # tokens that there are to read; None: as many as wanted
    assumed_vocab: int | None  # where nothing says the vocabulary


def premises_of(
    evidence: Evidence, request: Request, corpus: "Corpus | None", budget: float | None
) -> Premises:
    """The corpus's vocabulary and tokens, the measured runs' context and settings; where nothing
    is known, what suits a model of about the size that is asked for. `budget`: FLOPs. Raises
    InputError for a vocabulary that is not the corpus's, and for epochs of no known tokens.
    """
    size = _about_size(request, budget)
    template = evidence.template
    vocab = _known_vocab(evidence, request, corpus)
    assumed = None
    if not vocab:
        assumed = _LAPTOP_VOCAB if size < laptop.LARGEST else _VOCAB
    context = request.context
    if not context:
        context = template.data.context if template else _usual_context(size)
    family = Family(
        vocab=vocab or assumed or 0,
        context=context,
        band=Band.of(evidence.sizes),
        fixed=_fixed(evidence, request, size),
    )
    return Premises(
        family=family,
        corpus=corpus.folder.name if corpus else request.corpus,
        unique=_unique_tokens(request, corpus),
        assumed_vocab=assumed,
    )


def _about_size(request: Request, budget: float | None) -> float:
    """Parameters, roughly: where a size was not asked for, twenty tokens each, but no more than
    fit.
    """
    if request.params:
        return request.params
    if request.shape:
        width, depth = request.shape
        return 11.5 * width**2 * depth  # of matrices: 4 of attention, 3 of 2.5 times the width
    most = math.inf
    if request.bytes_served:
        most = request.bytes_served / QUANTISATIONS[request.quantisation].bytes
    if request.tokens:
        return min(most, request.tokens / _TOKENS_EACH)
    if budget is None and request.bytes_served:
        return most
    return min(most, math.sqrt((budget or 1e18) / (FLOPS * _TOKENS_EACH)))


def _known_vocab(evidence: Evidence, request: Request, corpus: "Corpus | None") -> int | None:
    known = evidence.template.model.vocab if evidence.template else None
    if corpus:
        known = corpus.manifest.vocab
        if request.vocab and request.vocab != known:
            name = corpus.folder.name
            raise InputError(
                f"--vocab {request.vocab}: the corpus '{name}' has a vocabulary of {known}"
            )
    return request.vocab or known


def _usual_context(size: float) -> int:
    if size < laptop.LARGEST:
        return _LAPTOP_CONTEXT
    return _SHORT_CONTEXT if size < _SHORT_BELOW else _CONTEXT


def _fixed(evidence: Evidence, request: Request, size: float) -> dict[str, Any]:
    """The settings of the model that all sizes share."""
    fixed: dict[str, Any] = {}
    if evidence.template:
        fixed = {key: getattr(evidence.template.model, key) for key in _INHERITED}
    elif size < laptop.LARGEST:
        fixed = dict(_LAPTOP_MODEL)
    if evidence.rates and evidence.lab is None:
        fixed["parametrization"] = "standard"  # whose rates are what the table says they are
    if request.parametrization:
        fixed["parametrization"] = request.parametrization
    return fixed


def _unique_tokens(request: Request, corpus: "Corpus | None") -> int | None:
    """Tokens that there are to read, of those in hand and those of the corpus the fewer."""
    held = None
    if corpus:
        held = corpus.train_tokens
    known = [tokens for tokens in (request.tokens, held) if tokens]
    if request.epochs is not None and not known:
        raise InputError("--epochs: of which tokens? Give --tokens, or a corpus of the lab")
    return min(known, default=None)
