"""A recipe: the complete, frozen, typed description of one training run. A TOML file and `Recipe`
are the same.

What a recipe may choose by name (a decay shape, a parametrization) stands here too, each in one
table of records, so that a name is known before anything is trained.
"""

import importlib
from typing import TYPE_CHECKING, Any

from windtunnel.recipe.decay import (
    DECAY_SHAPES,
    PAPER_DECAY,
    BranchDecay,
    Decay,
    DecayShape,
    DecayShapeName,
)
from windtunnel.recipe.objective import (
    OBJECTIVES,
    DataKind,
    ObjectiveKind,
    ObjectiveName,
    Preferred,
    Seen,
    objective_of,
)
from windtunnel.recipe.optimizer import OPTIMIZERS, OptimizerKind, OptimizerName, Update
from windtunnel.recipe.parametrization import (
    PARAMETRIZATIONS,
    Multipliers,
    Parametrization,
    ParametrizationName,
    Role,
    Rule,
)
from windtunnel.recipe.precision import PRECISIONS, Precision, PrecisionName
from windtunnel.recipe.preference import PREFERENCE_LOSSES, Answers, PreferenceLoss
from windtunnel.recipe.rope import ROPE_SCALINGS, RopeScaling, RopeScalingName
from windtunnel.recipe.schedule import SCHEDULES, ScheduleKind, ScheduleName

if TYPE_CHECKING:
    from windtunnel.recipe.file import dump, load
    from windtunnel.recipe.ids import RESULTS_VERSION, identity
    from windtunnel.recipe.sections import (
        Data,
        Growth,
        Mixture,
        Model,
        Optimizer,
        Preference,
        Recipe,
        Schedule,
        Section,
        Stage,
        Train,
        parse,
    )

__all__ = [
    "DECAY_SHAPES",
    "OBJECTIVES",
    "OPTIMIZERS",
    "PAPER_DECAY",
    "PARAMETRIZATIONS",
    "PRECISIONS",
    "PREFERENCE_LOSSES",
    "RESULTS_VERSION",
    "ROPE_SCALINGS",
    "SCHEDULES",
    "Answers",
    "BranchDecay",
    "Data",
    "DataKind",
    "Decay",
    "DecayShape",
    "DecayShapeName",
    "Growth",
    "Mixture",
    "Model",
    "Multipliers",
    "ObjectiveKind",
    "ObjectiveName",
    "Optimizer",
    "OptimizerKind",
    "OptimizerName",
    "Parametrization",
    "ParametrizationName",
    "Precision",
    "PrecisionName",
    "Preference",
    "PreferenceLoss",
    "Preferred",
    "Recipe",
    "Role",
    "RopeScaling",
    "RopeScalingName",
    "Rule",
    "Schedule",
    "ScheduleKind",
    "ScheduleName",
    "Section",
    "Seen",
    "Stage",
    "Train",
    "Update",
    "dump",
    "identity",
    "load",
    "objective_of",
    "parse",
]

# What needs pydantic, by the module that has it: imported when it is asked for, so that a command
# says at once what it can do.
_LATER = {
    "dump": "file",
    "load": "file",
    "RESULTS_VERSION": "ids",
    "identity": "ids",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LATER.get(name, 'sections')}")
    return getattr(module, name)
