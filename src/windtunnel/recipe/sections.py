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
from windtunnel.recipe.objective import ObjectiveName
from windtunnel.recipe.optimizer import OptimizerName
from windtunnel.recipe.parametrization import ParametrizationName
from windtunnel.recipe.precision import PrecisionName
from windtunnel.recipe.preference import PREFERENCE_LOSSES, PreferenceLoss, PreferenceLossName
from windtunnel.recipe.rope import ROPE_SCALINGS, RopeScalingName
from windtunnel.recipe.schedule import SCHEDULES, ScheduleName


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

    @classmethod
    def default(cls, key: str) -> Any:
        """The present default of a key that need not be given, as JSON has it."""
        value = cls.model_fields[key].get_default(call_default_factory=True)
        return cls.model_construct(**{key: value}).model_dump(mode="json", include={key})[key]


class Model(Section):
    """The shape of the decoder, and the parametrization from which its inits, rates and
    multipliers follow.
    """

    width: Positive
    """Width of the residual stream: numbers per token (the paper's d_m)."""
    depth: Positive
    """Number of layers, each of them attention and a feed-forward."""
    heads: Positive
    """Number of query heads in each layer."""
    vocab: Positive
    """Size of the vocabulary, in tokens: that of the corpus."""
    kv_heads: Positive = 0
    """Number of key and value heads, each shared by heads / kv_heads query heads; 0 means as
    many as heads."""
    head_size: Positive = 0
    """Size of each query, key and value, an even number; 0 means width / heads."""
    ffn: Positive = 0
    """Inner width of the feed-forward, or of each expert; 0 means 2.5 * width, the paper's
    ratio."""
    experts: int = Field(0, ge=0)
    """Number of experts in each layer (paper section 7.3); 0 means one feed-forward for all
    tokens."""
    experts_per_token: Positive = 2
    """Number of experts that each token goes through. The shares of several add up to 1; that of
    one alone is its probability, as in Switch Transformer."""
    tied: bool = True
    """Whether the head shares the weights of the embedding, as in the paper."""
    rope_base: float = Field(10_000.0, gt=0)
    """Base of the wavelengths of the rotary position embedding (RoPE), before it is scaled."""
    rope_scaling: RopeScalingName = "none"
    """How RoPE's frequencies are changed, for a longer context than before."""
    rope_factor: float = Field(1.0, ge=1)
    """How strongly `rope_scaling` changes them: `abf` multiplies the base by it, and the others
    make room for a context that is longer by it."""
    rope_original: int = Field(0, ge=0)
    """Tokens of the context before it was made longer, from which `dynamic`, `yarn` and `llama3`
    start; 0 where there was none."""
    rope_slow: float = Field(0.0, ge=0)
    """Turns within `rope_original` below which `yarn` and `llama3` slow a pair of numbers down by
    the whole factor; 0 means theirs, 1."""
    rope_fast: float = Field(0.0, ge=0)
    """Turns within `rope_original` above which they leave a pair as it is; 0 means theirs, 32 for
    `yarn` and 4 for `llama3`."""
    rope_attention: float = Field(0.0, ge=0)
    """Multiplier of rotated queries and keys; 0 means that of `rope_scaling`: 0.1 ln(factor) + 1
    for `yarn`, 1 for all others."""
    norm_eps: float = Field(1e-5, gt=0)
    """Added to the mean square under the root in every RMSNorm."""
    parametrization: ParametrizationName = "minicpm"
    """Table of rules by which inits, learning rates and multipliers follow from the shape."""
    base_width: Positive = 256
    """Width at which the rules leave inits and rates as they are (the paper's dim_model_base):
    m = width / base_width."""
    base_depth: Positive = 8
    """Depth at which completep agrees with minicpm; no other parametrization uses it."""
    scale_emb: float = Field(12.0, gt=0)
    """Multiplier of the embedding's output (paper Table 7; 12 was found by the search of its
    appendix A.1)."""
    scale_depth: float = Field(1.4, gt=0)
    """Multiplier of every residual branch, before the rule for the depth (paper Table 7; 1.4 by
    the same search)."""
    init_std: float = Field(0.1, gt=0)
    """Standard deviation of the initial weights, before the rule for the width (paper Table 7;
    0.1 by the same search)."""
    embedding_as: Literal["vector", "matrix"] = "vector"
    """Whether minicpm takes the embedding for one of the paper's "2-D tensors", whose rate and
    init shrink with the width; the paper leaves it open."""

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
        self._check_rope()
        if self.experts and self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token={self.experts_per_token}, but there are {self.experts} experts"
            )
        return self

    def _check_rope(self) -> None:
        """Raises ValueError where the scaling lacks what it needs."""
        scaling = ROPE_SCALINGS[self.rope_scaling]
        if scaling.from_original and not self.rope_original:
            raise ValueError(
                f"rope_scaling='{scaling.name}' needs rope_original, the context before it"
            )
        if scaling.name in ("ntk", "dynamic") and self.head_size < 4:
            raise ValueError(f"rope_scaling='{scaling.name}' needs heads of at least 4 numbers")
        if any(scaling.turns):
            slow, fast = self.rope_slow or scaling.turns[0], self.rope_fast or scaling.turns[1]
            if slow >= fast or self.rope_base <= 1:
                raise ValueError(
                    f"rope_scaling='{scaling.name}' needs rope_slow below rope_fast and a "
                    "rope_base above 1"
                )


class Stage(Section):
    """A mixture and the token at which it begins."""

    at: Tokens
    """Position in tokens: the mixture begins with the window that holds this token."""
    mixture: Mixture
    """Weights over the sources of the corpus; none means each source by its size."""


class Data(Section):
    """What is read: a corpus in windows of `context` tokens, by mixtures."""

    corpus: str
    """Name of a corpus of the lab; empty only for an imported model, which was trained
    elsewhere."""
    context: Positive = 256
    """Tokens in a window: the longest stretch that attention sees."""
    mixture: Mixture = {}
    """Weights over the sources of the corpus; none means each source by its size."""
    stages: tuple[Stage, ...] = ()
    """Later mixtures in the order in which they begin, each with `at` and `mixture`."""
    mask_documents: bool = False
    """Whether attention stops at the borders between the documents of a window."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        starts = [stage.at for stage in self.stages]
        if starts != sorted(set(starts)) or (starts and starts[0] == 0):
            raise ValueError("stages must begin at growing positions after 0")
        return self


class Optimizer(Section):
    """How weights learn from gradients, and what is added to the loss or done to its gradient."""

    kind: OptimizerName = "adamw"
    """Rule by which the tensors change in a step."""
    lr: float = Field(0.01, gt=0)
    """Learning rate at the peak of the schedule, before a role's multiplier (0.01 was found by
    the paper's search)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Share of the running mean of gradients that a step of AdamW keeps."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Share of the running mean of squared gradients that a step of AdamW keeps."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the running mean of squared gradients, before a role's
    multiplier."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Share of the running mean of gradients that a step of Muon keeps."""
    weight_decay: float = Field(1e-3, ge=0, lt=1)
    """Share of each weight that a step at the peak rate takes away; it does not depend on
    lr."""
    clip: float = Field(1.0, ge=0)
    """Largest norm of the whole gradient, to which a larger one is scaled down; 0 means no
    clipping."""
    balance: float = Field(0.01, ge=0)
    """Weight of the load-balancing loss in each layer of experts (paper section 7.3)."""
    lr_by_role: bool = True
    """Whether a role's multiplier is applied to lr. The paper learnt preferences without (section
    7.1, and the author in issue 40 of its repository)."""


class Schedule(Section):
    """The rate as a function of the token position. Shares are of `tokens`. A `wsd` run without
    decay is a stem.
    """

    tokens: Tokens
    """Length of the run with its warm-up and decay; only whole steps are trained."""
    kind: ScheduleName = "wsd"
    """How the rate goes once the warm-up is over."""
    warmup: TokensOrShare = Length(share=0.02)
    """Length over which the rate rises from 0 to its peak in a straight line; tokens or a
    share."""
    decay: TokensOrShare = Length(share=0.1)
    """Length of the decay at the end; tokens or a share. Without one the run is a stem."""
    decay_shape: DecayShapeName = "linear"
    """How the rate falls during the decay."""
    floor: float = Field(0.0, ge=0, lt=1)
    """Rate at the end, as a share of the peak."""
    half_life: TokensOrShare = Length()
    """Length in which an exponential decay halves the rate (the paper's T); tokens or a share.
    0 means whatever reaches the floor at the end."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup.of(self.tokens) + self.decay.of(self.tokens) > self.tokens:
            raise ValueError("warmup and decay together are longer than tokens")
        needs_an_end = DECAY_SHAPES[self.decay_shape].floor > 0 and self.decay.of(self.tokens) > 0
        if needs_an_end and not self.floor and not self.half_life.of(self.tokens):
            raise ValueError(
                f"a decay of shape '{self.decay_shape}' needs half_life, or a floor above 0"
            )
        is_stem = SCHEDULES[self.kind].stable and self.decay == Length()
        if is_stem and self.warmup.share:
            raise ValueError(
                "the warmup of a stem (decay = 0) must be in tokens: a stem can be extended, and a "
                "share would move"
            )
        return self


class Preference(Section):
    """How preferences are learnt (paper section 7.1): by which loss, against which reference."""

    loss: PreferenceLossName = "sigmoid"
    """By which the better answer is learnt."""
    beta: float = Field(0.1, gt=0)
    """How strongly a log-ratio counts: the larger, the nearer the model stays to the reference."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of the judgements that is taken to be wrong."""
    per_token: bool | None = None
    """Whether log-ratios are means over the tokens of an answer, and not sums; none means as the
    loss has it, `ipo` with means and the others with sums."""
    reference: str = Field(min_length=1)
    """Id of the run whose model is the reference."""
    reference_at: Tokens
    """Tokens of its checkpoint."""

    @property
    def kind(self) -> PreferenceLoss:
        """The loss's record."""
        return PREFERENCE_LOSSES[self.loss]

    @property
    def by_token(self) -> bool:
        """`per_token`, decided."""
        return self.kind.per_token if self.per_token is None else self.per_token


class Growth(Section):
    """Another batch and the token at which it begins."""

    at: Tokens
    """Position in tokens: the first step that begins at or after it has this batch."""
    batch: Tokens
    """Tokens in each step from there on; a multiple of `data.context`."""


class Train(Section):
    """How the run is carried out. Only `batch`, `growth`, `objective`, `micro_batch`, `precision`
    and `compile` change what comes out.
    """

    batch: Tokens
    """Tokens in each step; a multiple of `data.context`."""
    growth: tuple[Growth, ...] = ()
    """Later batches in the order in which they begin, each with `at` and `batch`."""
    objective: ObjectiveName = None
    """What a batch asks the model to learn; none means `answers` from a corpus of conversations,
    `preferences` from one of preferences, and `next-token` from any other."""
    micro_batch: Tokens = 0
    """Tokens that go through the model at once; 0 means as many as the device has room for."""
    precision: PrecisionName = "auto"
    """Number format of matrix products; the weights are kept in fp32."""
    compile: Literal["auto"] | bool = "auto"
    """Whether the model is compiled; `auto` means wherever a compiler is at hand."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the run is computed; `auto` means on a GPU if there is one."""
    deterministic: bool = False
    """Whether a GPU shall give the same bits each time, by kernels that may be slower. A CPU always
    does."""
    checkpoint_every: TokensOrShare = Length(share=0.1)
    """Length between checkpoints; tokens or a share of the run."""
    keep: Positive = 2
    """Number of newest checkpoints to keep; branch points and parents of branches are always
    kept."""
    branch_points: tuple[Tokens, ...] = ()
    """Positions in tokens whose checkpoints are kept, so that branches can leave from them."""
    evaluate_every: TokensOrShare = Length(share=0.1)
    """Length between validations; tokens or a share of the run."""
    evaluate_tokens: Tokens = 262_144
    """Most tokens to read of each source's validation split, spread over it."""


class Recipe(Section):
    """One training run, completely described."""

    name: str = Field(min_length=1)
    """What the run is called in lists."""
    seed: int = Field(0, ge=0)
    """Number from which the initial weights and the order of the data follow."""
    model: Model
    """The shape and its parametrization."""
    data: Data
    """What is read."""
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer.model_validate({}))
    """How a step changes the weights."""
    schedule: Schedule
    """The rate at every token."""
    train: Train
    """How the run is carried out."""
    preference: Preference | None = None
    """How preferences are learnt, where the corpus holds them."""

    @model_validator(mode="after")
    def _whole_windows(self) -> Self:
        batch, context, tokens = self.train.batch, self.data.context, self.schedule.tokens
        starts = [growth.at for growth in self.train.growth]
        if starts != sorted(set(starts)) or (starts and starts[0] == 0):
            raise ValueError("train.growth must begin at growing positions after 0")
        if self.data.corpus and not tokens:
            raise ValueError("schedule.tokens must be more than zero")
        if tokens and not self.data.corpus:
            raise ValueError("data.corpus is empty: expected the name of a corpus")
        for key, one in zip(["batch", *["growth"] * len(starts)], self.batches, strict=True):
            if one <= 0 or one % context:
                raise ValueError(f"train.{key}={one} must be a multiple of data.context={context}")
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
        return SCHEDULES[self.schedule.kind].stable and self.decay_tokens == 0

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
        if not asked or not SCHEDULES[self.schedule.kind].stable:
            return 0
        total = self.total_tokens
        begins = self.whole_steps(max(0, total - asked))
        if begins < total - asked:
            begins += self.batch_at(begins)
        return total - min(begins, self.whole_steps(total - 1))

    @property
    def batches(self) -> tuple[int, ...]:
        """Tokens of a step, in the order in which they come."""
        return (self.train.batch, *(growth.batch for growth in self.train.growth))

    def whole_steps(self, tokens: int) -> int:
        """`tokens` rounded down to where a step ends."""
        start, batch = self._stretch(tokens)
        return tokens - (tokens - start) % batch

    def batch_at(self, position: int) -> int:
        """Tokens of the step that begins at a position."""
        return self._stretch(position)[1]

    def steps_in(self, tokens: int) -> int:
        """Whole steps in the first `tokens` tokens."""
        stretches = [one for one in self._stretches() if one[0] <= tokens]
        ends = [*(start for start, _ in stretches[1:]), tokens]
        each = zip(stretches, ends, strict=True)
        return sum((end - start) // batch for (start, batch), end in each)

    def _stretch(self, position: int) -> tuple[int, int]:
        """Of the steps of one batch around a position: where they begin, and the batch."""
        if not self.train.growth:
            return 0, self.train.batch
        return [one for one in self._stretches() if one[0] <= position][-1]

    def _stretches(self) -> list[tuple[int, int]]:
        """Where the steps of each batch begin, and the batch."""
        found = [(0, self.train.batch)]
        for growth in self.train.growth:
            start, batch = found[-1]
            # the step that is under way there is finished first
            steps = -(-(growth.at - start) // batch)
            found.append((start + steps * batch, growth.batch))
        return found

    def change(self, **sections: Any) -> "Recipe":
        """A copy with some fields of some sections changed: `recipe.change(schedule={"tokens":
        "2M"})`. Raises InputError where the result is no recipe.
        """
        values = self.model_dump()
        for section, fields in sections.items():
            whole = not isinstance(fields, dict)
            values[section] = fields if whole else (values[section] or {}) | fields
        return parse(values, "the changed recipe")


def parse(values: dict[str, Any], where: str) -> Recipe:
    """Validate plain values. Raises InputError: `where`, and the first fault in one line."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {first_fault(error, Recipe)}") from None
