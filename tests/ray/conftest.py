"""Tests on a real local Ray: each starts its own, as the command line does."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from heads import end_sweeps
from rich.console import Console

from raymdm.config.schema import Recipe
from raymdm.orchestrate.folder import SweepFolder
from raymdm.orchestrate.sweep import sweep

MakeRecipe = Callable[..., Recipe]


LONGEST = ("faults", "clusters", "life", "jobs", "sweep", "storage", "autoscaling")
"""Files that take minutes, the longest first, so that the processes that share them end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = [f"test_ray_{name}.py" for name in LONGEST]
    items.sort(key=lambda item: order.index(item.path.name) if item.path.name in order else len(order))
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.timeout(1800))  # above every wait inside: where others compute, all takes long
            # Ray's and its libraries' own warnings are not ours to mend
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True, scope="module")
def _environment() -> Iterator[None]:
    """What raymdm sets for a local Ray must not reach the clusters of the next file."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def _no_sweep_left() -> Iterator[None]:
    """Where a test failed, its sweep would go on beside the next."""
    yield
    end_sweeps()


@pytest.fixture(scope="session")
def run_sweep() -> Callable[..., tuple[SweepFolder, str]]:
    """Runs a recipe's sweep; returns its folder and what was printed."""

    def run(recipe: Recipe, resume: bool = False) -> tuple[SweepFolder, str]:
        text = io.StringIO()
        with patch.dict(os.environ):
            return sweep(recipe, resume, Console(file=text, width=200)), text.getvalue()

    return run
