"""What pydantic found wrong with a recipe, in one plain line a problem: where, field, value, expectation, remedy."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from raymdm.config.schema import Recipe

_PLAIN = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list, such as [1, 2]",
    "dict_type": "a mapping of names to values",
    "model_type": "a section: its fields, indented, below its name",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "a list of at least {min_length}",
    "string_pattern_mismatch": "letters, digits, dots, dashes and underscores, the first a letter or a digit",
}
"""Pydantic's error types in the words of a recipe's writer, with what its `ctx` holds."""

_OWN_WORDS = "value_error"
"""Errors raised by the schema's validators: their message already holds expectation and remedy."""


def describe(error: ErrorDetails) -> str:
    """`train.lrr: unknown field; did you mean train.lr? ...`: the problem without the place it comes from."""
    loc, kind = _without_tags(error["loc"]), error["type"]
    error = error | {"loc": loc}
    field = ".".join(str(part) for part in loc)
    if kind == "extra_forbidden":
        return f"{field}: unknown field; {_known(loc)}"
    if kind == "missing":
        return f"{field}: missing; expected {_expected(loc)}. Add it"
    message = error["msg"].removeprefix("Value error, ")
    if kind == _OWN_WORDS and isinstance(error["input"], Mapping):  # a rule over several fields of a section
        return f"{field}: {message}" if field else message
    if kind == _OWN_WORDS:
        return f"{field}: got {show(error['input'])}: {message}"
    plain = _PLAIN.get(kind)
    expected = plain.format(**error.get("ctx", {})) if plain else message.removeprefix("Input should be ")
    return f"{field}: got {show(error['input'])}; expected {expected}. {_remedy(error)}"


def _without_tags(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The path as a recipe's writer knows it: pydantic adds which of the two forms of `sweep.seeds` it took."""
    tagged = loc[:2] in (("sweep", "seeds"), ("train", "num_workers"))
    return loc[:2] + loc[3:] if tagged and loc[2:3] in (("fixed",), ("adaptive",), ("elastic",)) else loc


def show(value: Any) -> str:
    """A value as a recipe would write it, cut to 60 characters."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name closest in spelling, or None."""
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def _known(loc: tuple[int | str, ...]) -> str:
    """The nearest field name and the fields that the section has."""
    *parents, name = loc
    section = _section(parents) or Recipe
    fields = list(section.model_fields)
    near = nearest(str(name), fields)
    if near:
        hints = [".".join([*map(str, parents), near])]
    else:
        hints = [path for path in _all_fields(Recipe) if path.rsplit(".", 1)[-1] == name]
    hint = f"did you mean {' or '.join(hints)}? " if hints else ""
    where = ".".join(map(str, parents)) or "a recipe"
    return f"{hint}Known in {where}: {', '.join(fields)}"


def _expected(loc: tuple[int | str, ...]) -> str:
    """What may stand in a field that is missing."""
    section = _section(loc)
    if section:
        return f"a section with {', '.join(section.model_fields)}"
    info = field_info(loc)
    if info and get_origin(info.annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(info.annotation)))}"
    return _sentence(info) if info else "a value"


def _remedy(error: ErrorDetails) -> str:
    given, info = error["input"], field_info(error["loc"])
    near = nearest(given, _choices(info)) if isinstance(given, str) else None
    if near:
        return f"Did you mean {near}?"
    if error["type"] == "string_type" and given is not None and not isinstance(given, list | Mapping):
        return "Put the value in quotes"
    if isinstance(given, str) and error["type"] in ("int_type", "float_type"):
        return "Write a bare number, without quotes or units" + _or_default(info)
    if isinstance(given, float) and error["type"] == "int_type" and given.is_integer():
        return f"Write {int(given)}"
    return "Change it" + _or_default(info)


def _or_default(info: FieldInfo | None) -> str:
    if info is None or info.default is PydanticUndefined:
        return ""
    if isinstance(info.default, BaseModel):
        return ", or leave it out"
    return f", or leave it out for the default {show(info.default)}"


def _choices(info: FieldInfo | None) -> list[str]:
    if info is None or get_origin(info.annotation) is not Literal:
        return []
    return [str(choice) for choice in get_args(info.annotation)]


def _sentence(info: FieldInfo) -> str:
    return " ".join((info.description or "a value").split()).rstrip(".")


def field_info(loc: Sequence[int | str]) -> FieldInfo | None:
    """The schema's field at a path; None for a section's root, an item of a list, and what no field is."""
    if not loc:
        return None
    section = _section(loc[:-1])
    return section.model_fields.get(str(loc[-1])) if section else None


def _section(loc: Sequence[int | str]) -> type[BaseModel] | None:
    """The model that describes the section at a path; None where there is no section."""
    section: type[BaseModel] | None = Recipe
    parts = iter(loc)
    for part in parts:
        if section is None or str(part) not in section.model_fields:
            return None
        annotation = section.model_fields[str(part)].annotation
        section = _model_in(annotation)
        if get_origin(annotation) is dict:
            next(parts, None)  # the name of an entry
    return section


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `ModelConfig`, `ModelConfig | None` or `dict[str, MethodSpec]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return next((model for part in inner if (model := _model_in(part))), None)


def _all_fields(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in section.model_fields.items():
        yield prefix + name
        inner = _model_in(info.annotation)
        if inner:
            yield from _all_fields(inner, f"{prefix}{name}.")
