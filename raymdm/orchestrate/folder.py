"""The sweep folder: where each stage leaves its files, and what happened so far.

It lies on the machine of the sweep's driver. Runs work on the sweep's storage, which is the same folder unless the
recipe names a `storage_path`: then what the driver must know travels from one to the other.
"""

import json
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raymdm.config.load import config_hash, dump_recipe, load_recipe
from raymdm.config.schema import ModelConfig, Recipe
from raymdm.errors import UserError
from raymdm.storage import Storage

RESULTS = ("summary.json", "records.json", "scores.parquet", "result.json")
"""Files of a run that the driver reads, the one last that says that it has ended; its model stays on the storage."""


def trial_name(method: str, seed: int) -> str:
    """A run's name: its folder, its MLflow run and the key it resumes by."""
    return f"{method}-s{seed}"


def read_recipe(storage: Storage) -> Recipe:
    """The recipe of the sweep that `storage` belongs to."""
    return Recipe.model_validate(yaml.safe_load(storage.read("recipe.yaml")))


@dataclass(frozen=True)
class SweepFolder:
    """Paths and state of one sweep."""

    path: Path
    mirror: Storage | None = field(default=None, compare=False)
    """The sweep's storage, where that is not the folder itself."""

    @property
    def storage(self) -> Storage:
        """Where runs read and write."""
        return self.mirror or Storage(str(self.path))

    @property
    def calibrations(self) -> Path:
        return self.path / "calibrations"

    def trial(self, method: str, seed: int) -> Path:
        return self.path / "trials" / trial_name(method, seed)

    def recipe(self) -> Recipe:
        return load_recipe(self.path / "recipe.yaml")

    def state(self) -> dict[str, Any]:
        """The content of sweep.json."""
        state: dict[str, Any] = json.loads((self.path / "sweep.json").read_text())
        return state

    def update(self, **fields: Any) -> None:
        """Set fields of sweep.json, in one step."""
        self.write("sweep.json", json.dumps(self.state() | fields, indent=1))

    def add_seconds(self, **stages: float) -> None:
        """Add seconds to stages of sweep.json; a resumed sweep goes on adding."""
        before = self.state()["stage_seconds"]
        self.update(stage_seconds=before | {name: before.get(name, 0.0) + s for name, s in stages.items()})

    def store_recipe(self, recipe: Recipe) -> None:
        """Write recipe.yaml, and its hash into sweep.json: beforehand as the next one, so that a crash between the two
        leaves a sweep that can go on."""
        self.update(next_hash=config_hash(recipe))
        self.write("recipe.yaml", dump_recipe(recipe))
        self.update(config_hash=config_hash(recipe), next_hash=None)

    def write(self, name: str, content: str) -> None:
        """Write a file in one step, here and where the nodes see it."""
        Storage(str(self.path)).write(name, content.encode())
        if self.mirror:
            self.mirror.write(name, content.encode())

    def push(self, name: str) -> None:
        """Let the nodes see a file or folder that was made here."""
        if self.mirror:
            self.mirror.put(self.path / name, name)

    def pull(self, method: str, seed: int) -> None:
        """Fetch what a run left."""
        if not self.mirror:
            return
        theirs, target = self.mirror.child(f"trials/{trial_name(method, seed)}"), self.trial(method, seed)
        there = theirs.names()
        for name in RESULTS:
            if name in there:
                theirs.get(name, target / name)


def localised(recipe: Recipe) -> Recipe:
    """The recipe with its output, its storage and local model folders as absolute paths: Ray's workers run in other
    directories.

    Raises UserError when the output cannot be written, the storage's address is none, or other nodes could not see a
    model.
    """
    writable(Path(recipe.output))
    for address in (recipe.model.path, recipe.arm_model and recipe.arm_model.path):
        if address and "://" in address:
            Storage(address)  # refuses credentials before anything is written down
    storage = Storage(recipe.storage_path) if recipe.storage_path else None
    remote = storage is not None and not storage.local

    def local(model: ModelConfig | None) -> ModelConfig | None:
        if model is None or model.path is None or not Path(model.path).is_dir():
            return model  # a name on a hub, or on storage
        if remote:
            raise UserError(
                f"model.path: {model.path} is a folder of this machine, which other nodes do not see: copy it to "
                f"{recipe.storage_path} and name it by its address there"
            )
        return model.model_copy(update={"path": str(Path(model.path).absolute())})

    changes = {
        "output": str(Path(recipe.output).absolute()),
        "storage_path": storage.uri if storage else None,
        "model": local(recipe.model),
    }
    return recipe.model_copy(update=changes | {"arm_model": local(recipe.arm_model)})


def writable(output: Path, option: str = "output=DIR") -> None:
    """Raise UserError unless results can be written to `output`, which need not exist yet; `option` sets it."""
    existing = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):  # os.access would say yes to root, whatever the file system
            pass
    except OSError as error:
        reason = error.strerror if existing.is_dir() else "it is a file"
        raise UserError(
            f"output: cannot write to {output} ({existing} is not writable: {reason}): choose another, {option}"
        ) from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in one step, so that a reader never sees half of it. Raises StorageError."""
    Storage(str(path.parent)).write(path.name, json.dumps(content, indent=1).encode())


def git_commit() -> str | None:
    """The commit of the working directory, marked when files were changed since; None outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")
