"""A run's id counts what changes the result and nothing else, and survives the project's growth."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args, get_origin

import pytest

from windtunnel.recipe import PARAMETRIZATIONS, Model, Optimizer, Recipe, Section, identity
from windtunnel.recipe.ids import DEFAULTS, WITHOUT_EFFECT, apart

Make = Callable[..., Recipe]
TOKENS = 6400  # of the tiny recipe

# Keys without a line in DEFAULTS: they have no default, or it depends on others.
ALWAYS_SAID = {
    *("model.width", "model.depth", "model.heads", "model.vocab"),
    *("model.kv_heads", "model.head_size", "model.ffn"),
    *("data.corpus", "schedule.tokens", "schedule.warmup", "schedule.decay", "train.batch"),
}
# What must always be said where preferences are learnt.
OF_PREFERENCES = {"preference.reference": "0123456789ab", "preference.reference_at": 1280}

# By key: a value that makes another run of the tiny recipe.
OTHER: dict[str, Any] = {
    "seed": 1,
    "model.width": 64,
    "model.depth": 3,
    "model.heads": 4,
    "model.vocab": 512,
    "model.kv_heads": 1,
    "model.head_size": 32,
    "model.ffn": 96,
    "model.experts": 4,
    "model.experts_per_token": 3,
    "model.tied": False,
    "model.rope_base": 5000,
    "model.rope_scaling": "ntk",
    "model.rope_factor": 4,
    "model.rope_original": 64,
    "model.rope_slow": 2,
    "model.rope_fast": 8,
    "model.rope_attention": 1.2,
    "model.norm_eps": 1e-6,
    "model.parametrization": "standard",
    "model.base_width": 32,
    "model.base_depth": 4,
    "model.scale_emb": 1,
    "model.scale_depth": 1,
    "model.init_std": 0.02,
    "model.embedding_as": "matrix",
    "data.corpus": "another",
    "data.context": 64,
    "data.mixture": {"prose": 1},
    "data.stages": [{"at": 1280, "mixture": {"notes": 1}}],
    "data.mask_documents": True,
    "optimizer.kind": "muon",
    "optimizer.lr": 0.02,
    "optimizer.beta1": 0.8,
    "optimizer.beta2": 0.99,
    "optimizer.eps": 1e-6,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 0,
    "optimizer.clip": 0,
    "optimizer.balance": 0.1,
    "optimizer.lr_by_role": False,
    "schedule.tokens": 12_800,
    "schedule.kind": "cosine",
    "schedule.warmup": 0,
    "schedule.decay": "20%",
    "schedule.decay_shape": "sqrt",
    "schedule.floor": 0.1,
    "schedule.half_life": "5%",
    "train.batch": 256,
    "train.growth": [{"at": 1280, "batch": 256}],
    "train.objective": "answers",
    "train.micro_batch": 64,
    "train.precision": "bf16",
    "train.compile": True,
    "preference": {"reference": "0123456789ab", "reference_at": 1280},
    "preference.loss": "ipo",
    "preference.beta": 0.2,
    "preference.label_smoothing": 0.1,
    "preference.per_token": True,
    "preference.reference": "ba9876543210",
    "preference.reference_at": 2560,
}


def keys_of(section: type[Section], above: str = "") -> set[str]:
    """Every key of a recipe, such as `model.width`."""
    found = set()
    for name, field in section.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        section_is = [one for one in kinds if isinstance(one, type) and issubclass(one, Section)]
        is_list = get_origin(field.annotation) is tuple
        if section_is and not is_list:
            found |= keys_of(section_is[0], f"{above}{name}.")
        if not section_is or is_list or len(kinds) > 1:
            found.add(f"{above}{name}")
    return found


def with_value(recipe: Make, key: str, value: Any) -> Recipe:
    section, _, name = key.rpartition(".")
    if section == "preference":
        needed = {key.rpartition(".")[2]: one for key, one in OF_PREFERENCES.items()}
        return recipe(preference={**needed, name: value})
    return recipe(**({section: {name: value}} if section else {name: value}))


def test_ids_are_those_that_they_were(recipe: Make, stem: Make) -> None:
    """What changes them is a change of RESULTS_VERSION."""
    assert identity(recipe(), "c") == "93d00e21b312"
    assert identity(stem(TOKENS), "c") == "60a63581953d"
    assert identity(recipe(), "c", ("0123456789ab", 1280)) == "8d4bdf237cb4"
    assert identity(recipe(seed=1), "c") == "069fc936072b"
    many = recipe(
        seed=3,
        model={"experts": 4, "tied": False, "parametrization": "completep"},
        data={"mixture": {"prose": 2.5}, "stages": [{"at": "1.28k", "mixture": {"notes": 1}}]},
        optimizer={"lr": 3e-4, "weight_decay": 0.0},
        schedule={"decay_shape": "exponential", "half_life": "2%"},
        train={"precision": "bf16"},
    )
    assert identity(many, "c") == "3df571a7e221"


def test_runs_by_older_rules_of_a_parametrization_are_other_runs(
    recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (recipe(model={"parametrization": name}) for name in ("completep", "minicpm"))
    before = identity(ours, "c"), identity(theirs, "c")
    record = PARAMETRIZATIONS["completep"]
    monkeypatch.setitem(PARAMETRIZATIONS, record.name, replace(record, revision=7))
    assert identity(ours, "c") != before[0] and identity(theirs, "c") == before[1]


def test_a_value_that_is_said_is_as_good_as_one_that_is_not(recipe: Make) -> None:
    """The values of version 5, written out; what changes them is a change of RESULTS_VERSION."""
    said = recipe(
        seed=0,
        model={
            "experts": 0,
            "experts_per_token": 2,
            "tied": True,
            "rope_base": 10_000,
            "norm_eps": 1e-5,
            "parametrization": "minicpm",
            "base_depth": 8,
            "scale_emb": 12,
            "scale_depth": 1.4,
            "init_std": 0.1,
            "embedding_as": "vector",
        },
        data={"mixture": {}, "stages": [], "mask_documents": False},
        optimizer={
            "lr": 0.01,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-8,
            "weight_decay": 1e-3,
            "clip": 1,
            "balance": 0.01,
        },
        schedule={"kind": "wsd", "decay_shape": "linear", "floor": 0, "half_life": 0},
        train={"micro_batch": 0},
    )
    assert identity(said, "c") == "93d00e21b312"


@pytest.mark.parametrize(
    "same",
    [
        {"name": "other"},
        {
            "train": {
                "checkpoint_every": "1%",
                "evaluate_every": 128,
                "evaluate_tokens": 512,
                "keep": 9,
            }
        },
        {"train": {"branch_points": [1280], "device": "auto"}},
        {"schedule": {"decay": "640", "warmup": "8%"}},
        {"schedule": {"tokens": "6.4k", "decay": 640}},
        {"schedule": {"tokens": TOKENS + 100, "decay": 640}},
        {"model": {"kv_heads": 2, "ffn": 80, "head_size": 16}},
    ],
)
def test_what_does_not_change_the_result_is_the_same_run(
    recipe: Make, same: dict[str, Any]
) -> None:
    assert identity(recipe(**same), "c") == identity(recipe(), "c")


def test_a_stem_is_the_same_run_whatever_its_length(stem: Make) -> None:
    assert len({identity(stem(tokens), "c") for tokens in (1280, 12_800, 10**12)}) == 1


def test_whatever_changes_the_result_is_another_run(recipe: Make) -> None:
    assert set(OTHER) == keys_of(Recipe) - WITHOUT_EFFECT
    ids = [
        identity(recipe(), "c"),
        identity(recipe(), "other"),
        identity(recipe(), "c", ("parent", 128)),
        identity(recipe(), "c", ("parent", 256)),
        *(identity(with_value(recipe, key, value), "c") for key, value in OTHER.items()),
    ]
    assert len(set(ids)) == len(ids)


def test_every_key_has_a_default_of_this_version(recipe: Make) -> None:
    """A key without a line in DEFAULTS could change its default and give two runs one id."""
    always = {*ALWAYS_SAID, *OF_PREFERENCES}
    assert keys_of(Recipe) - always - WITHOUT_EFFECT == set(DEFAULTS)
    assert set(apart(recipe())) - set(DEFAULTS) == ALWAYS_SAID
    learns = with_value(recipe, *next(iter(OF_PREFERENCES.items())))
    assert set(apart(learns)) - set(DEFAULTS) == always


# --- a later version of the project


class LaterModel(Model):
    """With one more key."""

    window: int = 0


class Average(Section):
    """A section that there was not."""

    over: int = 10
    of: str = "weights"


class LaterRecipe(Recipe):
    """With a key and a section that there were not, and with another default rate."""

    model: LaterModel
    average: Average = Average()


class OtherRate(Optimizer):
    """With another default."""

    lr: float = 0.02


class LaterRate(Recipe):
    """A recipe of the same keys with another default rate."""

    optimizer: OtherRate = OtherRate()


def later(cls: type[Recipe], recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    """The recipe as a later version reads it from its file, with some keys more."""
    values = recipe.model_dump()
    for section, fields in sections.items():
        values[section] = values.get(section, {}) | fields
    return cls.model_validate(values)


def test_a_key_that_is_added_moves_no_id(recipe: Make, stem: Make) -> None:
    for made in (recipe(), stem(TOKENS), recipe(model={"experts": 4})):
        assert identity(later(LaterRecipe, made), "c") == identity(made, "c")
        said = later(LaterRecipe, made, model={"window": 0}, average={"of": "weights"})
        assert identity(said, "c") == identity(made, "c")


@pytest.mark.parametrize("used", [{"model": {"window": 8}}, {"average": {"over": 3}}])
def test_a_key_that_is_added_counts_where_it_is_used(
    recipe: Make, stem: Make, used: dict[str, Any]
) -> None:
    for made in (recipe(), stem(TOKENS)):
        assert identity(later(LaterRecipe, made, **used), "c") != identity(made, "c")


def test_a_default_that_changes_gives_no_two_runs_one_id(recipe: Make) -> None:
    values = recipe().model_dump()
    del values["optimizer"]
    unsaid = LaterRate.model_validate(values)
    assert unsaid.optimizer.lr == 0.02
    assert identity(unsaid, "c") == identity(recipe(optimizer={"lr": 0.02}), "c")
    assert identity(later(LaterRate, recipe()), "c") == identity(recipe(), "c")
