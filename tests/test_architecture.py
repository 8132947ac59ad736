"""The house rules, checked on the source: which package may import which, how long a file may be, what it may name."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LEAVES = {"raymdm", "raymdm.errors", "raymdm.keys", "raymdm.storage"}
"""Modules that every other may import: the version, the exception, the random numbers, where files lie."""

SCHEMA = {f"raymdm.config.{name}" for name in ("schema", "inputs", "methods", "training", "criteria")}
"""The recipe's types, which every package may import."""

SIBLINGS: dict[str, set[str]] = {
    "errors": set(),
    "keys": set(),
    "storage": set(),
    "config": set(),
    "data": set(),
    "models": set(),
    "diffusion": set(),
    "comparison": set(),
    "tracking": set(),
    "generation": set(),
    "training": {"diffusion", "data", "models", "tracking"},
    "evaluation": {"data", "diffusion", "generation", "models"},
    "orchestrate": {"config", "data", "models", "diffusion", "training", "generation", "evaluation", "tracking",
                    "comparison"},
    "reporting": {"comparison", "orchestrate", "tracking"},
    "cli": {"config", "data", "models", "diffusion", "training", "generation", "evaluation", "tracking", "comparison",
            "orchestrate", "reporting"},
}  # fmt: skip
"""What each part of raymdm may import beside itself, LEAVES and SCHEMA."""

REPORT = {"raymdm.comparison.report"}
"""The command line's business: orchestrate imports the rest of comparison only."""

ONLY_IN = {"ray": "orchestrate", "mlflow": "tracking"}
"""Third-party packages that a single part of raymdm may import."""

MAX_LINES = 350

# Written in pieces, so that this file does not break its own rule.
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:" + "|".join(["work", "farm", "root", "home", "Users"]) + r")/")
REGISTRY = re.compile("index" + "-url|find" + r"-links|https?://[^\s\"']*/(?:simple|packages)/", re.IGNORECASE)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a module imports, anywhere in it; relative imports are resolved.

    `from a.b import c` gives `a.b.c` where c could be a module: what matters is which package it lies in.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *([node.module] if node.module else []), alias.name])


def within(name: str, modules: set[str]) -> bool:
    """Whether an imported name is one of the modules or something directly in one of them."""
    return name in modules or name.rpartition(".")[0] in modules


def problem(module: str, name: str) -> str | None:
    """What is wrong with `module` importing `name`; None if it may."""
    part = module.split(".")[1] if "." in module else ""
    top, *rest = name.split(".")
    if top in ONLY_IN and part != ONLY_IN[top]:
        return f"only raymdm.{ONLY_IN[top]} may import {top}"
    if top != "raymdm" or name == "raymdm":
        return None
    if within(name, LEAVES - {"raymdm"}) or within(name, SCHEMA) or name == "raymdm.__version__":
        return None
    if part not in SIBLINGS:
        return f"{module} is in no part of the house: add it to SIBLINGS"
    if part == "orchestrate" and within(name, REPORT):
        return "the report is made by raymdm.reporting"
    if rest[0] == part or rest[0] in SIBLINGS[part]:
        return None
    return f"raymdm.{part} must not import raymdm.{rest[0]}"


def module_name(file: Path, root: Path) -> str:
    """The dotted name of a source file."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_files(repo_root: Path, *folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (repo_root / folder).rglob("*.py"))


def repository_files(repo_root: Path) -> list[Path]:
    """Files that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (repo_root / ".git").exists():
        pytest.skip("not a git checkout: git alone knows which files belong to the project")
    names = subprocess.run(command, cwd=repo_root, check=True, capture_output=True, text=True).stdout
    return [repo_root / name for name in names.split("\0") if name and (repo_root / name).is_file()]


def text_of(file: Path) -> str:
    """A file's text; "" for one that is not text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize(
    ("module", "source", "name"),
    [
        ("raymdm.models.load", "import raymdm.data.rows", "raymdm.data.rows"),
        ("raymdm.models.load", "from raymdm.data import rows", "raymdm.data.rows"),
        ("raymdm.models.load", "from raymdm import data", "raymdm.data"),
        ("raymdm.models.load", "from ..data.rows import Row", "raymdm.data.rows.Row"),
        ("raymdm.models.load", "def f():\n    from raymdm.config.load import load_recipe", None),
        ("raymdm.training.loop", "from raymdm.orchestrate import train", "raymdm.orchestrate.train"),
        ("raymdm.training.loop", "import ray.train", "ray.train"),
        ("raymdm.training.loop", "from mlflow import log_metric", "mlflow.log_metric"),
        ("raymdm.errors", "from raymdm.data import rows", "raymdm.data.rows"),
        ("raymdm.orchestrate.sweep", "from raymdm.comparison.report import compare", None),
        ("raymdm.orchestrate.sweep", "from raymdm.comparison import report", None),
        ("raymdm.orchestrate.sweep", "import mlflow", "mlflow"),
        ("raymdm.cli", "import ray", "ray"),
        ("raymdm.unheard_of", "import raymdm.data", "raymdm.data"),
    ],
)
def test_checker_finds_a_forbidden_import(module: str, source: str, name: str | None) -> None:
    found = [imported for _, imported in imports(source, module) if problem(module, imported)]
    assert len(found) == 1
    assert name is None or found == [name]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("raymdm.models.load", "import torch\nimport rayleigh\nfrom raymdm.models import checks"),
        ("raymdm.models.load", "from .checks import check\nfrom . import checks"),
        ("raymdm.models.load", "from raymdm.config.schema import Recipe\nfrom raymdm.config.methods import METHODS"),
        ("raymdm.models.load", "from raymdm.config import schema\nfrom raymdm import keys, __version__"),
        ("raymdm.models.load", "from raymdm.errors import UserError\nfrom raymdm.keys import uniforms"),
        ("raymdm.training.loop", "from raymdm.diffusion.objective import loss\nfrom raymdm.tracking import Tracker"),
        ("raymdm.orchestrate.sweep", "import ray.train\nfrom raymdm.training.loop import train"),
        ("raymdm.tracking.store", "import mlflow"),
        ("raymdm.cli", "from raymdm.comparison.report import compare\nfrom raymdm.config.load import load_recipe"),
    ],
)
def test_checker_lets_an_allowed_import_pass(module: str, source: str) -> None:
    assert [name for _, name in imports(source, module) if problem(module, name)] == []


def test_relative_import_in_a_package_file_starts_at_the_package() -> None:
    assert list(imports("from .report import compare", "raymdm.comparison", is_package=True)) == [
        (1, "raymdm.comparison.report.compare")
    ]


def test_packages_import_only_what_the_house_allows(repo_root: Path) -> None:
    files = python_files(repo_root, "raymdm")
    assert len(files) > 10
    wrong = []
    for file in files:
        module = module_name(file, repo_root)
        for line, name in imports(file.read_text(), module, file.name == "__init__.py"):
            if why := problem(module, name):
                wrong.append(f"{file.relative_to(repo_root)}:{line}: imports {name}: {why}")
    assert wrong == []


def test_jobs_leave_ray_and_mlflow_to_raymdm(repo_root: Path) -> None:
    wrong = [
        f"{file.relative_to(repo_root)}:{line}: imports {name}"
        for file in python_files(repo_root, "jobs")
        for line, name in imports(file.read_text(), file.stem)
        if name.split(".")[0] in ONLY_IN
    ]
    assert wrong == []


def test_every_part_of_the_house_has_its_row(repo_root: Path) -> None:
    parts = {path.stem for path in (repo_root / "raymdm").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__main__", "__pycache__"} <= set(SIBLINGS)


def test_files_are_short(repo_root: Path) -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in python_files(repo_root, "raymdm", "jobs")}
    assert {str(file.relative_to(repo_root)): n for file, n in lengths.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize("folder", ["work", "farm", "root", "home", "Users"])
def test_machine_path_is_recognised(folder: str) -> None:
    assert MACHINE_PATH.search(f'path = "/{folder}/main/data"')
    assert not MACHINE_PATH.search(f"docs/{folder}/index.md and ~/{folder}/x")


def test_registry_is_recognised() -> None:
    assert REGISTRY.search("pip install --extra-index" + "-url=somewhere")
    assert REGISTRY.search("https://host.example" + "/simple/torch")
    assert not REGISTRY.search("https://docs.example/simple.html")


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY], ids=["machine path", "package registry"])
def test_no_file_names_one_machine(repo_root: Path, pattern: re.Pattern[str]) -> None:
    files = repository_files(repo_root)
    assert len(files) > 10
    wrong = [
        f"{file.relative_to(repo_root)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(text_of(file).splitlines(), start=1)
        if pattern.search(line)
    ]
    assert wrong == []


IMPORT_WITHOUT = """
import importlib, sys
sys.modules["ray"] = sys.modules["mlflow"] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_mathematics_imports_without_ray_and_mlflow(repo_root: Path) -> None:
    parts = ("comparison", "config", "data", "diffusion", "evaluation", "generation", "models")
    files = python_files(repo_root, *(f"raymdm/{part}" for part in parts))
    modules = ["raymdm.keys", "raymdm.errors", *(module_name(file, repo_root) for file in files)]
    assert {f"raymdm.{part}" for part in parts} < set(modules)
    done = subprocess.run([sys.executable, "-c", IMPORT_WITHOUT, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_blocked_package_cannot_be_imported() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_WITHOUT, "ray"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr
