"""Failed runs of a sweep, once more."""

import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from raymdm.config.load import conflicts, load_recipe
from raymdm.errors import UserError
from raymdm.orchestrate.begin import opened, set_aside
from raymdm.orchestrate.folder import SweepFolder, trial_name
from raymdm.orchestrate.ownership import held
from raymdm.orchestrate.rounds import cells_so_far, ended, finished
from raymdm.orchestrate.sweep import go_on


def retry(path: Path, names: Sequence[str], overrides: Sequence[str], console: Console) -> SweepFolder:
    """Run failed cells of a sweep again, and those that have not ended; an earlier error stays as failure-N.json.

    names: of runs, such as `mirror-s42`; empty for all that failed. Raises UserError where one did not fail, and for
    overrides that would change results, or while another process runs the sweep.
    """
    folder = opened(path)
    if held(folder.path):  # told before Ray is started
        raise UserError(f"{folder.path} is being run by another process: wait for it, or stop it first")
    begun = folder.recipe()
    recipe = load_recipe(folder.path / "recipe.yaml", overrides)
    if changed := conflicts(begun, recipe):
        lines = "\n".join(f"  {line}" for line in changed)
        raise UserError(f"{folder.path}: its runs cannot go on with another recipe:\n{lines}\nLeave these fields alone")
    cells = {trial_name(*cell): cell for cell in cells_so_far(begun, folder)}
    if unknown := [name for name in names if name not in cells]:
        near = difflib.get_close_matches(unknown[0], cells, 3)
        known = f"Near ones: {', '.join(near)}" if near else f"`raymdm status {folder.path} --all` lists its runs"
        raise UserError(f"{folder.path}: there is no run {unknown[0]}. {known}")
    failed = {name: cell for name, cell in cells.items() if ended(folder, cell) and not finished(folder, cell)}
    if not failed and all(finished(folder, cell) for cell in cells.values()):
        raise UserError(f"{folder.path}: all runs have finished: nothing is to be tried again")
    if not failed:
        again = shlex.join(["raymdm", "sweep", str(folder.path / "recipe.yaml"), "--resume"])
        raise UserError(f"{folder.path}: no run has failed. Go on with what is left by: {again}")
    if unknown := [name for name in names if name not in failed]:
        raise UserError(f"{folder.path}: {unknown[0]} has not failed. Failed: {', '.join(failed)}")

    def reopen(folder: SweepFolder) -> None:
        for name in names or failed:
            set_aside(folder, failed[name])

    return go_on(folder, recipe, console, reopen)
