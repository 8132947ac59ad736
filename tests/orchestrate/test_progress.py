"""What a person sees while a sweep runs."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raymdm.orchestrate import progress as module
from raymdm.orchestrate.progress import Progress, Row, seconds_left


def _progress() -> tuple[Progress, io.StringIO]:
    text = io.StringIO()
    return Progress(["standard-s1", "mirror-s1", "mirror-s2"], 2, Console(file=text, width=200)), text


def _result(step: int, phase: str = "training") -> dict[str, object]:
    return {"phase": phase, "step": step, "total_steps": 100, "loss": 1.5, "best_nll": 1.2, "seconds": 5.0}


def test_time_left_of_a_run_follows_its_pace() -> None:
    assert Row("training", step=25, total=100, seconds=5.0).left() == pytest.approx(15.0)
    assert Row("scoring", step=100, total=100, seconds=5.0).left() is None


def test_time_left_of_the_sweep_comes_from_ended_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress, _ = _progress()
    progress.started("standard-s1")
    assert progress.left() is None
    now[0] = 60.0
    progress.ended("standard-s1", "finished")
    progress.started("mirror-s1")
    now[0] = 80.0
    assert progress.left() == 60.0  # one has 40 s to go; the free slot takes the one that waits, for 60 s


def test_lines_name_run_step_and_loss() -> None:
    progress, text = _progress()
    progress.started("standard-s1")
    progress.result("standard-s1", _result(20))
    progress.ended("mirror-s1", "failed")
    assert "standard-s1 training 20/100 loss 1.500" in text.getvalue()
    assert "mirror-s1: failed" in text.getvalue()


def test_a_terminal_gets_a_table() -> None:
    progress, _ = _progress()
    progress.result("standard-s1", _result(20))
    text = io.StringIO()
    Console(file=text, width=120).print(progress._table())
    assert "20/100" in text.getvalue() and "1.2000" in text.getvalue() and "20 s" in text.getvalue()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    return clock


def _finished(took: float) -> Row:
    return Row("finished", took=took)


@pytest.mark.parametrize(
    ("rows", "slots", "costs", "expected"),
    [
        # a method's own runs tell: 30 s and 50 s take 40 s
        ({"a-s1": _finished(30.0), "a-s2": _finished(50.0), "b-s1": _finished(7.0), "a-s3": Row()}, 1, {}, 40.0),
        # the long ones have finished; one of half their cost takes half as long
        ({"long-s1": _finished(60.0), "short-s1": Row()}, 1, {"long": 2.0, "short": 1.0}, 30.0),
        # 3 s for 10 steps of 100, and 10 s beside training as the other run had; it started 5 s ago
        (
            {
                "a-s1": Row("finished", seconds=20.0, took=30.0),
                "b-s1": Row("training", step=10, total=100, seconds=3.0, started=995.0),
            },
            1, {}, 30.0 + 10.0 - 5.0,
        ),
        # three of 10 s on two slots: the third follows one of the others
        ({"a-s0": _finished(10.0), "a-s1": Row(), "a-s2": Row(), "a-s3": Row()}, 2, {}, 20.0),
        # two are busy on one slot, as one of them is only scored: the next begins after the longer one
        (
            {
                "a-s0": _finished(10.0), "a-s1": Row("scoring", started=992.0), "a-s2": Row("training", started=997.0),
                "a-s3": Row(),
            },
            1, {}, 7.0 + 10.0,
        ),
        # a failure says nothing of how long runs take
        ({"a-s1": Row("failed", took=1.0), "a-s2": Row()}, 1, {}, None),
        ({"a-s1": _finished(10.0), "a-s2": Row("failed", took=1.0)}, 1, {}, 0.0),
    ],
)  # fmt: skip
def test_time_left(
    now: list[float], rows: dict[str, Row], slots: int, costs: dict[str, float], expected: float | None
) -> None:
    assert seconds_left(rows, slots, costs) == (None if expected is None else pytest.approx(expected))


def _in_file(path: Path) -> Any:
    return json.loads(path.read_text())


def _to_file(path: Path) -> Progress:
    return Progress(["standard-s1", "mirror-s1"], 2, Console(file=io.StringIO()), file=path)


def test_the_file_holds_what_is_known(tmp_path: Path) -> None:
    progress = _to_file(tmp_path / "progress.json")
    progress.start()
    progress.started("standard-s1")
    progress.result("standard-s1", _result(20))
    progress.stop()
    content = _in_file(tmp_path / "progress.json")
    assert (content["slots"], content["pid"]) == (2, os.getpid())
    run = content["runs"]["standard-s1"]
    started = run.pop("started")
    assert content["updated"] >= started
    assert run == {
        "phase": "training", "step": 20, "total": 100, "loss": 1.5, "best_nll": 1.2, "seconds": 5.0, "took": None,
    }  # fmt: skip
    assert content["runs"]["mirror-s1"]["phase"] == "waiting"


def test_the_file_is_written_at_starts_and_ends_and_else_every_two_seconds(now: list[float], tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = _to_file(path)
    steps = []
    progress.started("standard-s1")
    for seconds, step in [(1.0, 10), (1.9, 20), (2.1, 30), (3.0, 40), (4.0, 50), (4.2, 60)]:
        now[0] = 1000.0 + seconds
        progress.result("standard-s1", _result(step))
        steps.append(_in_file(path)["runs"]["standard-s1"]["step"])
    assert steps == [0, 0, 30, 30, 30, 60]
    progress.ended("standard-s1", "finished")
    assert _in_file(path)["runs"]["standard-s1"]["took"] == pytest.approx(4.2)


def test_no_half_file_is_left_beside_it(tmp_path: Path) -> None:
    _to_file(tmp_path / "progress.json").started("standard-s1")
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_a_disk_that_refuses_is_told_once_and_the_sweep_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    progress = _to_file(tmp_path / "gone" / "progress.json")
    progress.started("standard-s1")
    progress.ended("standard-s1", "finished")
    assert progress.rows["standard-s1"].phase == "finished"
    (record,) = caplog.records
    assert "gone" in record.message and "the sweep goes on" in record.message


def test_a_loss_that_is_no_number_is_null_in_the_file(tmp_path: Path) -> None:
    progress = _to_file(tmp_path / "progress.json")
    progress.result("standard-s1", _result(20) | {"loss": float("nan")})
    assert _in_file(tmp_path / "progress.json")["runs"]["standard-s1"]["loss"] is None


def test_a_report_without_a_loss_keeps_the_last_one(tmp_path: Path) -> None:
    progress, _ = _progress()
    progress.result("standard-s1", _result(20))
    progress.result("standard-s1", _result(30) | {"loss": None})
    assert progress.rows["standard-s1"].loss == 1.5


def test_many_runs_are_summed_up() -> None:
    text = io.StringIO()
    names = [f"standard-s{seed}" for seed in range(50)]
    progress = Progress(names, 20, Console(file=text, width=400))
    for name in names[:20]:
        progress.started(name)
    assert "0/50 runs: standard-s0 starting" in progress._headline() and "and 12 more" in progress._headline()
    progress.ended("standard-s3", "finished")
    progress.ended("standard-s4", "failed")
    Console(file=text, width=120).print(progress._table())
    shown = text.getvalue().split("┏")[1]
    assert "standard-s4 " in shown and "standard-s3 " not in shown and "standard-s49" not in shown
