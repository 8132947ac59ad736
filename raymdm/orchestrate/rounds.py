"""Which cells a sweep runs: a fixed grid, or round after round until its question is answered.

A round is planned from the results of the rounds before it and from nothing else: not from how long runs took, how many
ran at once, or how often the sweep was interrupted. What was planned is written to sweep.json before it runs.
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from ray.tune.search import Searcher
from rich.console import Console

from raymdm.comparison.analysis import ALPHA, analyse
from raymdm.comparison.answers import answer
from raymdm.comparison.metrics import METRICS
from raymdm.comparison.reading import runs_of_sweeps
from raymdm.comparison.stats.sequential import round_size, share_out, shrunk_sd, spending
from raymdm.config.criteria import Atom
from raymdm.config.schema import AdaptiveSeeds, Recipe
from raymdm.orchestrate.folder import SweepFolder

Cell = tuple[str, int]


def cells_so_far(recipe: Recipe, folder: SweepFolder) -> list[Cell]:
    """The cells planned until now, in the order they run; those of an adaptive sweep's first round at its start."""
    if isinstance(recipe.sweep.seeds, list):
        return _grid(recipe)
    if not folder.state()["rounds"]:
        _record(folder, _grid(recipe), _alphas(recipe, recipe.sweep.seeds)[0])
    return [(method, seed) for round_ in folder.state()["rounds"] for method, seed in round_["cells"]]


def ended(folder: SweepFolder, cell: Cell) -> bool:
    """Whether a cell has its result, or the error that it failed with."""
    return (folder.trial(*cell) / "result.json").exists()


def finished(folder: SweepFolder, cell: Cell) -> bool:
    """Whether a cell has its result."""
    path = folder.trial(*cell) / "result.json"
    return path.exists() and json.loads(path.read_text())["status"] == "finished"


def next_round(recipe: Recipe, folder: SweepFolder, console: Console) -> list[Cell]:
    """The cells to add after a look at the results, written down; none where the sweep is at its end."""
    seeds, state = recipe.sweep.seeds, folder.state()
    if isinstance(seeds, list) or state["stopped"]:
        return []
    _record_look(recipe, folder)
    look, looks = len(state["rounds"]), seeds.num_looks(len(recipe.sweep.players))
    stopped, open_atoms = _look(recipe, folder, seeds)
    if not stopped and look == looks:
        stopped = f"all {looks} looks taken without {seeds.stop_when}"
    cells = [] if stopped else _share(recipe, folder, seeds, look, open_atoms)
    if not cells:
        folder.update(stopped=stopped or f"no method can take more seeds (sweep.seeds.max = {seeds.max})")
    else:
        _record(folder, cells, _alphas(recipe, seeds)[look])
    added = ", ".join(f"{name} {number}" for name, number in Counter(method for method, _ in cells).items())
    outcome = f"seeds added: {added}" if cells else f"no more seeds: {folder.state()['stopped']}"
    console.print(f"look {look} of {looks}: {outcome}", highlight=False, soft_wrap=True)
    return cells


class Cells(Searcher):
    """Hands Tune the waiting cells while there is room, and asks for more once all that were handed out have ended;
    nothing more once the sweep is stopped.

    It keeps nothing that a resumed sweep needs: that is in sweep.json.
    """

    def __init__(
        self,
        waiting: list[Cell],
        more: Callable[[], list[Cell]],
        room: Callable[[], bool] = lambda: True,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._waiting = list(waiting)
        self._more = more
        self._room = room
        self._stopped = stopped
        self._running: set[str] = set()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Searcher, ()  # Tune saves its searcher; this one belongs to the process

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._stopped():
            return Searcher.FINISHED  # not None: with no run left, Tune would wait for minutes
        if (not self._waiting and self._running) or not self._room():
            return None
        if not self._waiting:
            self._waiting = self._more()
        if not self._waiting:
            return Searcher.FINISHED
        self._running.add(trial_id)
        return {"cell": list(self._waiting.pop(0))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a sweep resumes from its folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


def _grid(recipe: Recipe) -> list[Cell]:
    """Every method with each of the first seeds, seed by seed, so that a comparison is possible as early as can be."""
    return [(method, seed) for seed in recipe.sweep.first_seeds for method in recipe.sweep.methods]


def _alphas(recipe: Recipe, seeds: AdaptiveSeeds) -> list[float]:
    return spending(seeds.initial, seeds.max, seeds.num_looks(len(recipe.sweep.players)), ALPHA)


def _record(folder: SweepFolder, cells: list[Cell], alpha: float) -> None:
    """A round that is about to run."""
    added = {"cells": [list(cell) for cell in cells], "alpha": alpha, "finished": None}
    folder.update(rounds=[*folder.state()["rounds"], added])


def _record_look(recipe: Recipe, folder: SweepFolder) -> None:
    """Which cells the look is at: a failed one that is tried again later must not change what was seen."""
    rounds = folder.state()["rounds"]
    if rounds[-1]["finished"] is None:
        done = [list(cell) for cell in cells_so_far(recipe, folder) if finished(folder, cell)]
        folder.update(rounds=[*rounds[:-1], rounds[-1] | {"finished": done}])


def _look(recipe: Recipe, folder: SweepFolder, seeds: AdaptiveSeeds) -> tuple[str, list[Atom]]:
    """Why the sweep can stop, empty where it cannot; and the questions that are still open."""
    done = {method for method, seed in cells_so_far(recipe, folder) if finished(folder, (method, seed))}
    lost = [method for method in recipe.sweep.players if method not in done]
    if lost:
        return f"no run of {lost[0]} finished", []
    runs = runs_of_sweeps([folder.path], baseline=None, metric=METRICS["accuracy"])
    report = analyse(runs, [atom.methods for atom in seeds.criterion.atoms])
    answers = {atom: answer(report, atom).holds for atom in seeds.criterion.atoms}
    if seeds.criterion.holds(lambda atom: answers[atom]):
        return f"{seeds.stop_when} holds", []
    return "", [atom for atom, holds in answers.items() if not holds]


def _share(recipe: Recipe, folder: SweepFolder, seeds: AdaptiveSeeds, look: int, open_atoms: list[Atom]) -> list[Cell]:
    """The next round: its size is fixed beforehand, its methods are those whose seeds can settle an open question."""
    asked = [atom.methods or tuple(recipe.sweep.methods) for atom in open_atoms]
    wanted = [method for method in recipe.sweep.players if any(method in methods for methods in asked)]
    planned = cells_so_far(recipe, folder)
    accuracies: dict[str, list[float]] = {method: [] for method in wanted}
    for cell in planned:
        if cell[0] in accuracies and finished(folder, cell):
            result = json.loads((folder.trial(*cell) / "result.json").read_text())
            accuracies[cell[0]].append(result["metrics"]["accuracy"])
    counts = Counter(method for method, _ in planned)
    players = recipe.sweep.players
    size = round_size(look, len(players), seeds.initial, seeds.max, seeds.num_looks(len(players)))
    # an ARM whose seeds all gave one run has nothing to gain from another
    wanted = [name for name in wanted if recipe.spec(name).family == "mdm" or np.ptp(accuracies[name]) > 0]
    accuracies = {name: accuracies[name] for name in wanted}
    more = share_out(size, shrunk_sd(accuracies), counts, seeds.max)
    cells = [
        (method, seed) for method in wanted for seed in seeds.order[counts[method] : counts[method] + more[method]]
    ]
    return sorted(cells, key=lambda cell: seeds.order.index(cell[1]))
