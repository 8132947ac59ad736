"""Tests on a real local Ray: each starts its own, as the command line does."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from raymdm.config.schema import Recipe
from raymdm.orchestrate.folder import SweepFolder
from raymdm.orchestrate.sweep import sweep

MakeRecipe = Callable[..., Recipe]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.timeout(900))  # a sweep in a fixture takes minutes where others compute too
            # Ray's and its libraries' own warnings are not ours to mend
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def run_sweep() -> Callable[..., tuple[SweepFolder, str]]:
    """Runs a recipe's sweep; returns its folder and what was printed."""

    def run(recipe: Recipe, resume: bool = False) -> tuple[SweepFolder, str]:
        text = io.StringIO()
        return sweep(recipe, resume, Console(file=text, width=200)), text.getvalue()

    return run
