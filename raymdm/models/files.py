"""A model's small files, which anybody may have written: what is wrong with them is told in one message."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raymdm.errors import UserError
from raymdm.storage import refused

INDEX = "model.safetensors.index.json"


def read_json(file: Path, place: str) -> dict[str, Any]:
    """The object in a JSON file; `place` names the model in messages.

    Raises UserError if it is missing or broken, StorageError if it is there and cannot be read.
    """
    content = read_bytes(file, place)
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise UserError(
            f"{place}: {file.name} is broken: {error}. Copy it anew from where the model is from"
        ) from error
    return as_object(fields, place, file.name)


def read_bytes(file: Path, place: str) -> bytes:
    """A file's content. Raises UserError if it is missing, StorageError if it cannot be read."""
    try:
        with refused.told("read", str(file)):
            return file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{place}: {file.name} is missing. Give a folder with all of a model's files") from None


def weight_map(folder: Path, place: str) -> dict[str, str] | None:
    """The file of each tensor, as the index of a model in several files says; None without an index."""
    if not (folder / INDEX).exists():
        return None
    found = read_json(folder / INDEX, place).get("weight_map")
    if not (isinstance(found, dict) and all(isinstance(file, str) for file in found.values())):
        raise UserError(
            f"{place}: {INDEX} is broken: weight_map does not say the file of each tensor. Copy it anew from where "
            "the model is from"
        )
    return found


def as_object(fields: Any, place: str, name: str) -> dict[str, Any]:
    """What a JSON file holds. Raises UserError unless it is an object."""
    if not isinstance(fields, dict):
        raise UserError(
            f"{place}: {name} is broken: it holds a {type(fields).__name__}, expected an object {{...}}. Copy it anew "
            "from where the model is from"
        )
    return fields


@contextmanager
def understood(place: str, name: str) -> Iterator[None]:
    """Turn what transformers or peft raise over a file's fields into one message.

    They check some fields, in errors of many types, and stumble over others. What the operating system refuses stays.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"{place}: {name} cannot be used: {in_words(error)}. Correct it, or use the one that the model came with"
        ) from error


def in_words(error: Exception) -> str:
    """An error's first lines on one, with its type where they say little without."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()][:2]
    told = isinstance(error, (OSError, ValueError, ImportError, RuntimeError)) and lines
    return (" ".join(lines) if told else f"{type(error).__name__}: {' '.join(lines)}").rstrip(".: ")
