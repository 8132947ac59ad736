"""The documentation names what the program has."""

import re
from pathlib import Path

from raymdm.config.methods import METHODS


def test_methods_page_has_a_row_for_every_method(repo_root: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (repo_root / "docs" / "methods.md").read_text(), re.MULTILINE)
    assert rows == list(METHODS)


def test_methods_page_states_each_method_s_model_rows(repo_root: Path) -> None:
    page = (repo_root / "docs" / "methods.md").read_text()
    costs = {row[0]: row[-1] for row in re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, re.MULTILINE)}
    assert {name for name, cost in costs.items() if "2 model rows" in cost} == {
        name for name, method in METHODS.items() if method.views == 2
    }


def test_start_page_lists_every_command(repo_root: Path) -> None:
    source = (repo_root / "raymdm" / "cli.py").read_text()
    commands = re.findall(r"@app\.command\(\)\ndef (\w+)", source)
    listed = re.findall(r"^\| `raymdm (\w+)", (repo_root / "docs" / "start.md").read_text(), re.MULTILINE)
    assert commands
    assert sorted(listed) == sorted(commands)


def test_every_source_of_the_reference_exists(repo_root: Path) -> None:
    modules = re.findall(r"^::: (\S+)$", (repo_root / "docs" / "reference.md").read_text(), re.MULTILINE)
    missing = [name for name in modules if not (repo_root / f"{name.replace('.', '/')}.py").is_file()]
    assert modules
    assert missing == []
