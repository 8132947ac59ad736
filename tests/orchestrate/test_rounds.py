"""Seeds that are added as needed, on results written by hand in place of training."""

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ray.tune.search import Searcher
from rich.console import Console

from raymdm.comparison.analysis import analyse
from raymdm.comparison.metrics import METRICS
from raymdm.comparison.reading import runs_of_sweeps
from raymdm.config.schema import Recipe
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.folder import SweepFolder, write_json
from raymdm.orchestrate.rounds import Cell, Cells, cells_so_far, finished, next_round
from raymdm.orchestrate.sweep import outcome

MakeRecipe = Callable[..., Recipe]
Population = Mapping[str, tuple[float, float]]
"""Mean and standard deviation of a method's accuracy."""
EXAMPLES = 400


@pytest.fixture
def started(make_recipe: MakeRecipe, tmp_path: Path) -> Callable[..., tuple[Recipe, SweepFolder]]:
    """`started(stop_when, **seeds)`: an adaptive sweep of four methods before its first run."""

    def start(stop_when: str = "decided(mirror, standard)", **seeds: object) -> tuple[Recipe, SweepFolder]:
        recipe = make_recipe(
            output=str(tmp_path),
            sweep__methods=["standard", "mirror", "ema", "arm"],
            sweep__seeds={"stop_when": stop_when, "max": 9, "looks": 4, **seeds},
        )
        return recipe, create(recipe)

    return start


def quiet() -> Console:
    return Console(file=io.StringIO())


def run(folder: SweepFolder, cell: Cell, population: Population) -> None:
    """Write a cell's result: an accuracy that depends on method and seed alone."""
    method, seed = cell
    mean, sd = population.get(method, (0.5, 0.02))
    correct = round(EXAMPLES * np.random.default_rng([seed, len(method)]).normal(mean, sd))
    scores = (np.arange(EXAMPLES) < correct).astype(float)
    trial = folder.trial(*cell)
    trial.mkdir(parents=True)
    frame = pd.DataFrame({"example_id": np.arange(EXAMPLES), "score": scores, "reference": "1", "output": ""})
    frame.to_parquet(trial / "scores.parquet")
    result = {"task": "sorting", "model": "tiny", "method": method, "seed": seed, "status": "finished", "error": None}
    write_json(trial / "result.json", result | {"metrics": {"accuracy": scores.mean()}})


def run_to_its_end(recipe: Recipe, folder: SweepFolder, population: Population) -> list[Cell]:
    cells = cells_so_far(recipe, folder)
    while cells:
        for cell in cells:
            run(folder, cell, population)
        cells = next_round(recipe, folder, quiet())
    return cells_so_far(recipe, folder)


def seeds_of(cells: list[Cell]) -> Counter[str]:
    return Counter(method for method, _ in cells)


FAR = {"standard": (0.3, 0.02), "mirror": (0.7, 0.02)}
NEAR = {"standard": (0.5, 0.06), "mirror": (0.5, 0.01)}


def test_a_large_difference_ends_the_sweep_early(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started()
    counts = seeds_of(run_to_its_end(recipe, folder, FAR))
    assert folder.state()["stopped"] == "decided(mirror, standard) holds"
    assert 5 <= counts["mirror"] < 9 and 5 <= counts["standard"] < 9
    assert counts["ema"] == counts["arm"] == 3  # nobody asks of them
    assert outcome(recipe, folder) == "finished"


def test_no_difference_ends_it_after_the_last_look(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started()
    counts = seeds_of(run_to_its_end(recipe, folder, NEAR))
    assert (counts["standard"], counts["mirror"]) == (9, 9)
    assert folder.state()["stopped"] == "all 4 looks taken without decided(mirror, standard)"
    assert len(folder.state()["rounds"]) == 4
    assert sum(added["alpha"] for added in folder.state()["rounds"]) == pytest.approx(0.05)


def test_the_more_variable_method_gets_its_seeds_first(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started()
    for cell in cells_so_far(recipe, folder):
        run(folder, cell, NEAR)
    added = seeds_of(next_round(recipe, folder, quiet()))
    assert sum(added.values()) == 4  # a third of 2 x (9 - 3)
    assert added["standard"] > added["mirror"]


def test_a_half_width_asks_of_every_method(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started("halfwidth(accuracy) <= 0.01", max=4, looks=2)
    assert set(seeds_of(run_to_its_end(recipe, folder, FAR)).values()) == {4}


def test_what_is_answered_gets_no_more_seeds(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started("decided(mirror, standard) and decided(ema, standard)", max=12)
    counts = seeds_of(run_to_its_end(recipe, folder, FAR | {"ema": (0.3, 0.02)}))
    assert counts["mirror"] < counts["ema"] == counts["standard"] == 12


def test_the_plan_does_not_depend_on_an_interruption(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started()
    whole = run_to_its_end(recipe, folder, NEAR)
    again = create(recipe.model_copy(update={"name": "again"}))
    for cell in cells_so_far(recipe, again)[:5]:
        run(again, cell, NEAR)
    while True:  # a process that ends at every turn and starts anew from the folder
        waiting = [cell for cell in cells_so_far(recipe, again) if not finished(again, cell)]
        waiting = waiting or next_round(recipe, again, quiet())
        if not waiting:
            break
        run(again, waiting[-1], NEAR)
    assert cells_so_far(recipe, again) == whole


def test_an_ended_sweep_takes_no_further_look(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started()
    run_to_its_end(recipe, folder, FAR)
    before = folder.state()
    assert next_round(recipe, folder, quiet()) == []
    assert folder.state() == before


def test_between_the_last_run_and_the_look_it_is_not_finished(
    started: Callable[..., tuple[Recipe, SweepFolder]],
) -> None:
    recipe, folder = started()
    for cell in cells_so_far(recipe, folder):
        run(folder, cell, FAR)
    assert outcome(recipe, folder) == "interrupted"


def test_the_report_counts_the_looks(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started()
    run_to_its_end(recipe, folder, FAR)
    report = analyse(runs_of_sweeps([folder.path], baseline=None, metric=METRICS["accuracy"]))
    assert [look.alpha for look in report.looks] == [added["alpha"] for added in folder.state()["rounds"]]
    assert report.looks[0].runs == {"standard": 3, "mirror": 3, "ema": 3, "arm": 3}
    (found,) = [d for d in report.differences if (d.label, d.reference, d.metric) == ("mirror", "standard", "accuracy")]
    assert found.finding == "better"


def test_a_sweep_without_any_result_stops(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started()
    for method, seed in cells_so_far(recipe, folder):
        failure = {"task": "sorting", "model": "tiny", "method": method, "seed": seed, "status": "failed"}
        write_json(folder.trial(method, seed) / "result.json", failure | {"error": "lost", "metrics": {}})
    assert next_round(recipe, folder, quiet()) == []
    assert folder.state()["stopped"] == "no run of standard finished"
    assert outcome(recipe, folder) == "failed"


def test_a_failed_run_that_is_tried_again_later_does_not_change_what_a_look_saw(
    started: Callable[..., tuple[Recipe, SweepFolder]],
) -> None:
    recipe, folder = started()
    late = ("mirror", 42)
    for cell in cells_so_far(recipe, folder):
        if cell != late:
            run(folder, cell, NEAR)
    next_round(recipe, folder, quiet())
    run(folder, late, NEAR)
    (look,) = runs_of_sweeps([folder.path], baseline=None, metric=METRICS["accuracy"]).looks
    assert (look.runs["mirror"], look.seeds["mirror"]) == (2, [731, 20231])


def test_a_round_that_runs_is_no_look(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started()
    run(folder, cells_so_far(recipe, folder)[0], NEAR)
    runs = runs_of_sweeps([folder.path], baseline=None, metric=METRICS["accuracy"])
    assert runs.adaptive and runs.looks == []


def test_an_arm_whose_seeds_repeat_one_run_gets_no_more(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started("decided(standard, arm)")
    counts = seeds_of(run_to_its_end(recipe, folder, {"standard": (0.5, 0.02), "arm": (0.5, 0.0)}))
    assert counts["arm"] == 3 and counts["standard"] > 3


def test_a_fixed_grid_runs_seed_by_seed_and_has_no_rounds(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(output=str(tmp_path), sweep__methods=["standard", "arm"], sweep__seeds=[7, 3])
    folder = create(recipe)
    assert cells_so_far(recipe, folder) == [("standard", 7), ("arm", 7), ("standard", 3), ("arm", 3)]
    assert next_round(recipe, folder, quiet()) == []
    assert folder.state()["rounds"] == []


def test_the_searcher_asks_for_more_once_all_have_ended() -> None:
    asked: list[int] = []

    def more() -> list[Cell]:
        asked.append(1)
        return [("a", 3)] if len(asked) == 1 else []

    cells = Cells([("a", 1), ("a", 2)], more)
    assert [cells.suggest("t1"), cells.suggest("t2")] == [{"cell": ["a", 1]}, {"cell": ["a", 2]}]
    assert cells.suggest("t3") is None
    cells.on_trial_complete("t1")
    assert cells.suggest("t3") is None and not asked
    cells.on_trial_complete("t2", error=True)
    assert cells.suggest("t3") == {"cell": ["a", 3]}
    cells.on_trial_complete("t3")
    assert cells.suggest("t4") == Searcher.FINISHED


def test_sweep_json_is_read_with_its_rounds(started: Callable[..., tuple[Recipe, SweepFolder]]) -> None:
    recipe, folder = started()
    cells_so_far(recipe, folder)
    (added,) = json.loads((folder.path / "sweep.json").read_text())["rounds"]
    assert len(added["cells"]) == 12


def test_no_cell_is_handed_out_while_there_is_no_room() -> None:
    room = [False]
    cells = Cells([("standard", 1)], list, lambda: room[0])
    assert cells.suggest("a") is None
    room[0] = True
    assert cells.suggest("a") == {"cell": ["standard", 1]}
