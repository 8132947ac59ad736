"""The command line as a user meets it: one message, the right exit code, no traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from raymdm import __version__
from raymdm.cli import main
from raymdm.config.load import load_recipe
from raymdm.orchestrate.begin import create

Here = Callable[..., tuple[int, str]]


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
    (tmp_path / "_base.yaml").write_text("name: base\n")
    return path


def test_check_says_what_it_checked(recipe: Path) -> None:
    done = raymdm("check", "mine.yaml", cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    assert "resources: 3 runs" in done.stdout and "ok: mine" in done.stdout
    assert not (recipe.parent / "runs").exists()


def test_recipes_lists_a_folder_a_line_each(recipe: Path) -> None:
    folder = recipe.parent / ("long" * 20)
    recipe.rename(folder.mkdir() or folder / "mine.yaml")  # type: ignore[func-returns-value]
    done = subprocess.run(
        [sys.executable, "-m", "raymdm.cli", "recipes", folder], capture_output=True, text=True, check=True,
        env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    assert done.stdout == f"{folder / 'mine.yaml'}  mine  Sorts three digits\n"


def test_the_version(tmp_path: Path) -> None:
    assert raymdm("--version", cwd=tmp_path).stdout == f"raymdm {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["evaluate", "mine.yaml", "--model", "x"], ["convert", "x", "y"], ["compare"]], ids=lambda a: a[0]
)
def test_a_folder_that_is_not_there_is_told_before_anything_heavy_is_imported(
    recipe: Path, arguments: list[str]
) -> None:
    code = f"""
import sys
from raymdm.cli import main
try:
    main({arguments})
except SystemExit:
    print([name for name in ("torch", "ray", "transformers", "scipy", "mlflow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=recipe.parent, capture_output=True, text=True, check=True)
    assert "error:" in done.stderr
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check", "none.yaml"], ["none.yaml"]),
        (["check", "mine.yaml", "train.lrr=1"], ["train.lrr", "did you mean train.lr?"]),
        (["check", "mine.yaml", "train.lr=fast"], ["train.lr", "fast"]),
        (["check", "mine.yaml", "sweep.methods=[mirrror]"], ["mirrror", "did you mean 'mirror'?", "p_pots_mirror"]),
        (
            ["check", "mine.yaml", "train.num_workers=99999", "train.global_batch_size=99999"],
            ["train.num_workers=99999", "never"],
        ),
        (["check", "mine.yaml", "data.task=gsm8k", "data.path=nowhere"], ["nowhere"]),
        (["check", "mine.yaml", "output=mine.yaml/below"], ["output", "mine.yaml"]),
        (["sweep", "mine.yaml", "output=mine.yaml/below"], ["output", "mine.yaml"]),
        (["compare", "."], ["."]),
        (["calibrate", "mine.yaml", "sweep.methods=[standard]"], ["sweep.methods"]),
        (["evaluate", "mine.yaml", "--model", "nowhere"], ["--model: nowhere is no folder"]),
        (["diagnose", "mine.yaml", "--checkpoint", "."], ["--checkpoint: . holds no model.safetensors"]),
        (["convert", "nowhere", "x"], ["nowhere: no such folder"]),
        (["check", "_base.yaml"], ["_base.yaml: a file whose name starts with _ is a base for others"]),
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


@pytest.fixture
def made(recipe: Path) -> Path:
    """A sweep's folder in which standard-s42 has failed and standard-s731 has not ended."""
    loaded = load_recipe(recipe, [f"output={recipe.parent / 'runs'}", "sweep.seeds=[42, 731]", "tracking.mlflow=false"])
    folder = create(loaded)
    folder.update(status="failed")
    result = {"status": "failed", "error": "its process died", "metrics": {}}
    folder.write("trials/standard-s42/result.json", json.dumps(result))
    return folder.path.rename(recipe.parent / "made")


@pytest.fixture
def here(made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs a verb in this process, beside the sweep's folder; returns its exit code and what it wrote to stderr."""
    monkeypatch.chdir(made.parent)

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status", "none"], ["none is no sweep's folder", "name one"]),
        (["status", "."], [". is no sweep's folder", "made"]),
        (["retry", "none", "--failed"], ["none is not a sweep"]),
        (["retry", "made"], ["name runs", "--failed"]),
        (["retry", "made", "standard-s42", "--failed"], ["name runs", "--failed"]),
        (["retry", "made", "standard-s1"], ["there is no run standard-s1. Near ones:", "standard-s42"]),
        (["retry", "made", "standard-s731"], ["standard-s731 has not failed"]),
        (["retry", "made", "--failed", "train.lr=1"], ["train.lr", "Leave these fields alone"]),
        (["sync", "none"], ["none is not a sweep"]),
        (["sync", "made"], ["tracking.mlflow=false. Give tracking.mlflow=true"]),
        (["sync", "made", "tracking.urii=x"], ["did you mean tracking.uri?"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_mistake_about_a_sweep_gets_one_message(
    made: Path, here: Here, arguments: list[str], expected: list[str]
) -> None:
    before = (made / "trials" / "standard-s42" / "result.json").read_bytes()
    code, error = here(*arguments)
    assert code == 2
    assert error.startswith("error:") and error.count("error:") == 1
    for part in expected:
        assert part in error
    assert (made / "trials" / "standard-s42" / "result.json").read_bytes() == before


def test_a_sweep_that_runs_is_not_tried_again(made: Path, here: Here) -> None:
    with FileLock(made / ".lock"):
        code, error = here("retry", "made", "--failed")
    assert code == 2
    assert error == f"error: {made} is being run by another process: wait for it, or stop it first\n"


def test_nothing_to_retry(made: Path, here: Here) -> None:
    (made / "trials" / "standard-s42" / "result.json").unlink()
    code, error = here("retry", "made", "--failed")
    assert code == 2
    assert "no run has failed" in error and "--resume" in error


def test_status_of_a_narrow_terminal_keeps_commands_whole(made: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raymdm.cli", "status", made], capture_output=True, text=True, check=True,
        env=os.environ | {"COLUMNS": "60"},
    )  # fmt: skip
    assert f"go on with: raymdm retry {made} --failed\n" in done.stdout
    assert "standard-s42" in done.stdout


def test_status_prints_json(made: Path) -> None:
    done = raymdm("status", "made", "--json", cwd=made.parent)
    found = json.loads(done.stdout)
    assert (found["state"], found["counts"]) == ("failed", {"failed": 1, "waiting": 1})


def test_help_lists_every_verb(tmp_path: Path) -> None:
    done = raymdm("--help", cwd=tmp_path)
    verbs = {"recipes", "check", "calibrate", "train", "evaluate", "diagnose", "sweep", "compare", "status", "retry"}
    assert {verb for verb in verbs | {"sync"} if f" {verb} " in done.stdout} == verbs | {"sync"}


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
