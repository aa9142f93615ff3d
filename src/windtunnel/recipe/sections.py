"""The sections of a recipe: every key with its default, its unit and its meaning."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from windtunnel.errors import InputError
from windtunnel.quantities import Length, format_tokens, parse_length, parse_tokens
from windtunnel.recipe.decay import DECAY_SHAPES, DecayShapeName
from windtunnel.recipe.faults import first_fault
from windtunnel.recipe.parametrization import ParametrizationName


def _for_pydantic(parse: Any) -> BeforeValidator:
    def validate(value: object) -> object:
        try:
            return parse(value)
        except InputError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(validate)


def _some_weight(mixture: dict[str, float]) -> dict[str, float]:
    if mixture and not sum(mixture.values()) > 0:
        raise ValueError("all weights are zero")
    return mixture


Tokens = Annotated[int, _for_pydantic(parse_tokens), PlainSerializer(format_tokens)]
TokensOrShare = Annotated[Length, _for_pydantic(parse_length), PlainSerializer(str)]
Positive = Annotated[int, Field(gt=0)]
Mixture = Annotated[dict[str, Annotated[float, Field(ge=0)]], AfterValidator(_some_weight)]


class Section(BaseModel):
    """The base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Model(Section):
    """The shape of the decoder, and the parametrization from which its inits, rates and
    multipliers follow.
    """

    width: Positive
    """Numbers of the residual stream a token (the paper's d_m)."""
    depth: Positive
    """Layers, each of attention and a feed-forward."""
    heads: Positive
    """Query heads of each layer."""
    vocab: Positive
    """Tokens of the vocabulary: as many as the corpus has."""
    kv_heads: Positive = 0
    """Heads of keys and values, each shared by heads / kv_heads query heads; 0: as many as
    heads."""
    head_size: Positive = 0
    """Numbers of a query, key or value; even. 0: width / heads."""
    ffn: Positive = 0
    """Inner width of the feed-forward, of one expert where there are experts; 0: 2.5 * width, the
    paper's ratio."""
    experts: int = Field(0, ge=0)
    """Experts of each layer's feed-forward (paper section 7.3); 0: one feed-forward for all
    tokens."""
    experts_per_token: Positive = 2
    """Experts that each token goes through."""
    tied: bool = True
    """Whether the head is the embedding, as in the paper, or has weights of its own."""
    rope_base: float = Field(10_000.0, gt=0)
    """Base of the rotary position embedding's wavelengths."""
    norm_eps: float = Field(1e-5, gt=0)
    """Added to the mean square in every RMSNorm."""
    parametrization: ParametrizationName = "minicpm"
    """By which table inits, rates and multipliers follow from the shape."""
    base_width: Positive = 256
    """The width at which the parametrization changes nothing (the paper's dim_model_base):
    m = width / base_width."""
    base_depth: Positive = 8
    """The depth at which completep is minicpm; no other parametrization uses it."""
    scale_emb: float = Field(12.0, gt=0)
    """Multiplier of the embedding's output (paper Table 7; 12 by the search in its App. A.1)."""
    scale_depth: float = Field(1.4, gt=0)
    """Multiplier of every residual branch before the share of the depth (1.4 by the same
    search)."""
    init_std: float = Field(0.1, gt=0)
    """Standard deviation of the init before the share of the width (0.1 by the same search)."""
    embedding_as: Literal["vector", "matrix"] = "vector"
    """Whether minicpm's embedding is one of the paper's "2-D tensors", whose rate and init shrink
    with the width: the paper leaves it open."""

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        """Fill in what follows from the width and the heads where it is 0 or left out."""
        if not isinstance(values, dict):
            return values
        if not all(isinstance(values.get(key), int) for key in ("width", "heads")):
            return values
        width, heads = values["width"], max(1, values["heads"])
        derived = {"kv_heads": heads, "head_size": width // heads, "ffn": 5 * width // 2}
        return derived | {k: v for k, v in values.items() if not (k in derived and v == 0)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.head_size % 2:
            raise ValueError(f"head_size={self.head_size} must be even: RoPE turns pairs")
        if self.experts and self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token={self.experts_per_token}, but there are {self.experts} experts"
            )
        return self


class Stage(Section):
    """A mixture and the token at which it begins."""

    at: Tokens
    """Position of the token: the mixture begins with the window that holds it."""
    mixture: Mixture
    """Weights over the corpus's sources; empty: each source by its size."""


class Data(Section):
    """What is read: a corpus in windows of `context` tokens, by mixtures."""

    corpus: str
    """Name of a corpus of the lab; empty for an imported model alone, which was trained
    elsewhere."""
    context: Positive = 256
    """Tokens of a window: the most positions that attention sees."""
    mixture: Mixture = {}
    """Weights over the corpus's sources; empty: each source by its size."""
    stages: tuple[Stage, ...] = ()
    """Mixtures that follow the first one, in the order in which they begin."""
    mask_documents: bool = False
    """Whether attention stops at the border between two documents of a window."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        starts = [stage.at for stage in self.stages]
        if starts != sorted(set(starts)) or (starts and starts[0] == 0):
            raise ValueError("stages must begin at growing positions after 0")
        return self


class Optimizer(Section):
    """AdamW (Loshchilov and Hutter 2019), and what is added to the loss or done to its gradient."""

    lr: float = Field(0.01, gt=0)
    """Learning rate at the peak of the schedule, before a role's multiplier (0.01 by the paper's
    search)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """How much of the mean of gradients a step keeps."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """How much of the mean of squared gradients a step keeps."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the mean of squared gradients, before a role's multiplier."""
    weight_decay: float = Field(1e-3, ge=0, lt=1)
    """Share of a weight that a step takes away at the peak of the schedule, whatever lr is."""
    clip: float = Field(1.0, ge=0)
    """Largest norm of the whole gradient: a larger one is scaled down to it; 0: no clipping."""
    balance: float = Field(0.01, ge=0)
    """Weight of the load-balancing loss of every layer of experts (paper section 7.3)."""


class Schedule(Section):
    """The rate as a function of the token position. Shares are of `tokens`. A `wsd` run without
    decay is a stem.
    """

    tokens: Tokens
    """Length of the run, its warm-up and decay included; whole steps of it are trained."""
    kind: Literal["wsd", "cosine"] = "wsd"
    """Warm-up, stable phase and decay (paper Eq. 1); or a cosine over the whole run."""
    warmup: TokensOrShare = Length(share=0.02)
    """Tokens, or a share, over which the rate rises from 0 to its peak in a straight line."""
    decay: TokensOrShare = Length(share=0.1)
    """Tokens, or a share, at the end over which the rate falls; 0: a stem."""
    decay_shape: DecayShapeName = "linear"
    """How it falls."""
    floor: float = Field(0.0, ge=0, lt=1)
    """Share of the peak rate at the end."""
    half_life: TokensOrShare = Length()
    """Tokens, or a share, in which an exponential decay halves the rate (the paper's T); 0: what
    reaches the floor at the end."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup.of(self.tokens) + self.decay.of(self.tokens) > self.tokens:
            raise ValueError("warmup and decay together are longer than tokens")
        needs_an_end = DECAY_SHAPES[self.decay_shape].floor > 0 and self.decay.of(self.tokens) > 0
        if needs_an_end and not self.floor and not self.half_life.of(self.tokens):
            raise ValueError(
                f"a decay of shape '{self.decay_shape}' needs half_life, or a floor above 0 to reach"
            )
        if self.kind == "wsd" and self.decay == Length() and self.warmup.share:
            raise ValueError(
                "the warmup of a stem (decay = 0) must be in tokens: a stem can be extended, and a "
                "share would move"
            )
        return self


class Train(Section):
    """How the run is carried out. Only `batch`, `micro_batch`, `precision` and `compile` change
    what comes out.
    """

    batch: Tokens
    """Tokens a step; a multiple of `data.context`."""
    micro_batch: Tokens = 0
    """Tokens that go through the model at once; 0: chosen by the device's memory."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the products of matrices: bf16 means autocast, with weights in fp32; auto: by the
    device."""
    compile: Literal["auto"] | bool = "auto"
    """Whether the code is compiled; auto: where the run is long enough to gain by it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where it is computed; auto: on an accelerator if there is one."""
    checkpoint_every: TokensOrShare = Length(share=0.1)
    """Tokens, or a share of the run, between checkpoints."""
    keep: Positive = 2
    """Newest checkpoints that are kept; branch points and the parents of branches always stay."""
    branch_points: tuple[Tokens, ...] = ()
    """Positions at which a checkpoint is kept for branches to leave from."""
    evaluate_every: TokensOrShare = Length(share=0.1)
    """Tokens, or a share of the run, between validations."""
    evaluate_tokens: Tokens = 262_144
    """Tokens of each source's validation split that are read, at most."""


class Recipe(Section):
    """One training run, completely described."""

    name: str = Field(min_length=1)
    """What the run is called in lists."""
    seed: int = Field(0, ge=0)
    """Of the initial weights and of the order of the data."""
    model: Model
    data: Data
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer.model_validate({}))
    schedule: Schedule
    train: Train

    @model_validator(mode="after")
    def _whole_windows(self) -> Self:
        batch, context, tokens = self.train.batch, self.data.context, self.schedule.tokens
        if self.data.corpus and not tokens:
            raise ValueError("schedule.tokens must be more than zero")
        if tokens and not self.data.corpus:
            raise ValueError("data.corpus is empty: expected the name of a corpus")
        if batch <= 0 or batch % context:
            raise ValueError(f"train.batch={batch} must be a multiple of data.context={context}")
        if self.train.micro_batch % context:
            raise ValueError(f"train.micro_batch must be a multiple of data.context={context}")
        if 0 < tokens < batch:
            raise ValueError(f"schedule.tokens={tokens} is less than one batch of {batch}")
        if self.warmup_tokens + self.decay_tokens > self.total_tokens:
            raise ValueError(f"schedule: warmup and decay overlap in whole steps of {batch} tokens")
        return self

    @property
    def is_stem(self) -> bool:
        """Whether the run ends in its stable phase, so that it can be extended and branched."""
        return self.schedule.kind == "wsd" and self.decay_tokens == 0

    @property
    def is_imported(self) -> bool:
        """No tokens, no corpus: what `windtunnel import` makes of weights that were trained
        elsewhere.
        """
        return self.schedule.tokens == 0

    @property
    def total_tokens(self) -> int:
        """Tokens that are trained: whole steps only."""
        return self.whole_steps(self.schedule.tokens)

    @property
    def warmup_tokens(self) -> int:
        """Tokens until the rate is at its peak."""
        return self.schedule.warmup.of(self.schedule.tokens)

    @property
    def decay_tokens(self) -> int:
        """Tokens of the decay: whole steps, so that it begins where a checkpoint can stand."""
        asked = self.schedule.decay.of(self.schedule.tokens)
        if not asked or self.schedule.kind != "wsd":
            return 0
        return max(self.train.batch, self.whole_steps(asked))

    def whole_steps(self, tokens: int) -> int:
        """`tokens` rounded down to whole batches."""
        return tokens - tokens % self.train.batch

    def change(self, **sections: Any) -> "Recipe":
        """A copy with some fields of some sections changed: `recipe.change(schedule={"tokens":
        "2M"})`. Raises InputError where the result is no recipe.
        """
        values = self.model_dump()
        for section, fields in sections.items():
            values[section] = values[section] | fields if isinstance(fields, dict) else fields
        return parse(values, "the changed recipe")


def parse(values: dict[str, Any], where: str) -> Recipe:
    """Validate plain values. Raises InputError: `where`, and the first fault in one line."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {first_fault(error, Recipe)}") from None
