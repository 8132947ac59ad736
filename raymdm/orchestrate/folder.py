"""The sweep folder: where each stage leaves its files, and what happened so far."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from raymdm import __version__
from raymdm.config.load import config_hash, differences, dump_recipe, load_recipe
from raymdm.config.schema import ModelConfig, Recipe
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


def localised(recipe: Recipe) -> Recipe:
    """The recipe with its output and local model folders as absolute paths: Ray's workers run in other directories.

    Raises UserError when the output cannot be written.
    """
    writable(Path(recipe.output))

    def local(model: ModelConfig | None) -> ModelConfig | None:
        if model is None or model.path is None or not Path(model.path).is_dir():
            return model  # a name on a hub
        return model.model_copy(update={"path": str(Path(model.path).absolute())})

    changes = {"output": str(Path(recipe.output).absolute()), "model": local(recipe.model)}
    return recipe.model_copy(update=changes | {"arm_model": local(recipe.arm_model)})


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
    state: dict[str, Any] = {
        "name": recipe.name,
        "config_hash": config_hash(recipe),
        "git_commit": git_commit(),
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "status": "running",
        "raymdm_version": __version__,
        "hardware": hardware(),
        "environment": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "wall_seconds": 0.0,
        "stage_seconds": {},
        "mlflow_uri": None,
        "experiment": recipe.tracking.experiment or recipe.name,
        "slots": None,
        "rounds": [],
        "stopped": None,
    }
    write_json(path / "sweep.json", state)
    return SweepFolder(path)


def hardware() -> str:
    """The machine, for reports."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def latest_unfinished(recipe: Recipe) -> SweepFolder:
    """The newest sweep of this recipe that has not finished, its stored recipe brought up to date.

    Sweeps of the same name that ran another recipe are passed over. Raises UserError when there is none; when only such
    sweeps are left, it shows what differs in the newest, or that another version of raymdm began it.
    """
    paths = sorted(Path(recipe.output).absolute().glob(f"{recipe.name}-[0-9]*-[0-9]*/sweep.json"), reverse=True)
    folders = [SweepFolder(path.parent) for path in paths]
    unfinished = [f for f in folders if f.state()["name"] == recipe.name and f.state()["status"] != "finished"]
    for folder in unfinished:
        if folder.state()["config_hash"] == config_hash(recipe):
            # workers and scheduling may have changed, which changes no result
            (folder.path / "recipe.yaml").write_text(dump_recipe(recipe))
            return folder
    if not unfinished:
        raise UserError(f"no unfinished sweep {recipe.name!r} in {recipe.output}: start one without --resume")
    newest = unfinished[0]
    changed = "\n".join(f"  {line}" for line in differences(newest.recipe(), recipe))
    if not changed:
        raise UserError(
            f"{newest.path} has this recipe, but was begun by another version of raymdm "
            f"({newest.state()['raymdm_version']}; this is {__version__}), in which it may mean something else: start "
            "a new sweep without --resume"
        )
    raise UserError(
        f"{newest.path} was started with another recipe, so its runs cannot go on with this one:\n{changed}\n"
        "Undo the changes to resume, or start a new sweep without --resume"
    )


@contextmanager
def owned(folder: SweepFolder) -> Iterator[None]:
    """Hold the sweep's lock. Raises UserError while another process runs this sweep."""
    lock = FileLock(folder.path / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder.path} is being run by another process: wait for it, or stop it first") from None
    try:
        yield
    finally:
        lock.release()


def writable(output: Path, option: str = "output=DIR") -> None:
    """Raise UserError unless results can be written to `output`, which need not exist yet; `option` sets it."""
    existing = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"output: cannot write to {output} ({existing} is not writable): choose another, {option}")


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
