"""One cell of the grid: train a method with a seed, keep its best model, score it.

Everything it reads and writes lies on the sweep's storage, since it may run on any node.
"""

import json
import tempfile
import time
import traceback
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.exceptions import ObjectStoreFullError, OutOfDiskError
from ray.train.v2.api.exceptions import TrainingFailedError

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.errors import UserError
from raymdm.orchestrate import cluster
from raymdm.orchestrate.evaluate import as_parquet, evaluate
from raymdm.orchestrate.folder import read_recipe, trial_name
from raymdm.orchestrate.pool import no_room
from raymdm.orchestrate.preemption import NodeGoes, told
from raymdm.orchestrate.train import Heard, run_training, train_here
from raymdm.storage import Storage, StorageError, fetched

if TYPE_CHECKING:
    from raymdm.training.run import Left

_PARTS = "parts"
"""Blocks of test rows that are scored, until all are."""


def run_trial(config: dict[str, Any]) -> None:
    """The function Tune runs for a cell; it leaves result.json.

    config: `sweep` (the sweep's storage), `data` (method family -> prepared data), `cell` (method, seed), `stop` (the
    key that stops the sweep). What is done already is not done again: training goes on from its checkpoints, a trained
    model is only scored. A failure is written down, not raised: Tune tries a cell again only when this process was
    lost, or raises NodeGoes. Where storage or Ray's object store refuses, nothing is written down, and the sweep is
    told to stop: the cell can go on later. So it can where this returns because the sweep is stopped.
    """
    place, (method, seed) = Storage(config["sweep"]), config["cell"]
    name = trial_name(method, seed)
    try:
        recipe = _recipe(config["sweep"], config["recipe_hash"])
        data = config["data"][recipe.spec(method).family]
        result = {"task": loading.meta(fetched(data))["task"], "model": recipe.model_for(method).path or "tiny",
                  "method": method, "seed": seed}  # fmt: skip
        try:
            metrics = _train_and_score(recipe, place, method, seed, data, config["stop"])
            if metrics is None:
                return
            result |= {"status": "finished", "error": None, "metrics": metrics}
        except StorageError:
            raise
        except UserError as error:
            result |= {"status": "failed", "error": str(error), "metrics": {}}
        except TrainingFailedError as error:
            if full := no_room(error):
                raise full from error
            result |= {"status": "failed", "error": traceback.format_exc(), "metrics": {}}
        place.write(f"trials/{name}/result.json", json.dumps(result, indent=1).encode())
        if result["status"] == "finished":
            place.delete(f"train/{name}")
            place.delete(f"trials/{name}/{_PARTS}")
    except StorageError as error:
        tune.report({"phase": "stopped", "problem": str(error)})
    except (ObjectStoreFullError, OutOfDiskError) as error:
        tune.report({"phase": "stopped", "problem": str(no_room(error) or error)})


@lru_cache(maxsize=1)
def _recipe(sweep: str, recipe_hash: str) -> Recipe:
    """A process that runs many cells reads the recipe once; the hash tells when it has changed."""
    return read_recipe(Storage(sweep))


def _train_and_score(
    recipe: Recipe, place: Storage, method: str, seed: int, data: str, stop: str
) -> dict[str, Any] | None:
    """The cell's metrics, None when the sweep is stopped before; the seconds are those of this attempt. Raises NodeGoes
    when this process is to train elsewhere."""
    started = time.monotonic()
    name = trial_name(method, seed)
    target = place.child(f"trials/{name}")
    if not target.exists("summary.json"):
        spec = recipe.spec(method)
        density = place.child(f"calibrations/{spec.calibration}") if spec.calibrated else None
        # a process may be given its next run on a node that goes away
        left = told(stop) or _train(recipe, place, method, seed, data, density, stop)
        if left == "node":
            raise NodeGoes
        if left == "sweep":
            return None
        _keep_best(place.child(f"train/{name}"), data, target)
    summary = json.loads(target.read("summary.json"))
    tune.report({"phase": "scoring", "step": summary["steps"], "total_steps": summary["steps"], "records": [],
                 "events": []})  # fmt: skip
    scoring = time.monotonic()
    model, parts = target.child("model").uri, target.child(_PARTS)
    scores = evaluate(recipe, method, model, data, here=cluster.reuses(recipe), parts=parts)
    target.write("scores.parquet", as_parquet(scores))
    accuracy = float(scores["score"].mean())
    ended = time.monotonic()
    return {"accuracy": accuracy, **summary, "evaluate_seconds": ended - scoring, "wall_seconds": ended - started}


def _train(
    recipe: Recipe, place: Storage, method: str, seed: int, data: str, density: Storage | None, stop: str
) -> "Left":
    """Train to the end, in this process or in Ray Train's workers; returns why the run left before."""
    heard: Heard = tune.report
    where = data, density.uri if density else "", place.child(f"train/{trial_name(method, seed)}").uri
    if cluster.reuses(recipe):
        return train_here(recipe, method, seed, *where, heard, stop)
    return run_training(recipe, method, seed, *where, place.child("ray").uri, heard, stop)


def _keep_best(checkpoints: Storage, data: str, target: Storage) -> None:
    """Copy the best model, with its tokenizer, and the run's summary; the summary says that all are there."""
    from raymdm.training.checkpoints import newest
    from raymdm.training.state import load_state

    with tempfile.TemporaryDirectory(prefix="raymdm-") as scratch:
        found = newest(checkpoints, Path(scratch))
        if found is None or found.broken:
            what = f" ({found.broken[0]})" if found else ""
            raise StorageError(
                f"{checkpoints.uri}: the run has ended, but its last checkpoint cannot be read any more{what}: look "
                "after the storage, then go on with --resume, which trains its last part again"
            )
        state = load_state(found.path)
        target.put(found.path / "best", "model")
        target.put(fetched(data) / "tokenizer", "model")
        target.write("records.json", json.dumps({"records": state.records}).encode())
        target.write("summary.json", json.dumps(state.summary(), indent=1).encode())
