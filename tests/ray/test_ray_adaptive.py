"""A sweep that adds seeds as needed, on a real Ray."""

import json
from collections.abc import Callable
from pathlib import Path

from raymdm.comparison.analysis import analyse
from raymdm.comparison.metrics import METRICS
from raymdm.comparison.reading import runs_of_sweeps
from raymdm.config.schema import Recipe
from raymdm.orchestrate.folder import SweepFolder

MakeRecipe = Callable[..., Recipe]
RunSweep = Callable[..., tuple[SweepFolder, str]]


def test_seeds_are_added_until_they_run_out_and_a_resumed_sweep_goes_on(
    make_recipe: MakeRecipe, run_sweep: RunSweep, tmp_path: Path
) -> None:
    # no three seeds of a tiny model lie within a thousandth of a point
    seeds = {"initial": 2, "max": 3, "looks": 2, "values": [5, 6, 7], "stop_when": "halfwidth(accuracy) <= 0.001"}
    recipe = make_recipe(output=str(tmp_path), sweep__seeds=seeds)
    folder, text = run_sweep(recipe)
    state = folder.state()
    assert "look 1 of 2: seeds added: standard 1" in text
    assert "3/3 runs" in text
    assert state["status"] == "finished"
    assert [added["cells"] for added in state["rounds"]] == [[["standard", 5], ["standard", 6]], [["standard", 7]]]
    assert state["stopped"] == "all 2 looks taken without halfwidth(accuracy) <= 0.001"
    report = analyse(runs_of_sweeps([folder.path], baseline=None, metric=METRICS["accuracy"]))
    assert [look.runs for look in report.looks] == [{"standard": 2}, {"standard": 3}]

    # as if the process had been lost before the look that added the last seed
    lost = folder.trial("standard", 7)
    before = json.loads((lost / "result.json").read_text())["metrics"]["accuracy"]
    lost.rename(tmp_path / "lost")
    folder.update(status="interrupted", stopped=None, rounds=state["rounds"][:1])
    resumed, text = run_sweep(recipe, resume=True)
    assert resumed == folder and folder.state()["rounds"] == state["rounds"]
    assert "2 of 2 runs are done already" in text
    assert json.loads((lost / "result.json").read_text())["metrics"]["accuracy"] == before
