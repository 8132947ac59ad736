"""The command line as a user meets it: one message, the right exit code, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def raymdm(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raymdm.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(
        """
name: mine
description: Sorts three digits
output: runs
data: {task: sorting, num_train: 60, num_test: 12, sorting: {digits: 3}}
model: {kind: tiny, hidden_size: 16, num_heads: 2, tokenizer: {kind: chars}}
"""
    )
    return path


def test_check_says_what_it_checked(recipe: Path) -> None:
    done = raymdm("check", "mine.yaml", cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    assert "resources: 3 runs" in done.stdout and "ok: mine" in done.stdout
    assert not (recipe.parent / "runs").exists()


def test_recipes_lists_a_folder(recipe: Path) -> None:
    done = raymdm("recipes", ".", cwd=recipe.parent)
    assert "mine.yaml" in done.stdout and "Sorts three digits" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check", "none.yaml"], ["none.yaml"]),
        (["check", "mine.yaml", "train.lrr=1"], ["train.lrr", "did you mean train.lr?"]),
        (["check", "mine.yaml", "train.lr=fast"], ["train.lr", "fast"]),
        (["check", "mine.yaml", "sweep.methods=[mirrror]"], ["mirrror", "did you mean 'mirror'?", "p_pots_mirror"]),
        (
            ["check", "mine.yaml", "train.num_workers=99", "train.global_batch_size=99"],
            ["train.num_workers=99", "never"],
        ),
        (["check", "mine.yaml", "data.task=gsm8k", "data.path=nowhere"], ["nowhere"]),
        (["check", "mine.yaml", "output=mine.yaml/below"], ["output", "mine.yaml"]),
        (["sweep", "mine.yaml", "output=mine.yaml/below"], ["output", "mine.yaml"]),
        (["compare", "."], ["."]),
        (["calibrate", "mine.yaml", "sweep.methods=[standard]"], ["sweep.methods"]),
        (["evaluate", "mine.yaml", "--model", "nowhere"], ["nowhere", "model.safetensors"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_mistake_gets_one_message(recipe: Path, arguments: list[str], expected: list[str]) -> None:
    done = raymdm(*arguments, cwd=recipe.parent)
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for part in expected:
        assert part in done.stderr


def test_several_mistakes_are_told_at_once(recipe: Path) -> None:
    done = raymdm("sweep", "mine.yaml", "train.lr=fast", "data.sede=3", "sweep.methods=[]", cwd=recipe.parent)
    assert done.returncode == 2
    assert all(part in done.stderr for part in ("train.lr", "data.sede", "sweep.methods"))


def test_nothing_to_resume(recipe: Path) -> None:
    done = raymdm("sweep", "mine.yaml", "--resume", "tracking.mlflow=false", cwd=recipe.parent)
    assert done.returncode == 2
    assert "no unfinished sweep" in done.stderr


def test_in_a_job_a_relative_output_lasts(recipe: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raymdm.cli", "check", "mine.yaml"], cwd=recipe.parent, capture_output=True, text=True,
        check=True, env=os.environ | {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert f"output: {tmp_path / 'home' / 'runs'}" in done.stdout


@pytest.mark.parametrize("verb", ["calibrate", "train", "evaluate", "sweep"])
def test_job_scripts_take_the_recipe_as_an_option(recipe: Path, repo_root: Path, verb: str) -> None:
    done = subprocess.run(
        [sys.executable, repo_root / "jobs" / f"{verb}.py", "--recipe", "mine.yaml", "train.lrr=1", "--help"],
        cwd=recipe.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "RECIPE" in done.stdout
