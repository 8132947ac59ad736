"""Recipes from and to YAML, their dotted overrides, and what makes two of them the same experiment.

A recipe may begin with `extends: other.yaml` (relative to its own folder): it is laid over that one, mapping by
mapping, while lists and single values are replaced. `train.lr=1e-4` on the command line is laid over both.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from raymdm.config import yaml_text
from raymdm.config.problems import describe, nearest, show
from raymdm.config.schema import Recipe
from raymdm.errors import UserError

UNHASHED = frozenset(
    {
        # Names and places: they label results.
        "name",
        "description",
        "output",
        "storage_path",
        "tracking",
        # What is asked of a model beside its training.
        "diagnose",
        # How often to try again: a restart goes on from a checkpoint with the same noise.
        "train.max_failures",
        "sweep.max_failures",
        "sweep.on_failure",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        # Where and how many at once: the draws are keyed by row, not by the process that makes them. (The number of
        # workers and the batch sizes change the order in which floats are added, and a GPU computes in bf16: they are
        # hashed.)
        "sweep.max_concurrent",
        "sweep.reuse_processes",
        "train.placement_strategy",
        "train.cpus_per_worker",
        "calibrate.num_actors",
        "calibrate.cpus_per_actor",
        "evaluate.num_actors",
        "evaluate.cpus_per_actor",
    }
)
"""Fields and sections that cannot change a result, and so are no part of a recipe's hash."""


class _Layer(NamedTuple):
    """A mapping to lay over the ones before it: a file, or an override that has no lines."""

    label: str
    document: yaml_text.Document
    is_file: bool

    def place(self, field: Sequence[str | int]) -> str | None:
        """Where this layer gives `field`: "file:line" or "override"; None if it does not."""
        if self.is_file:
            line = self.document.line(field)
            return None if line is None else f"{self.label}:{line}"
        value = self.document.value
        for part in field:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return self.label


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, lay overrides such as `train.lr=1e-4` over it and check the whole.

    An override's value is read as YAML; a mapping is merged into the one below it, as `extends` does.

    Raises:
        UserError: with one line for each problem found: the file and line or "override", the dotted field, the value
            given, what was expected and the remedy.
    """
    problems: list[str] = []
    layers = _read_chain(Path(path), problems)
    complete = not problems  # half a chain of files would be said to miss what the other half holds
    layers += _read_overrides(overrides, problems)
    if complete:
        tree: dict[str, Any] = {}
        for layer in layers:
            tree = yaml_text.merge(tree, layer.document.value)
        try:
            recipe = Recipe.model_validate(tree)
        except ValidationError as found:
            problems += [f"{_place(layers, error['loc'])}: {describe(error)}" for error in found.errors()]
            if Path(path).name.startswith("_"):
                problems.append(
                    f"{path}: a file whose name starts with _ is a base for others; name one that extends it"
                )
    if problems:
        raise UserError("\n".join(problems))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults included; `load_recipe` reads it back as an equal one."""
    return yaml_text.dump(recipe.model_dump())


def config_hash(recipe: Recipe) -> str:
    """12 hexadecimal digits that agree for two recipes which give the same results (see `UNHASHED`)."""
    text = json.dumps(sorted(_hashed(recipe).items()), default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What two recipes with unequal hashes disagree on, such as `train.lr: 0.001 -> 0.002`."""
    before, after = _hashed(old), _hashed(new)
    fields = [*before, *(field for field in after if field not in before)]
    return [
        f"{field}: {_shown(before, field)} -> {_shown(after, field)}"
        for field in fields
        if _shown(before, field) != _shown(after, field)
    ]


def conflicts(old: Recipe, new: Recipe) -> list[str]:
    """What keeps a sweep of `old` from going on as one of `new`, as `differences` says it.

    A fixed grid may gain methods and seeds, and be compared to another baseline: its runs stay what they are.
    """
    free = {"method", "seed"}
    if isinstance(old.sweep.seeds, list) and isinstance(new.sweep.seeds, list):
        free.add("sweep.baseline")
        if {*old.sweep.methods} <= {*new.sweep.methods}:
            free.add("sweep.methods")
        if {*old.sweep.seeds} <= {*new.sweep.seeds}:
            free.add("sweep.seeds")
    used = {*old.sweep.methods} & {*old.methods}
    return [
        line
        for line in differences(old, new)
        if (field := line.partition(":")[0]) not in free
        and not (field.startswith("methods.") and field.split(".")[1] not in used)
    ]


def find_recipes(folder: Path) -> list[tuple[Path, str, str]]:
    """Path, name and description of each recipe in a folder, sorted by file name.

    A broken recipe is listed under its file's name, with its first problem for a description. A file whose name begins
    with `_` holds a part for others to extend, and is left out.

    Raises:
        UserError: the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name one that holds recipes (*.yaml)")
    found = []
    for path in _recipe_files(folder):
        try:
            recipe = load_recipe(path)
            found.append((path, recipe.name, recipe.description))
        except UserError as error:
            found.append((path, path.stem, f"broken: {str(error).splitlines()[0]}"))
    return found


def _recipe_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and not p.name.startswith("_"))


def _read_chain(path: Path, problems: list[str], below: tuple[Path, ...] = ()) -> list[_Layer]:
    """The file and all that it extends, the deepest first; what cannot be read is added to `problems`."""
    if path.resolve() in below:
        problems.append(f"{path}: extends: the files extend each other in a circle; remove one `extends`")
        return []
    document = _read_file(path, problems)
    if document is None:
        return []
    parent = document.value.pop("extends", None)
    layers = [_Layer(str(path), document, is_file=True)]
    if parent is None:
        return layers
    if not isinstance(parent, str):
        line = document.line(("extends",))
        problems.append(f"{path}:{line}: extends: got {show(parent)}; expected one file name, such as other.yaml")
        return layers
    return _read_chain(path.parent / parent, problems, (*below, path.resolve())) + layers


def _read_file(path: Path, problems: list[str]) -> yaml_text.Document | None:
    try:
        document = yaml_text.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(_not_found(path))
        return None
    except UnicodeDecodeError:
        problems.append(f"{path}: not UTF-8 text; expected a recipe in YAML")
        return None
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}; expected a recipe in YAML")
        return None
    except yaml_text.YamlProblem as problem:
        place = f"{path}:{problem.line}" if problem.line else f"{path}"
        problems.append(f"{place}: not valid YAML: {problem}")
        return None
    if not isinstance(document.value, dict):
        problems.append(f"{path}: got {show(document.value)}; expected fields such as `name: my-run`, one a line")
        return None
    return document


def _not_found(path: Path) -> str:
    if not path.parent.is_dir():
        return f"{path}: no such file: the folder {path.parent} does not exist. `raymdm recipes` lists the recipes"
    near = nearest(path.name, [p.name for p in _recipe_files(path.parent)])
    hint = f" Did you mean {path.parent / near}?" if near else ""
    return f"{path}: no such file.{hint} `raymdm recipes` lists the recipes"


def _read_overrides(overrides: Sequence[str], problems: list[str]) -> list[_Layer]:
    layers = []
    for text in overrides:
        field, equals, value = text.partition("=")
        parts = field.strip().split(".")
        if not equals or not all(parts):
            problems.append(f"override: got {show(text)}; expected field=value, such as train.lr=1e-4")
            continue
        if parts[0] == "extends":
            problems.append("override: extends: only a file can extend another; write it into the recipe")
            continue
        try:
            tree = yaml_text.parse(value).value
        except yaml_text.YamlProblem as problem:
            problems.append(f"override: {field}: got {show(value)}: not valid YAML: {problem}. Put it in quotes")
            continue
        for part in reversed(parts):
            tree = {part: tree}
        layers.append(_Layer("override", yaml_text.Document(tree, None), is_file=False))
    return layers


def _place(layers: Sequence[_Layer], field: Sequence[str | int]) -> str:
    """Where a field's value comes from; for one that is missing, where its section stands, or the file."""
    for depth in range(len(field), 0, -1):
        for layer in reversed(layers):
            place = layer.place(field[:depth])
            if place:
                return place
    return next((layer.label for layer in reversed(layers) if layer.is_file), "recipe")


def _hashed(recipe: Recipe) -> dict[str, Any]:
    """Dotted field -> value, of every field that can change a result. Composed methods that no run uses cannot."""
    used = {recipe.method, recipe.sweep.baseline, *recipe.sweep.methods}
    tree = recipe.model_dump()
    tree["methods"] = {name: parts for name, parts in tree["methods"].items() if name in used}
    return _flatten(tree)


def _flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in section.items():
        field = f"{prefix}{name}"
        if field in UNHASHED or (prefix.startswith("methods.") and name == "summary"):  # a label of a composed method
            continue
        flat |= _flatten(value, f"{field}.") if isinstance(value, Mapping) else {field: value}
    return flat


def _shown(fields: Mapping[str, Any], field: str) -> str:
    return show(fields[field]) if field in fields else "(none)"
