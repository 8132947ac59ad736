"""What the first, second and third signal do to a sweep, with Tune and the runs faked."""

import io
import pickle
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from rich.console import Console

from raymdm.orchestrate import interrupt, preemption
from raymdm.orchestrate.interrupt import Interrupt
from raymdm.orchestrate.preemption import NodeGoes, told


class FakeObserver:
    """A sweep of two runs that train."""

    def __init__(self) -> None:
        self.runs = {"standard-s1", "standard-s2"}
        self.progress = SimpleNamespace(console=Console(file=io.StringIO(), width=200))

    def stepping(self) -> set[str]:
        return self.runs


Stopping = tuple[Interrupt, FakeObserver, list[str]]


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Stopping:
    """And the keys that were written."""
    keys: list[str] = []
    monkeypatch.setattr(interrupt, "stop", keys.append)
    monkeypatch.setattr(interrupt, "forget", keys.remove)
    observer = FakeObserver()
    return Interrupt(observer), observer, keys  # type: ignore[arg-type]


def test_without_a_signal_nothing_ends(stopping: Stopping) -> None:
    ending, _, keys = stopping
    with ending.listening():
        assert not ending.stop_all()
    assert not keys


def test_the_first_signal_waits_for_the_runs_that_train(stopping: Stopping) -> None:
    ending, observer, keys = stopping
    with ending.listening():
        signal.raise_signal(signal.SIGINT)
        assert not ending.stop_all() and keys == [ending.key]
        observer.runs.pop()
        assert not ending.stop_all()
        observer.runs.pop()
        assert ending.stop_all() and keys == [ending.key], "told once"
    assert not keys, "nothing is left on the cluster"


def test_nobody_trains_nobody_waits(stopping: Stopping) -> None:
    ending, observer, _ = stopping
    observer.runs.clear()
    with ending.listening():
        signal.raise_signal(signal.SIGINT)
        assert ending.stop_all()


def test_the_second_signal_waits_for_nobody(stopping: Stopping) -> None:
    ending, _, _ = stopping
    with ending.listening():
        signal.raise_signal(signal.SIGINT)
        assert not ending.stop_all()
        signal.raise_signal(signal.SIGINT)
        assert ending.stop_all()


def test_the_wait_is_bounded(stopping: Stopping, monkeypatch: pytest.MonkeyPatch) -> None:
    ending, _, _ = stopping
    now = iter([100.0, 101.0, 100.0 + interrupt.PATIENCE_S + 1])
    monkeypatch.setattr(interrupt, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with ending.listening():
        signal.raise_signal(signal.SIGINT)
        assert not ending.stop_all()
        assert ending.stop_all()


def test_the_third_signal_ends_what_hangs_and_the_handler_before_comes_back(stopping: Stopping) -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping[0].listening():
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_tune_may_save_it(stopping: Stopping) -> None:
    assert isinstance(pickle.loads(pickle.dumps(stopping[0])), tune.stopper.NoopStopper)


class FakeHead:
    """Ray's head, as far as a process asks it what to leave for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: set[str] = set()
        self.draining: dict[str, int] = {}
        self.away = False
        state = SimpleNamespace(get_draining_nodes=lambda: self.draining)
        ray = SimpleNamespace(
            _private=SimpleNamespace(state=SimpleNamespace(state=state)),
            get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "own"),
        )
        monkeypatch.setattr(preemption, "ray", ray)
        monkeypatch.setattr(preemption.internal_kv, "_internal_kv_exists", self._exists)

    def _exists(self, key: str, **space: Any) -> bool:
        if self.away:
            raise ConnectionError
        return key in self.keys


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> FakeHead:
    return FakeHead(monkeypatch)


@pytest.mark.parametrize(
    ("draining", "keys", "expected"),
    [
        ([], [], ""),
        (["other"], ["another sweep's"], ""),
        (["own"], [], "node"),
        (["driver's"], [], "node"),
        ([], ["key"], "sweep"),
        (["own"], ["key"], "sweep"),
    ],
)
def test_what_a_process_is_told_to_leave_for(
    head: FakeHead, draining: list[str], keys: list[str], expected: str
) -> None:
    head.draining, head.keys = dict.fromkeys(draining, 0), set(keys)
    assert told("key", "driver's") == expected


def test_a_head_that_is_away_tells_nothing(head: FakeHead) -> None:
    head.draining, head.away = {"own": 0}, True
    assert told("key") == ""


def test_a_process_that_leaves_its_node_is_none_that_failed() -> None:
    found = pickle.loads(pickle.dumps(NodeGoes()))
    assert isinstance(found, NodeGoes) and found.preempted
