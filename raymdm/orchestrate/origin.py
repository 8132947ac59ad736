"""The code and libraries that a sweep's runs came from: they may change when it goes on, which is told and kept."""

import json
import platform
from importlib.metadata import version
from typing import Any

from raymdm import __version__
from raymdm.orchestrate.folder import SweepFolder, git_commit, trial_name
from raymdm.orchestrate.inputs import Inputs, completed

PACKAGES = ("ray", "torch", "transformers", "datasets", "numpy", "scipy", "mlflow")

Origin = dict[str, Any]
"""git_commit, raymdm_version and environment (package -> version) of the process that drives a sweep."""


def origin() -> Origin:
    """Of this process."""
    return {
        "git_commit": git_commit(),
        "raymdm_version": __version__,
        "environment": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }


def go_on_with(folder: SweepFolder, inputs: Inputs) -> list[str]:
    """Write down what a sweep goes on with; returns what to tell: a line for each part that is another than before."""
    state, now = folder.state(), origin()
    known = state.get("origins") or [{part: state[part] for part in now}]
    lines = [f"since it ran last: {line}" for line in _changes(known[-1], now)]
    folder.update(
        inputs=completed(state.get("inputs"), inputs),
        origins=known if known[-1] == now else [*known, now],
    )
    if not state.get("inputs"):
        lines.append(
            f"{folder.path.name} does not say which data and model it was begun with: from now on it goes on only "
            "with these"
        )
    return lines


def note(folder: SweepFolder, cell: tuple[str, int]) -> None:
    """Write down that a run begins or goes on in this process: its number among `origins` joins the run's."""
    state, name = folder.state(), trial_name(*cell)
    latest, ran = len(state["origins"]) - 1, state.get("ran_under", {})
    if latest not in ran.get(name, []):
        folder.update(ran_under=ran | {name: [*ran.get(name, []), latest]})


def origins_of(folder: SweepFolder, cell: tuple[str, int]) -> list[Origin]:
    """Those that a run came from, the one that it ended under last; empty for a run of an earlier version."""
    state = folder.state()
    return [state["origins"][number] for number in state.get("ran_under", {}).get(trial_name(*cell), [])]


def stamp(folder: SweepFolder, cell: tuple[str, int]) -> dict[str, Any]:
    """A run's result.json, which from now on holds what the run came from as `origins`."""
    result: dict[str, Any] = json.loads((folder.trial(*cell) / "result.json").read_text())
    if "origins" not in result and (found := origins_of(folder, cell)):
        result["origins"] = found
        folder.write(f"trials/{trial_name(*cell)}/result.json", json.dumps(result, indent=1))
    return result


def tags(origins: list[Origin]) -> dict[str, str]:
    """For MLflow; several of a kind are joined in their order."""
    kinds = {
        "git_commit": [found["git_commit"] or "none" for found in origins],
        "raymdm_version": [found["raymdm_version"] for found in origins],
        "environment": [", ".join(" ".join(item) for item in found["environment"].items()) for found in origins],
    }
    return {name: "; ".join(dict.fromkeys(values)) for name, values in kinds.items() if values}


def _changes(before: Origin, now: Origin) -> list[str]:
    """`torch 2.13.0 -> 2.14.0` for each part that differs."""
    old, new = (
        {"git commit": found["git_commit"], "raymdm": found["raymdm_version"], **found["environment"]}
        for found in (before, now)
    )
    names = dict.fromkeys([*old, *new])
    return [
        f"{name} {old.get(name) or 'none'} -> {new.get(name) or 'none'}"
        for name in names
        if old.get(name) != new.get(name)
    ]
