"""What is wrong with a recipe's values, in one line."""

from typing import get_args

from pydantic import BaseModel, ValidationError

from windtunnel.errors import did_you_mean


def first_fault(error: ValidationError, recipe: type[BaseModel]) -> str:
    """`model.widht: unknown key; did you mean 'width'?`, from what pydantic has to say."""
    # a misspelt key explains what is missing, so it comes first
    unknown = (fault for fault in error.errors() if fault["type"] == "extra_forbidden")
    fault = next(unknown, error.errors()[0])
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *sections, key = (str(part) for part in fault["loc"])
        return f"{where}: unknown key{did_you_mean(key, _keys_of(recipe, sections))}"
    if fault["type"] == "missing":
        return f"{where}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if fault["type"] == "value_error" else f", got {fault['input']!r}"
    return f"{where}: {message}{given}" if where else message


def _keys_of(recipe: type[BaseModel], sections: list[str]) -> list[str]:
    """The keys that the section at this path has."""
    cls = recipe
    for section in sections:
        if section not in cls.model_fields:
            continue  # a list index
        inner = cls.model_fields[section].annotation
        inner = next((a for a in get_args(inner) if isinstance(a, type)), inner)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            cls = inner
    return list(cls.model_fields)
