"""The sweep folder: where each stage leaves its files, and what happened so far."""

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raymdm import __version__
from raymdm.config.load import config_hash, differences, dump_recipe, load_recipe
from raymdm.config.schema import Recipe
from raymdm.errors import UserError

PACKAGES = ("ray", "torch", "transformers", "datasets", "numpy", "scipy", "mlflow")


def trial_name(method: str, seed: int) -> str:
    """A run's name: its folder, its MLflow run and the key it resumes by."""
    return f"{method}-s{seed}"


@dataclass(frozen=True)
class SweepFolder:
    """Paths and state of one sweep."""

    path: Path

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
        write_json(self.path / "sweep.json", self.state() | fields)

    def add_seconds(self, **stages: float) -> None:
        """Add seconds to stages of sweep.json; a resumed sweep goes on adding."""
        before = self.state()["stage_seconds"]
        self.update(stage_seconds=before | {name: before.get(name, 0.0) + s for name, s in stages.items()})


def create(recipe: Recipe) -> SweepFolder:
    """A new folder `<output>/<name>-<time>` with recipe.yaml and sweep.json.

    Raises UserError when it cannot be written.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(recipe.output).absolute() / f"{recipe.name}-{stamp}"
    try:
        path.mkdir(parents=True)
        (path / "recipe.yaml").write_text(dump_recipe(recipe))
    except OSError as error:
        raise UserError(
            f"output: cannot write to {path} ({error.strerror}): choose another folder with output=DIR"
        ) from None
    state = {
        "name": recipe.name,
        "config_hash": config_hash(recipe),
        "git_commit": git_commit(),
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "status": "running",
        "raymdm_version": __version__,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "environment": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "wall_seconds": 0.0,
        "stage_seconds": {},
        "mlflow_uri": None,
        "experiment": recipe.tracking.experiment or recipe.name,
        "slots": None,
    }
    write_json(path / "sweep.json", state)
    return SweepFolder(path)


def latest_unfinished(recipe: Recipe) -> SweepFolder:
    """The newest sweep of this recipe's name that has not finished; refuses one that ran another recipe.

    Raises UserError when there is none, or when what can change results differs; then it shows the differences.
    """
    candidates = sorted(Path(recipe.output).absolute().glob(f"{recipe.name}-[0-9]*-[0-9]*/sweep.json"), reverse=True)
    for candidate in candidates:
        folder = SweepFolder(candidate.parent)
        if folder.state()["status"] == "finished":
            continue
        changed = differences(folder.recipe(), recipe)
        if changed:
            raise UserError(
                f"{folder.path} was started with another recipe, so its runs cannot go on with this one:\n"
                + "\n".join(f"  {line}" for line in changed)
                + "\nUndo the changes to resume, or start a new sweep without --resume"
            )
        return folder
    raise UserError(f"no unfinished sweep {recipe.name!r} in {recipe.output}: start one without --resume")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.rename(path)


def git_commit() -> str | None:
    """The commit of the working directory, marked when files were changed since; None outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")
