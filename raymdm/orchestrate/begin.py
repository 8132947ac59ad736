"""The folder that a sweep runs in: a new one, or that of a sweep which goes on or grows."""

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from raymdm import __version__
from raymdm.config.load import config_hash, conflicts, dump_recipe
from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.folder import RESULTS, SweepFolder, trial_name
from raymdm.orchestrate.inputs import Inputs, require_same
from raymdm.orchestrate.origin import origin
from raymdm.orchestrate.ownership import held, locked, owned
from raymdm.storage import Storage

STAMP = "%Y%m%d-%H%M%S"
PATIENCE_S = 120.0
"""Seconds to wait for other processes that begin a sweep of the same name."""

Choose = Callable[[Recipe, Inputs], SweepFolder]
"""Gives the folder that a sweep runs in."""


@contextmanager
def taken(recipe: Recipe, inputs: Inputs, choose: Choose) -> Iterator[SweepFolder]:
    """The folder that `choose` gives, held. One process at a time looks and takes, so that a second one finds the sweep
    of the first one held.

    Raises what `choose` and `owned` raise, and UserError where the sweep was begun with other data or another model.
    """
    output = Path(recipe.output).absolute()
    busy = (
        f"another process has begun a sweep {recipe.name!r} in {output} for {PATIENCE_S:.0f} s: stop it, or try again"
    )
    with ExitStack() as held_on:
        with locked(output / f".{recipe.name}.lock", PATIENCE_S, busy):
            folder = choose(recipe, inputs)
            require_same(folder, inputs)
            held_on.enter_context(owned(folder))
        yield folder


def create(recipe: Recipe, inputs: Inputs | None = None) -> SweepFolder:
    """A new folder `<output>/<name>-<time>` with recipe.yaml and sweep.json.

    inputs: what the runs will be made from; None: not known. Raises UserError when the folder cannot be written, or
    while another process runs the same sweep.
    """
    for folder in _sweeps(recipe):
        if folder.state()["config_hash"] == config_hash(recipe) and held(folder.path):
            raise UserError(
                f"{folder.path} is this sweep, and another process is running it: wait for it, or stop it first. "
                "`raymdm status` shows how far it is"
            )
    try:
        path = _new_folder(recipe)
        (path / "recipe.yaml").write_text(dump_recipe(recipe))
    except OSError as error:
        raise UserError(
            f"output: cannot write to {recipe.output} ({error.strerror}): choose another folder with output=DIR"
        ) from None
    began = origin()
    state: dict[str, Any] = {
        "name": recipe.name,
        "config_hash": config_hash(recipe),
        "next_hash": None,
        **began,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "status": "running",
        "hardware": hardware(),
        "origins": [began],
        "ran_under": {},
        "inputs": inputs,
        "wall_seconds": 0.0,
        "stage_seconds": {},
        "mlflow_uri": None,
        "experiment": recipe.tracking.experiment or recipe.name,
        "slots": None,
        "rounds": [],
        "stopped": None,
    }
    folder = SweepFolder(path, _mirror(recipe, path.name))
    folder.push("recipe.yaml")  # sweep.json last: it makes the folder a sweep
    folder.write("sweep.json", json.dumps(state, indent=1))
    return folder


class NothingToResume(UserError):
    """There is no unfinished sweep of a recipe."""

    def __init__(self, message: str, done: Path | None = None) -> None:
        super().__init__(message)
        self.done = done
        """The newest sweep of the recipe that has finished."""


def latest(recipe: Recipe) -> SweepFolder:
    """The sweep that goes on with this recipe: the newest that has not finished, one with the same grid before one that
    grows, else the newest finished one whose grid the recipe extends.

    Sweeps of the same name that ran another recipe are passed over. Raises NothingToResume when there is none; when
    only such sweeps are left, it shows what differs in the newest, or that another version of raymdm began it.
    """
    _adopt(recipe)
    folders = _sweeps(recipe)
    fitting = [folder for folder in folders if not _conflicts(folder, recipe)]
    open_ones = [folder for folder in fitting if folder.state()["status"] != "finished"]
    same = [folder for folder in open_ones if not _grows(folder, recipe)]
    growing = [folder for folder in fitting if _grows(folder, recipe)]
    for folder in (*same, *open_ones, *growing):
        return folder
    unfinished = [folder for folder in folders if folder.state()["status"] != "finished"]
    if not unfinished or fitting:
        done = fitting[0].path if fitting else None
        where = f"{done} is done" if done else f"there is none in {recipe.output} with this recipe"
        raise NothingToResume(f"no unfinished {_asked(recipe)}: {where}. {_instead(recipe, done)}", done)
    newest = unfinished[0]
    changed = "\n".join(f"  {line}" for line in conflicts(newest.recipe(), recipe))
    if not changed:
        raise NothingToResume(
            f"{newest.path} has this recipe, but was begun by another version of raymdm "
            f"({newest.state()['raymdm_version']}; this is {__version__}), in which it may mean something else: start "
            "a new sweep without --resume"
        )
    raise NothingToResume(
        f"{newest.path} was started with another recipe, so its runs cannot go on with this one:\n{changed}\n"
        "Undo the changes to resume, or start a new sweep without --resume"
    )


def _asked(recipe: Recipe) -> str:
    if _one_run(recipe):
        return f"run {trial_name(recipe.method, recipe.seed)} of {recipe.name!r}"
    return f"sweep {recipe.name!r}"


def _instead(recipe: Recipe, done: Path | None) -> str:
    """What to do where nothing is left to go on with."""
    if done and not _one_run(recipe):
        return "Add seeds or methods to it, or start one without --resume"
    return "Leave out --resume to start one"


def _one_run(recipe: Recipe) -> bool:
    """Whether it is what `raymdm train` makes of a recipe."""
    return recipe.sweep.methods == [recipe.method] and recipe.sweep.seeds == [recipe.seed]


def opened(path: Path) -> SweepFolder:
    """A sweep by its folder. Raises UserError where it is none."""
    if not (path / "sweep.json").is_file() or not (path / "recipe.yaml").is_file():
        raise UserError(
            f"{path} is not a sweep: it needs sweep.json and recipe.yaml. Name a folder that `raymdm sweep` made"
        )
    folder = SweepFolder(path.absolute())
    return SweepFolder(folder.path, _mirror(folder.recipe(), path.absolute().name))


def set_aside(folder: SweepFolder, cell: tuple[str, int]) -> None:
    """Keep a failed run's result under another name, so that the run is open again."""
    target, name = folder.trial(*cell), trial_name(*cell)
    number = 1 + len(list(target.glob("failure-*.json")))
    result = json.loads((target / "result.json").read_text())
    folder.write(f"trials/{name}/failure-{number}.json", json.dumps(result, indent=1))
    (target / "result.json").unlink()
    if folder.mirror:
        folder.mirror.delete(f"trials/{name}/result.json")


def hardware() -> str:
    """The machine, for reports."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def _sweeps(recipe: Recipe) -> list[SweepFolder]:
    """The sweeps of the recipe's name, the newest first."""
    paths = sorted(Path(recipe.output).absolute().glob(f"{recipe.name}-[0-9]*-[0-9]*/sweep.json"), reverse=True)
    folders = [SweepFolder(path.parent, _mirror(recipe, path.parent.name)) for path in paths]
    return [folder for folder in folders if folder.state()["name"] == recipe.name]


def _conflicts(folder: SweepFolder, recipe: Recipe) -> bool:
    begun, state = folder.recipe(), folder.state()
    other_version = config_hash(begun) not in (state["config_hash"], state.get("next_hash"))
    return other_version or bool(conflicts(begun, recipe))


def _grows(folder: SweepFolder, recipe: Recipe) -> bool:
    """Whether the recipe adds runs to the sweep's grid."""
    begun = folder.recipe().sweep
    if not isinstance(begun.seeds, list) or not isinstance(recipe.sweep.seeds, list):
        return False
    return bool({*recipe.sweep.methods} - {*begun.methods} or {*recipe.sweep.seeds} - {*begun.seeds})


def _new_folder(recipe: Recipe) -> Path:
    """Made with the next free time in its name. Raises OSError."""
    moment = _next_moment(recipe)
    while True:
        path = Path(recipe.output).absolute() / f"{recipe.name}-{moment.strftime(STAMP)}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:  # of a process elsewhere that begins just now, or that was killed as it began
            moment += timedelta(seconds=1)


def _next_moment(recipe: Recipe) -> datetime:
    """The time in the folder's name: later than that of every other sweep of the name, even if the clock went back."""
    now = datetime.now().replace(microsecond=0)
    names = (folder.path.name.removeprefix(f"{recipe.name}-") for folder in _sweeps(recipe))
    others = [moment for name in names if (moment := _moment(name))]
    return max([now, *(moment + timedelta(seconds=1) for moment in others)])


def _moment(stamp: str) -> datetime | None:
    try:
        return datetime.strptime(stamp, STAMP)
    except ValueError:
        return None


def _mirror(recipe: Recipe, name: str) -> Storage | None:
    return Storage(recipe.storage_path).child(name) if recipe.storage_path else None


def _adopt(recipe: Recipe) -> None:
    """Fetch sweeps that another machine began or went on with, as far as a driver needs them."""
    if not recipe.storage_path:
        return
    storage = Storage(recipe.storage_path)
    for name in storage.names():
        if not _is_of(recipe, name) or not storage.exists(f"{name}/sweep.json"):
            continue
        theirs, path = storage.child(name), Path(recipe.output).absolute() / name
        mine = path / "sweep.json"
        moved_on = not mine.exists() or mine.read_bytes() != theirs.read("sweep.json")
        for file in _needed(theirs):
            if moved_on or not (path / file).exists():
                theirs.get(file, path / file)
        if moved_on:
            _forget_set_aside(theirs, path)


def _forget_set_aside(theirs: Storage, path: Path) -> None:
    """Remove failures that another machine has set aside to try again."""
    for result in path.glob("trials/*/result.json"):
        if not theirs.exists(f"trials/{result.parent.name}/result.json"):
            result.unlink()


def _is_of(recipe: Recipe, name: str) -> bool:
    return name.startswith(f"{recipe.name}-") and _moment(name.removeprefix(f"{recipe.name}-")) is not None


def _needed(sweep: Storage) -> Iterator[str]:
    """Files and folders of a sweep that its driver reads; sweep.json last, because it makes the folder a sweep."""
    yield "recipe.yaml"
    if sweep.exists("calibrations"):
        yield "calibrations"
    for trial in sweep.names("trials"):
        there = sweep.names(f"trials/{trial}")
        yield from (f"trials/{trial}/{file}" for file in RESULTS if file in there)
    yield "sweep.json"
