"""One cell of the grid: train a method with a seed, keep its best model, score it."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.train import Checkpoint
from ray.tune.integration.ray_train import TuneReportCallback

from raymdm.config.schema import METHODS
from raymdm.data import loading
from raymdm.orchestrate.evaluate import evaluate
from raymdm.orchestrate.folder import SweepFolder, trial_name, write_json
from raymdm.orchestrate.train import run_training
from raymdm.training.state import load_state


def run_trial(config: dict[str, Any]) -> None:
    """The function Tune runs for a cell; it only drives a trainer and an evaluation.

    config: `sweep` (the sweep's folder), `data` (method family -> prepared data folder), `cell` (method, seed).
    What is done already is not done again: training resumes by its name, a trained model is only scored.
    """
    started = time.monotonic()
    folder, (method, seed) = SweepFolder(Path(config["sweep"])), config["cell"]
    target = folder.trial(method, seed)
    recipe, spec = folder.recipe(), METHODS[method]
    data = Path(config["data"][spec.family])
    density = folder.calibrations / spec.mask_name / "density.json" if spec.density == "calibrated" else None
    name, storage = trial_name(method, seed), folder.path / "train"
    if not (target / "summary.json").exists():
        checkpoint = run_training(recipe, method, seed, data, density, name, storage, [TuneReportCallback()])
        keep_best(checkpoint, target)
    summary = json.loads((target / "summary.json").read_text())
    tune.report({"phase": "scoring", "step": summary["steps"], "total_steps": summary["steps"], "records": []})
    evaluating = time.monotonic()
    accuracy = evaluate(recipe, method, target / "model", data, target / "scores.parquet")
    metrics = {
        "accuracy": accuracy,
        **summary,
        "evaluate_seconds": time.monotonic() - evaluating,
        "wall_seconds": time.monotonic() - started,
    }
    result = {"task": loading.meta(data)["task"], "model": recipe.model_for(method).path or "tiny", "method": method,
              "seed": seed, "status": "finished", "error": None, "metrics": metrics}  # fmt: skip
    write_json(target / "result.json", result)
    shutil.rmtree(storage / name)
    tune.report({"phase": "finished", "step": summary["steps"], "total_steps": summary["steps"], "records": []})


def keep_best(checkpoint: Checkpoint, target: Path) -> None:
    """Copy the best model and the run's summary out of its last checkpoint; the summary says that both are there."""
    with checkpoint.as_directory() as folder:
        shutil.copytree(Path(folder) / "best", target / "model", dirs_exist_ok=True)
        write_json(target / "summary.json", load_state(Path(folder)).summary())
