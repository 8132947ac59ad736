"""What a scheduler runs again and again: goes on with the recipe's unfinished sweep, or starts one; when the sweep has
finished, writes its report. Runs that failed are not tried again: `raymdm retry` does that, when you know why.

    python deploy/sweep_until_done.py RECIPE [FIELD=VALUE ...]

Arguments and exit status are those of `raymdm sweep`.
"""

import sys
from pathlib import Path

from raymdm.cli import main
from raymdm.config.load import load_recipe
from raymdm.errors import UserError
from raymdm.orchestrate.begin import NothingToResume, latest
from raymdm.orchestrate.folder import localised


def _verb(arguments: list[str]) -> list[str]:
    """The command to run: a sweep that goes on, one that starts, or the report of one that has finished.

    Raises UserError for a recipe that no later try would find, StorageError while storage is away.
    """
    recipe = load_recipe(Path(arguments[0]), arguments[1:])
    if not recipe.storage_path and not Path(recipe.output).is_absolute():
        raise UserError(
            f"output={recipe.output}: give an absolute folder that stays, or a storage_path, so that the next try "
            "finds the sweep"
        )
    try:
        latest(localised(recipe))
    except NothingToResume as nothing:
        return ["compare", str(nothing.done)] if nothing.done else ["sweep", *arguments]
    return ["sweep", *arguments, "--resume"]


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: sweep_until_done.py RECIPE [FIELD=VALUE ...]")
    try:
        command = _verb(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    main(command)
