"""A model's folder, looked at without its weights' numbers, torch or transformers: mistakes are told at once."""

import json
from pathlib import Path
from typing import Any, Literal

from raymdm.errors import UserError
from raymdm.models.files import INDEX, read_json, weight_map
from raymdm.storage import refused

SINGLE, ADAPTER = "model.safetensors", "adapter_model.safetensors"
_LONGEST_HEADER = 10**8
"""Of a safetensors file, in bytes: what its format allows."""


def require_model(folder: Path, option: str) -> None:
    """Raise UserError, naming the option that gave it, unless a folder looks like a model's or an adapter's.

    Raises StorageError where it cannot be looked at.
    """
    with refused.told("read", str(folder)):
        if not folder.is_dir():
            raise UserError(f"{option}: {folder} is no folder. Give the `model` folder of a run, or a model's")
        names = {file.name for file in folder.iterdir()}
    if not names & {SINGLE, INDEX, ADAPTER}:
        raise UserError(
            f"{option}: {folder} holds no {SINGLE}, {INDEX} or {ADAPTER}: give the `model` folder of a run, or a "
            "model's with weights in safetensors"
        )
    if "config.json" not in names and ADAPTER not in names:
        raise UserError(f"{option}: {folder} holds no config.json: give the `model` folder of a run, or a model's")


def require_source(folder: Path) -> None:
    """Raise UserError unless `raymdm convert` is given a folder, StorageError where that cannot be told."""
    with refused.told("read", str(folder)):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder. Give the folder of a model, trained or downloaded")


def check_weights(folder: Path, place: str) -> tuple[int, int]:
    """The number of a model's files of weights and their bytes; of each, only the header is read.

    Raises UserError where one is missing, cut short or has not the tensors that the index says, StorageError.
    """
    index = weight_map(folder, place)
    files = sorted({*index.values()}) if index is not None else [SINGLE]
    if missing := [file for file in files if not (folder / file).is_file()]:
        of = f", of {len(files)} that {INDEX} names," if index is not None else ""
        raise UserError(
            f"{place}: {missing[0]}{of} is missing{_more(missing)}. Copy the model anew from where it is from"
        )
    tensors = {file: _tensors(folder / file, place) for file in files}
    lost = sorted(name for name, file in (index or {}).items() if name not in tensors[file])
    if lost and index is not None:
        raise UserError(
            f"{place}: {index[lost[0]]} lacks the tensor {lost[0]}, which {INDEX} says is in it{_more(lost)}. Copy the "
            "model anew from where it is from"
        )
    return len(files), sum((folder / file).stat().st_size for file in files)


def _more(names: list[str]) -> str:
    return f" ({len(names) - 1} more like it)" if len(names) > 1 else ""


def _tensors(file: Path, place: str) -> dict[str, Any]:
    """A safetensors file's header: eight bytes with its length, a JSON object, and then as many bytes as it says."""
    with refused.told("read", str(file)), file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = content.read(length) if length <= _LONGEST_HEADER else b""
        size = file.stat().st_size
    try:
        found = json.loads(header)
        tensors = {name: value for name, value in found.items() if name != "__metadata__"}
        end = 8 + length + max((int(value["data_offsets"][1]) for value in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise UserError(f"{place}: {file.name} is broken: {_AGAIN}") from None
    if size != end:
        raise UserError(f"{place}: {file.name} has {size} bytes, but its header says {end}: {_AGAIN}")
    return tensors


_AGAIN = "it was cut short, or is no safetensors file. Copy it anew from where the model is from"


def family(folder: Path, place: str) -> Literal["mdm", "arm"] | None:
    """`mdm` or `arm`: what the model in a folder is, by its config.json; None where an adapter's has none.

    LLaDA, iLLaDA and Dream do not say so in their config.json, but by their type. Raises UserError for a model of an
    architecture that is not supported, and StorageError.
    """
    if not (folder / "config.json").exists():
        return None
    fields = read_json(folder / "config.json", place)
    from raymdm.models.families import inspected

    # code that the folder ships is not run by looking
    config = inspected(str(folder), place, trust_remote_code=True).config
    is_causal = getattr(config, "is_causal", True) if config is not None else fields.get("is_causal")
    return "mdm" if is_causal is False else "arm"
