"""`raymdm compare` as a user meets it: from a table, from MLflow, with questions, and with what is wrong in them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from raymdm.comparison.document import Report

HEADER = "task,model,method,seed,metric,value\n"


def compare(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raymdm.cli", "compare", *arguments], cwd=cwd, capture_output=True, text=True,
        check=False, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results.csv: five seeds of two methods far apart, in points."""
    path = tmp_path_factory.mktemp("table")
    lines = [
        f"sorting,tiny,{method},{seed},accuracy,{value + seed / 100}"
        for method, value in (("standard", 0.5), ("mirror", 0.7), ('a"b', 0.5))
        for seed in range(5)
    ]
    quoted = [line.replace('a"b', '"a""b"') for line in lines]
    (path / "results.csv").write_text(HEADER + "\n".join(quoted))
    return path


@pytest.fixture(scope="module")
def compared(folder: Path) -> subprocess.CompletedProcess[str]:
    return compare("--results", "results.csv", "-o", "out", "--latex", cwd=folder)


def test_a_table_is_compared(compared: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert compared.returncode == 0, compared.stderr
    assert "better" in compared.stdout and "report: out/report.html" in compared.stdout
    names = {path.name for path in (folder / "out").iterdir()}
    assert {"report.html", "report.md", "report.json", "report.tex", "results.csv", "figures"} <= names


def test_report_json_follows_its_models(compared: subprocess.CompletedProcess[str], folder: Path) -> None:
    text = (folder / "out" / "report.json").read_text()
    report = Report.model_validate_json(text)
    assert report.labels == ["standard", "mirror", 'a"b']
    assert "NaN" not in text and "Infinity" not in text
    assert report.schema_version == json.loads(text)["schema_version"] == 1


def test_results_csv_can_be_compared_again(compared: subprocess.CompletedProcess[str], folder: Path) -> None:
    again = compare("--results", "out/results.csv", "-o", "again", cwd=folder)
    assert again.returncode == 0, again.stderr
    first, second = (pd.read_csv(folder / name / "results.csv") for name in ("out", "again"))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("question", "code", "said"),
    [
        ("decided(mirror, standard)", 0, "holds: decided(mirror, standard)"),
        ("better(standard, mirror)", 1, "does not hold: better(standard, mirror)"),
        ("not decided('a\"b', standard)", 0, "holds"),
        ("decided(mirror, strats)", 2, "no method 'strats' in the results. Known: standard, mirror, a\"b"),
        ("decided(mirror", 2, "--assert: 'decided(mirror' cannot be read"),
    ],
)
def test_the_exit_code_answers_a_question(folder: Path, question: str, code: int, said: str) -> None:
    done = compare("--results", "results.csv", "-o", "asked", "--assert", question, cwd=folder)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_finding_nothing_is_no_failure(folder: Path) -> None:
    done = compare("--results", "results.csv", "-o", "none", "--baseline", 'a"b', cwd=folder)
    assert done.returncode == 0
    assert "not distinguishable" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "compare needs one source"),
        (["--results", "results.csv"], "name a folder for the report: -o DIR"),
        (["--results", "none.csv", "-o", "out2"], "none.csv"),
        (["--results", "results.csv", "-o", "out2", "--baseline", "mirrror"], "mirrror"),
        (["--results", "results.csv", "-o", "out2", "--metric", "clip_score"], "clip_score:higher or clip_score:lower"),
        (["--results", "results.csv", "-o", "out2", "--metric", "val_nll"], "val_nll"),
        (["--results", "results.csv", "-o", "results.csv/below"], "results.csv/below"),
        (["--mlflow", "sqlite:///none.db", "--experiment", "e", "-o", "out2"], "none.db"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(folder: Path, arguments: list[str], said: str) -> None:
    done = compare(*arguments, cwd=folder)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    assert said in done.stderr
    assert not (folder / "out2").exists() and not (folder / "none.db").exists()
