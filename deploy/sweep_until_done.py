"""What a scheduler runs again and again until it ends well: goes on with the recipe's unfinished sweep, or starts one.

    python deploy/sweep_until_done.py RECIPE [FIELD=VALUE ...]

Arguments and exit status are those of `raymdm sweep`.
"""

import sys
from pathlib import Path

from raymdm.cli import main
from raymdm.config.load import load_recipe
from raymdm.errors import UserError
from raymdm.orchestrate.begin import latest


def _options(arguments: list[str]) -> list[str]:
    """`--resume` when there is something to go on with. Raises UserError for a recipe that no later try would find."""
    recipe = load_recipe(Path(arguments[0]), arguments[1:])
    if not recipe.storage_path and not Path(recipe.output).is_absolute():
        raise UserError(
            f"output={recipe.output}: give an absolute folder that stays, or a storage_path, so that the next try "
            "finds the sweep"
        )
    try:
        latest(recipe)
    except UserError:
        return []
    return ["--resume"]


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: sweep_until_done.py RECIPE [FIELD=VALUE ...]")
    try:
        options = _options(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    main(["sweep", *sys.argv[1:], *options])
