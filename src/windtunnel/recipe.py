"""A recipe: the complete, frozen, typed description of one training run. A TOML file and `Recipe`
are the same.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomlkit
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

from windtunnel.errors import InputError, did_you_mean
from windtunnel.quantities import Length, format_tokens, parse_length, parse_tokens

# Raised whenever the code changes what a recipe gives (model, order, schedule, optimiser): then
# it is another run.
RESULTS_VERSION = 3


def _for_pydantic(parse: Any) -> BeforeValidator:
    def validate(value: object) -> object:
        try:
            return parse(value)
        except InputError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(validate)


Tokens = Annotated[int, _for_pydantic(parse_tokens), PlainSerializer(format_tokens)]
TokensOrShare = Annotated[Length, _for_pydantic(parse_length), PlainSerializer(str)]
Positive = Annotated[int, Field(gt=0)]
Parametrization = Literal["minicpm", "completep", "standard"]
DecayShape = Literal["exponential", "linear", "cosine", "1-sqrt", "sqrt"]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False
    )


class Model(Section):
    """The shape of the decoder and the parametrization that sets its init, rates and multipliers
    (`model/roles.py`).
    """

    width: Positive
    depth: Positive
    heads: Positive
    vocab: Positive
    kv_heads: Positive = 0  # 0: as many as heads
    head_size: Positive = 0  # 0: width / heads
    ffn: Positive = 0  # 0: 2.5 * width, the paper's ratio; of one expert
    experts: int = Field(0, ge=0)  # 0: one feed-forward for every token
    experts_per_token: Positive = 2
    tied: bool = True
    rope_base: float = Field(10_000.0, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    parametrization: Parametrization = "minicpm"
    base_width: Positive = 256  # the paper's dim_model_base: m = width / base_width
    base_depth: Positive = 8  # only completep scales with depth / base_depth
    scale_emb: float = Field(12.0, gt=0)
    scale_depth: float = Field(1.4, gt=0)
    init_std: float = Field(0.1, gt=0)
    # The paper leaves open whether an embedding is one of its "2-D tensors", whose rate and init
    # shrink with the width.
    embedding_as: Literal["vector", "matrix"] = "vector"

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not all(
            isinstance(values.get(k), int) for k in ("width", "heads")
        ):
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


def _some_weight(mixture: dict[str, float]) -> dict[str, float]:
    if mixture and not sum(mixture.values()) > 0:
        raise ValueError("all weights are zero")
    return mixture


# weights over sources; empty: each source by its size
Mixture = Annotated[dict[str, Annotated[float, Field(ge=0)]], AfterValidator(_some_weight)]


class Stage(Section):
    """A mixture and the token at which it begins."""

    at: Tokens  # it begins with the window that holds this token
    mixture: Mixture


class Data(Section):
    corpus: str  # empty for an imported model alone: it was trained elsewhere
    context: Positive = 256
    mixture: Mixture = {}
    stages: tuple[Stage, ...] = ()
    mask_documents: bool = False  # True: attention does not cross the border between two documents

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        starts = [stage.at for stage in self.stages]
        if starts != sorted(set(starts)) or (starts and starts[0] == 0):
            raise ValueError("stages must begin at growing positions after 0")
        return self


class Optimizer(Section):
    """AdamW. `lr` is the base rate, before a role's multiplier; `weight_decay` is independent of
    it: at the peak of the schedule a step takes away that share of a weight, whatever lr is.
    """

    lr: float = Field(0.01, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(1e-3, ge=0, lt=1)
    clip: float = Field(1.0, ge=0)  # of the global gradient norm; 0: no clipping
    balance: float = Field(
        0.01, ge=0
    )  # weight of the load-balancing loss of every layer of experts (paper 7.3)


class Schedule(Section):
    """The rate as a function of the token position. Shares are of `tokens`. A `wsd` run without
    decay is a stem.
    """

    tokens: Tokens
    kind: Literal["wsd", "cosine"] = "wsd"
    warmup: TokensOrShare = Length(share=0.02)
    decay: TokensOrShare = Length(share=0.1)
    decay_shape: DecayShape = "linear"
    floor: float = Field(0.0, ge=0, lt=1)  # share of the peak at the end of the decay
    half_life: TokensOrShare = (
        Length()
    )  # of the exponential decay; 0: what reaches the floor at the end

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup.of(self.tokens) + self.decay.of(self.tokens) > self.tokens:
            raise ValueError("warmup and decay together are longer than tokens")
        exponential = self.decay_shape == "exponential" and self.decay.of(self.tokens) > 0
        if exponential and not self.floor and not self.half_life.of(self.tokens):
            raise ValueError("an exponential decay needs half_life, or a floor above 0 to reach")
        if self.kind == "wsd" and self.decay == Length() and self.warmup.share:
            raise ValueError(
                "the warmup of a stem (decay = 0) must be in tokens: a stem can be extended, a share would move"
            )
        return self


class Train(Section):
    """How the run is carried out. Only batch, precision and compile change what comes out."""

    batch: Tokens  # tokens a step
    micro_batch: Tokens = 0  # tokens through the model at once; 0: chosen
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto"] | bool = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    checkpoint_every: TokensOrShare = Length(share=0.1)
    keep: Positive = 2  # newest checkpoints kept; branch points and parents of branches always stay
    branch_points: tuple[Tokens, ...] = ()
    evaluate_every: TokensOrShare = Length(share=0.1)
    evaluate_tokens: Tokens = 262_144  # of each source's validation split, at most


class Recipe(Section):
    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    model: Model
    data: Data
    optimizer: Optimizer = Field(default_factory=lambda: Optimizer.model_validate({}))
    schedule: Schedule
    train: Train

    @model_validator(mode="after")
    def _whole_windows(self) -> Self:
        if self.data.corpus and not self.schedule.tokens:
            raise ValueError("schedule.tokens must be more than zero")
        if self.schedule.tokens and not self.data.corpus:
            raise ValueError("data.corpus is empty: expected the name of a corpus")
        if self.train.batch <= 0 or self.train.batch % self.data.context:
            raise ValueError(
                f"train.batch={self.train.batch} must be a multiple of data.context={self.data.context}"
            )
        if self.train.micro_batch % self.data.context:
            raise ValueError(
                f"train.micro_batch must be a multiple of data.context={self.data.context}"
            )
        if 0 < self.schedule.tokens < self.train.batch:
            raise ValueError(
                f"schedule.tokens={self.schedule.tokens} is less than one batch of {self.train.batch}"
            )
        if self.warmup_tokens + self.decay_tokens > self.total_tokens:
            raise ValueError(
                f"schedule: warmup and decay overlap in whole steps of {self.train.batch} tokens"
            )
        return self

    @property
    def is_stem(self) -> bool:
        return self.schedule.kind == "wsd" and self.decay_tokens == 0

    @property
    def is_imported(self) -> bool:
        """No tokens, no corpus: what `windtunnel import` makes of weights that were trained
        elsewhere.
        """
        return self.schedule.tokens == 0

    @property
    def total_tokens(self) -> int:
        """Whole steps only."""
        return self.whole_steps(self.schedule.tokens)

    @property
    def warmup_tokens(self) -> int:
        return self.schedule.warmup.of(self.schedule.tokens)

    @property
    def decay_tokens(self) -> int:
        """Whole steps, so that a decay begins where a checkpoint can stand."""
        asked = self.schedule.decay.of(self.schedule.tokens)
        return (
            max(self.train.batch, self.whole_steps(asked))
            if asked and self.schedule.kind == "wsd"
            else 0
        )

    def whole_steps(self, tokens: int) -> int:
        """`tokens` rounded down to whole batches."""
        return tokens - tokens % self.train.batch

    def change(self, **sections: Any) -> "Recipe":
        """A copy with some fields of some sections changed: `recipe.change(schedule={"tokens":
        "2M"})`.
        """
        values = self.model_dump()
        for section, fields in sections.items():
            values[section] = values[section] | fields if isinstance(fields, dict) else fields
        return parse(values, "the changed recipe")


def load(path: Path, settings: Iterable[str] = ()) -> Recipe:
    """Read a TOML file and apply `a.b=c` settings. Raises InputError naming file, key and what
    was expected.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such recipe{_suggest_file(path)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable TOML file: {error}") from None
    for setting in settings:
        _apply(values, setting)
    return parse(values, str(path))


def parse(values: dict[str, Any], where: str) -> Recipe:
    """Validate plain values. Raises InputError with the first fault in one line."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_fault(error)}") from None


def dump(recipe: Recipe) -> str:
    """The recipe as TOML; `load` gives it back equal."""
    return tomlkit.dumps(_without_empty(recipe.model_dump(mode="json")))


def identity(recipe: Recipe, corpus: str, parent: tuple[str, int] | None = None) -> str:
    """Twelve hex digits that name the run of this recipe on a corpus of this digest, begun at
    (run, tokens) of a parent if there is one.

    Only what changes the result counts. A stem's length does not: asking for more tokens of a
    stem extends it.
    """
    values = recipe.model_dump(mode="json")
    values["schedule"] |= {
        "warmup": recipe.warmup_tokens,
        "decay": recipe.decay_tokens,
        "tokens": recipe.total_tokens,
    }
    values["schedule"]["half_life"] = recipe.schedule.half_life.of(recipe.schedule.tokens)
    if recipe.is_stem:
        values["schedule"] = {"warmup": recipe.warmup_tokens}
    values["train"] = {
        key: values["train"][key] for key in ("batch", "micro_batch", "precision", "compile")
    }
    del values["name"]
    if not recipe.model.experts:
        del (
            values["model"]["experts"],
            values["model"]["experts_per_token"],
            values["optimizer"]["balance"],
        )
    content = json.dumps([RESULTS_VERSION, values, corpus, parent], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _apply(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {setting}: expected KEY=VALUE such as schedule.tokens=20M")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, field = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {setting}: '{section}' is not a section")
    values[field] = value


def _first_fault(error: ValidationError) -> str:
    # a misspelt key explains what is missing
    fault = next(
        (fault for fault in error.errors() if fault["type"] == "extra_forbidden"), error.errors()[0]
    )
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *sections, key = (str(part) for part in fault["loc"])
        return f"{where}: unknown key{did_you_mean(key, _keys_of(sections))}"
    if fault["type"] == "missing":
        return f"{where}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if fault["type"] == "value_error" else f", got {fault['input']!r}"
    return f"{where}: {message}{given}" if where else message


def _keys_of(sections: list[str]) -> list[str]:
    cls: type[BaseModel] = Recipe
    for section in sections:
        if section not in cls.model_fields:
            continue  # a list index
        inner = cls.model_fields[section].annotation
        inner = next((a for a in get_args(inner) if isinstance(a, type)), inner)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            cls = inner
    return list(cls.model_fields)


def _suggest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return did_you_mean(path.name, (p.name for p in path.parent.glob("*.toml")))


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    kept = {k: _without_empty(v) if isinstance(v, dict) else v for k, v in values.items()}
    return {k: v for k, v in kept.items() if v not in ({}, [], ())}
