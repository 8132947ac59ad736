"""MLflow brought up to date with what a sweep's folder holds."""

from collections.abc import Sequence
from pathlib import Path

from raymdm.config.load import load_recipe
from raymdm.errors import UserError
from raymdm.orchestrate.begin import opened
from raymdm.orchestrate.observer import replay, sweep_tags
from raymdm.orchestrate.ownership import owned
from raymdm.orchestrate.rounds import cells_so_far
from raymdm.orchestrate.sweep import connect_mlflow, without_secrets
from raymdm.tracking.mlflow_connection import without_password
from raymdm.tracking.mlflow_tracker import MlflowTracker

PATIENCE_S = 3600.0


def sync(path: Path, overrides: Sequence[str]) -> str:
    """Log what MLflow lacks of a sweep and end its runs there as the folder says; returns what to print.

    overrides: such as `tracking.uri`, whose password no file holds. Raises UserError while the sweep runs, and when
    MLflow is switched off or away.
    """
    folder = opened(path)
    recipe = load_recipe(folder.path / "recipe.yaml", overrides)
    connection = connect_mlflow(recipe)
    if connection is None:
        raise UserError(f"{folder.path}: its recipe has tracking.mlflow=false. Give tracking.mlflow=true to log it now")
    recipe = without_secrets(recipe)
    with owned(folder):
        if folder.state()["status"] == "running":
            folder.update(status="interrupted")  # its process has gone, else it would hold the sweep
        tags = sweep_tags(recipe, folder)
        parameters = recipe.model_dump(mode="json")
        tracker = MlflowTracker(connection, folder.path.name, parameters, tags, patience=PATIENCE_S)
        cells = cells_so_far(recipe, folder)
        known = [cell for cell in cells if folder.trial(*cell).is_dir()]
        for cell in known:
            replay(tracker, recipe, folder, cell)
        status = folder.state()["status"]
        tracker.close(status)
    if any(tracker.lacking()):
        raise UserError(f"{folder.path}: MLflow could not be told everything. Try again when it answers")
    return f"{folder.path.name}: {len(known)} runs, {status}: {without_password(connection.uri, connection.uri)}"
