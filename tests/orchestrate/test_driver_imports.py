"""Processes that only drive others do without torch and transformers, which take seconds to import."""

import subprocess
import sys

IMPORTED = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name, *sorted({"torch", "transformers"} & set(sys.modules)))
"""


def _heavy(*modules: str) -> dict[str, list[str]]:
    """What of torch and transformers a process has after importing each of the modules, one after the other."""
    command = [sys.executable, "-c", IMPORTED, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


def test_drivers_import_neither_torch_nor_transformers() -> None:
    drivers = ("raymdm.cli", "raymdm.orchestrate.trial", "raymdm.orchestrate.sweep", "raymdm.orchestrate.stages")
    assert _heavy(*drivers) == {name: [] for name in drivers}
