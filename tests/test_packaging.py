"""The pinned versions and what the package asks for agree."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

NOT_PINNED = {"raymdm"}


def pins(repo_root: Path) -> dict[str, Version]:
    """Versions in constraints.txt by canonical name; fails on a line that is no plain pin, or given twice."""
    found: dict[str, Version] = {}
    for line in (repo_root / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), f"not NAME==VERSION: {line!r}"
        name, version = line.split("==")
        assert canonicalize_name(name) not in found, f"pinned twice: {name}"
        found[canonicalize_name(name)] = Version(version)
    return found


def asked_for(repo_root: Path) -> list[Requirement]:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for text in [*project["dependencies"], *(text for extra in extras for text in extra)]]


def test_every_requirement_is_pinned_to_a_version_it_allows(repo_root: Path) -> None:
    pinned = pins(repo_root)
    wrong = [
        str(requirement)
        for requirement in asked_for(repo_root)
        if (name := canonicalize_name(requirement.name)) not in NOT_PINNED
        and not (name in pinned and requirement.specifier.contains(pinned[name]))
    ]
    assert wrong == []


@pytest.mark.parametrize("extra", ["dev", "docs", "gpu", "reasoning"])
def test_extra_exists(repo_root: Path, extra: str) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"][extra]
