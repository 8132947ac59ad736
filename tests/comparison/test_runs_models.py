"""Sweeps whose methods trained different models."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raymdm.comparison.metrics import METRICS
from raymdm.comparison.reading import runs_of_sweeps

Build = Callable[..., Path]
TOGETHER = "A difference between runs of two models is one of model and method together."


@pytest.fixture
def of_model(build: Build, tmp_path: Path) -> Callable[..., Path]:
    """`of_model(method, path, section)`: a sweep of one method, the model of that section at `path`."""

    def make(method: str, path: str, section: str = "model") -> Path:
        folder = build(tmp_path / f"{method}-{path}", [method])
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        recipe[section] = recipe["model"] | {"kind": "pretrained", "path": path}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        for result in folder.glob("trials/*/result.json"):
            result.write_text(json.dumps(json.loads(result.read_text()) | {"model": path}))
        return folder

    return make


def notes(*folders: Path) -> list[str]:
    return runs_of_sweeps([*folders], baseline=None, metric=METRICS["accuracy"]).notes


def test_methods_of_different_models_are_noted(of_model: Callable[..., Path]) -> None:
    found = notes(of_model("standard", "small"), of_model("p_pots", "large"))
    assert f"gsm8k: standard trained small; p_pots trained large. {TOGETHER}" in found


def test_an_arm_of_another_sweeps_model_is_noted(of_model: Callable[..., Path]) -> None:
    found = notes(of_model("standard", "small"), of_model("arm", "large"))
    assert f"gsm8k: standard trained small; arm trained large. {TOGETHER}" in found


def test_an_arm_with_a_model_of_its_own_has_its_own_note(of_model: Callable[..., Path]) -> None:
    found = notes(of_model("standard", "small"), of_model("arm", "large", "arm_model"))
    assert not any(TOGETHER in note for note in found)
