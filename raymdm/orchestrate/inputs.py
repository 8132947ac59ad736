"""What a sweep's runs are made from, its data and models: all of them from the same."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from raymdm.config.schema import ModelConfig, Recipe
from raymdm.data import loading
from raymdm.errors import UserError
from raymdm.orchestrate.folder import SweepFolder
from raymdm.storage import address, refused

Inputs = dict[str, Any]
"""As sweep.json keeps them: `data`, family -> hash and rows, the tokenizer in the hash; `models`, the recipe's field ->
`files`, name -> hash, or the `revision` on a hub, null where it is not known."""

STRIDE = 32 * 2**20
"""Bytes from one sample of a large file to the next: less than a matrix of a model of 7B."""
SAMPLE = 2**16
"""Bytes of a sample."""
_LONGEST_HEADER = 10**8
"""Of a safetensors file, in bytes: what its format allows."""
_SHOWN = 4
"""Changed files that are named."""


def identify(recipe: Recipe, data: Mapping[str, Path]) -> Inputs:
    """What the recipe's runs would be made from now. data: family -> prepared folder.

    Raises StorageError where a model's files are there and cannot be read; one that is missing is told when it is
    loaded.
    """
    models = {"model.path": recipe.model, "arm_model.path": recipe.arm_model}
    return {
        "data": {family: _data(folder) for family, folder in data.items()},
        "models": {field: _model(model) for field, model in models.items() if model and model.kind == "pretrained"},
    }


def require_same(folder: SweepFolder, now: Inputs) -> None:
    """Raise UserError when a sweep was begun with other data or another model.

    One that an earlier version began does not say: nothing is refused.
    """
    before = folder.state().get("inputs")
    if before and (changed := changes(before, now)):
        lines = "\n".join(f"  {line}" for line in changed)
        raise UserError(
            f"{folder.path} was begun with something else, so its runs cannot go on with this:\n{lines}\n"
            "Put back what it was begun with, or start a new sweep without --resume"
        )


def changes(before: Inputs, now: Inputs) -> list[str]:
    """What differs, old -> new, a line each. What is not known on one side does not differ."""
    data = {
        family: f"{_shown(old)} -> {_shown(now['data'][family])}"
        for family, old in before["data"].items()
        if family in now["data"] and old["hash"] != now["data"][family]["hash"]
    }
    alike = len(data) == len(before["data"]) and len({*data.values()}) == 1
    lines = [f"data{'' if alike else f' of {family}'} (rows or tokenizer): {text}" for family, text in data.items()]
    for field, model in before["models"].items():
        if field in now["models"] and (text := _model_change(model, now["models"][field])):
            lines.append(f"{field}: {text}")
    return list(dict.fromkeys(lines))


def completed(before: Inputs | None, now: Inputs) -> Inputs:
    """What was known before, and from now what was not."""
    if not before:
        return now
    models = {
        field: now["models"].get(field, model) if model.get("revision", "") is None else model
        for field, model in before["models"].items()
    }
    return before | {"models": models}


def _data(folder: Path) -> dict[str, Any]:
    found = loading.meta(folder)
    return {"hash": found["hash"], "rows": {split: counts["rows"] for split, counts in found["counts"].items()}}


def _model(model: ModelConfig) -> dict[str, Any]:
    path = str(model.path)
    if "://" in path or Path(path).is_absolute() or path.startswith("."):
        return {"files": _files(path)}
    return {"revision": _revision(path)}


def _revision(name: str) -> str | None:
    """The commit of a hub's model in this machine's cache, which transformers has just asked the hub for when it loaded
    the tokenizer; another node may still find a newer one."""
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # no hub's name: loading it tells
        file = try_to_load_from_cache(name, "config.json")
        return Path(file).parent.name if isinstance(file, str) else None
    return None


def _files(path: str) -> dict[str, str]:
    """Hashes of what decides a model: config.json, weights, and code that it ships. Its tokenizer is the data's."""
    local = address.local_path(path)
    system, root = (fs.LocalFileSystem(), str(local)) if local else address.opened(path)
    with refused.told("read", path):
        found = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
        return {
            info.base_name: _hash(system, info)
            for info in sorted(found, key=lambda info: info.base_name)
            if info.type == fs.FileType.File
            and (info.base_name == "config.json" or info.extension in ("safetensors", "py"))
        }


def _hash(system: fs.FileSystem, info: fs.FileInfo) -> str:
    """Hash of a file's size and content or, of a large one, of its header and of samples.

    All of 16 GB would take a minute before every sweep, samples take a second. They show another training, a merged
    adapter, another type or shape, since these change every sample or the header; not that a few rows of a large
    matrix were edited in place.
    """
    digest = hashlib.sha256(str(info.size).encode())
    with system.open_input_file(info.path) as file:
        if info.size <= STRIDE:
            digest.update(file.read())
        else:
            header = int.from_bytes(file.read_at(8, 0), "little")
            digest.update(file.read_at(min(header, _LONGEST_HEADER), 8))
            for place in (*range(0, info.size - SAMPLE, STRIDE), info.size - SAMPLE):
                digest.update(file.read_at(SAMPLE, place))
    return digest.hexdigest()[:16]


def _shown(data: Mapping[str, Any]) -> str:
    rows = ", ".join(f"{number} {split}" for split, number in data["rows"].items())
    return f"{data['hash'][:8]} ({rows} rows)"


def _model_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs in a model; empty where nothing does, or it is not known."""
    if "files" not in before or "files" not in now:
        old, new = before.get("revision"), now.get("revision")
        return f"revision {old[:8]} -> {new[:8]}" if old and new and old != new else ""
    names = sorted({*before["files"], *now["files"]})
    pairs = [(name, before["files"].get(name, ""), now["files"].get(name, "")) for name in names]
    lines = [f"{name} {old[:8] or '(none)'} -> {new[:8] or '(none)'}" for name, old, new in pairs if old != new]
    return ", ".join(lines[:_SHOWN]) + (f" and {len(lines) - _SHOWN} more files" if len(lines) > _SHOWN else "")
