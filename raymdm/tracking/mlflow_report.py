"""A sweep's report beside its runs in MLflow."""

import logging
from collections.abc import Sequence
from pathlib import Path

from raymdm.tracking.mlflow_connection import client_settings, reason, without_password
from raymdm.tracking.mlflow_tracker import RUN_KEY

logger = logging.getLogger(__name__)


def log_to_sweep(uri: str, experiment: str, sweep: str, files: Sequence[Path], figures: Path) -> bool:
    """Log files and a folder of figures to the run of `sweep`, under `report`; whether that worked.

    A sweep is done when its report is logged: a store that is away by then costs a warning, not the sweep.
    """
    from mlflow import MlflowClient

    try:
        with client_settings():
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(experiment)
            key, first = f"tags.{RUN_KEY} = '{sweep}'", ["attributes.start_time ASC"]
            runs = client.search_runs([found.experiment_id], key, order_by=first) if found else []
            if not runs:
                raise LookupError(f"no run of {sweep} in experiment {experiment}")
            for path in files:
                client.log_artifact(runs[0].info.run_id, str(path), "report")
            if figures.is_dir():
                client.log_artifacts(runs[0].info.run_id, str(figures), "report/figures")
    except Exception as error:  # whatever a store or a network raises: the report itself is on disk
        shown = without_password(uri, uri)
        logger.warning("the report is not logged to MLflow at %s: %s", shown, reason(error, uri))
        return False
    return True
