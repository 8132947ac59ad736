"""What a person sees while a sweep runs."""

import io

import pytest
from rich.console import Console

from raymdm.orchestrate import progress as module
from raymdm.orchestrate.progress import Progress, Row


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
    assert progress.left() == pytest.approx((40 + 60) / 2)  # one has 40 s to go, one waits for 60 s, on two slots


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
