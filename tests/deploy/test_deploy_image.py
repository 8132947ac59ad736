"""The Dockerfile: pinned, not root, from constraints.txt, and with nothing in it that is not named."""

import json
import re
from pathlib import Path

import pytest

Instruction = tuple[str, str]


@pytest.fixture
def instructions(repo_root: Path) -> list[Instruction]:
    """The Dockerfile's instructions, continued lines joined: name, arguments."""
    lines = (repo_root / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name.upper(), " ".join(rest.split())) for name, rest in pairs]


def _of(instructions: list[Instruction], name: str) -> list[str]:
    return [arguments for kind, arguments in instructions if kind == name]


def test_base_is_pinned_to_a_patch_release(instructions: list[Instruction]) -> None:
    (base,) = _of(instructions, "FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_runs_as_a_numbered_user_that_is_not_root(instructions: list[Instruction]) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", _of(instructions, "USER")[-1])


def test_nothing_is_installed_after_root_is_left(instructions: list[Instruction]) -> None:
    names = [name for name, _ in instructions]
    assert "RUN" not in names[names.index("USER") :]


def test_fetches_nothing_but_packages(instructions: list[Instruction]) -> None:
    assert _of(instructions, "ADD") == []
    assert not [run for run in _of(instructions, "RUN") if re.search(r"https?://|curl |wget [^\\&]*-O|git clone", run)]


def test_every_dependency_is_constrained(instructions: list[Instruction]) -> None:
    installs = [run for run in _of(instructions, "RUN") if "pip install" in run]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in run or "--no-deps" in run for run in installs)


def test_dependencies_come_before_the_code(instructions: list[Instruction]) -> None:
    copies = _of(instructions, "COPY")
    assert copies[0] == "pyproject.toml constraints.txt README.md ./"
    assert copies.index("raymdm raymdm") == 1


def test_has_what_kuberay_calls(instructions: list[Instruction]) -> None:
    assert any(re.search(r"apt-get install .*\bwget\b", run) for run in _of(instructions, "RUN"))


def test_copies_only_what_the_context_holds(instructions: list[Instruction], repo_root: Path) -> None:
    ignored = (repo_root / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {source for copy in _of(instructions, "COPY") for source in copy.split()[:-1]}
    assert "*" in ignored
    assert copied == allowed
    assert all((repo_root / name).exists() for name in copied)


def test_holds_no_secrets(instructions: list[Instruction]) -> None:
    settings = " ".join(_of(instructions, "ENV") + _of(instructions, "ARG"))
    assert not re.search(r"TOKEN|PASSWORD|SECRET|KEY", settings)


def test_starts_without_a_shell(instructions: list[Instruction]) -> None:
    (command,) = _of(instructions, "CMD")
    assert json.loads(command)[0] == "raymdm"


def test_home_and_code_lie_where_the_manifests_look(instructions: list[Instruction]) -> None:
    assert _of(instructions, "WORKDIR") == ["/opt/raymdm"]
    assert any("HOME=/opt/ray" in settings.split() for settings in _of(instructions, "ENV"))
