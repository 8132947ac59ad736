"""What a sweep's driver hears of its runs, with everything around the observer faked but the folder."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial
from rich.console import Console

from raymdm.config.schema import Recipe
from raymdm.orchestrate.begin import create
from raymdm.orchestrate.observer import Observer, Stopper
from raymdm.orchestrate.progress import Progress
from raymdm.orchestrate.run_status import run_status
from raymdm.storage import Storage, StorageError
from raymdm.tracking import jsonl

MakeRecipe = Callable[..., Recipe]
MakeObserver = Callable[..., Observer]


class FakeTracker:
    """Keeps what it is told; raises `refuses`, where there is one, instead."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.refuses: Exception | None = None

    def __getattr__(self, verb: str) -> Callable[..., None]:
        def tell(trial: str, *details: Any) -> None:
            if self.refuses:
                raise self.refuses
            self.told.append((verb, trial, *details))

        return tell


@pytest.fixture
def make_observer(make_recipe: MakeRecipe, tmp_path: Path) -> MakeObserver:
    def made(**changes: object) -> Observer:
        recipe = make_recipe(output=str(tmp_path), sweep__seeds=[1, 2], **changes)
        progress = Progress(["standard-s1", "standard-s2"], 2, Console(file=io.StringIO(), width=200))
        return Observer(recipe, create(recipe), FakeTracker(), progress)  # type: ignore[arg-type]

    return made


@pytest.fixture
def observer(make_observer: MakeObserver) -> Observer:
    return make_observer()


def _trial(seed: int = 1, error_file: Path | None = None) -> Trial:
    return SimpleNamespace(config={"cell": ["standard", seed]}, error_file=error_file)  # type: ignore[return-value]


def _report(**changes: Any) -> dict[str, Any]:
    found = {"phase": "training", "step": 5, "total_steps": 12, "loss": 2.0, "best_nll": 1.5, "seconds": 1.0,
             "records": [{"step": 5, "train/loss": 2.0}], "events": []}  # fmt: skip
    return found | changes


def _hear(observer: Observer, **changes: Any) -> None:
    observer.on_trial_result(1, [], _trial(), _report(**changes))


def _end(observer: Observer, seed: int, status: str) -> None:
    result = {"status": status, "error": None if status == "finished" else "lr", "metrics": {"accuracy": 0.5}}
    observer.folder.write(f"trials/standard-s{seed}/result.json", json.dumps(result))
    observer.on_trial_complete(1, [], _trial(seed))


def _told(observer: Observer, *verbs: str) -> list[tuple[Any, ...]]:
    assert isinstance(observer.tracker, FakeTracker)
    return [call for call in observer.tracker.told if call[0] in verbs]


def _printed(observer: Observer) -> str:
    assert isinstance(observer.progress.console.file, io.StringIO)
    return observer.progress.console.file.getvalue()


def _events(observer: Observer) -> Path:
    path = observer.folder.path / "trials" / "standard-s1" / "events.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_records_go_to_the_tracker(observer: Observer) -> None:
    _hear(observer)
    assert _told(observer, "log") == [("log", "standard-s1", [{"step": 5, "train/loss": 2.0}])]
    assert observer.progress.rows["standard-s1"].step == 5


def test_events_are_appended(observer: Observer) -> None:
    path = _events(observer)
    path.write_text('{"event": "resumed", "step": 0, "message": "of an earlier process"}\n')
    spike = {"event": "loss_spike", "step": 3, "message": "a spike"}
    broken = {"event": "broken_checkpoint", "step": 4, "message": "state.json is missing\nand more"}
    _hear(observer, events=[spike])
    _hear(observer, events=[broken])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["resumed", "loss_spike", "broken_checkpoint"]
    assert lines[2] == broken


def test_an_event_after_a_torn_line_is_read_back(observer: Observer) -> None:
    path = _events(observer)
    whole = {"event": "loss_spike", "step": 3, "message": "a spike"}
    path.write_text(json.dumps(whole) + '\n{"event": "loss_spi')
    torn = {"event": "loss_spike", "step": 4, "message": "told again"}
    _hear(observer, events=[whole, torn])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [whole, torn]


def test_a_line_that_lacks_only_its_end_is_written_again(observer: Observer) -> None:
    path = _events(observer)
    event = {"event": "loss_spike", "step": 3, "message": "a spike"}
    path.write_text(json.dumps(event))
    _hear(observer, events=[event])
    assert path.read_text() == json.dumps(event) + "\n"


def test_an_event_that_does_not_fit_on_the_disk_leaves_no_half_line(
    observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, first = _events(observer), {"event": "loss_spike", "step": 3, "message": "a spike"}
    _hear(observer, events=[first])
    before = path.read_bytes()

    def full(file: Any, content: bytes) -> None:
        file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jsonl, "_write_all", full)
    _hear(observer, events=[first | {"step": 4}])
    assert observer.problem and "No space left" in observer.problem
    assert path.read_bytes() == before


def test_a_run_says_under_what_it_ran(observer: Observer) -> None:
    folder, (first,) = observer.folder, observer.folder.state()["origins"]
    other = first | {"git_commit": "abc", "environment": {"torch": "9.9"}}
    observer.on_trial_start(1, [], _trial(1))
    observer.on_trial_start(1, [], _trial(2))
    folder.update(origins=[first, other])
    observer.on_trial_start(1, [], _trial(1))
    for seed in (1, 2):
        _end(observer, seed, "finished")
    results = [json.loads((folder.trial("standard", seed) / "result.json").read_text()) for seed in (1, 2)]
    assert [result["origins"] for result in results] == [[first, other], [first]]
    tags = [call[3] for call in _told(observer, "start")]
    assert tags[2]["git_commit"] == f"{first['git_commit'] or 'none'}; abc"
    assert tags[2]["environment"].endswith("; torch 9.9")
    assert tags[1]["raymdm_version"] == first["raymdm_version"]


def test_only_serious_events_are_told_at_once(observer: Observer) -> None:
    _events(observer)
    _hear(observer, events=[{"event": "loss_spike", "step": 3, "message": "a spike"}])
    _hear(observer, events=[{"event": "skipped_step", "step": 4, "message": "step 4 was skipped\nand more"}])
    assert "a spike" not in _printed(observer)
    assert "standard-s1, step 4: step 4 was skipped\n" in _printed(observer)


REFUSALS = [
    StorageError("cannot write s3://there"),
    OSError(28, "No space left on device"),
    OSError(30, "Read-only file system"),
]


@pytest.fixture(params=REFUSALS, ids=["storage", "full", "read-only"])
def refusing(request: pytest.FixtureRequest, observer: Observer) -> Observer:
    assert isinstance(observer.tracker, FakeTracker)
    observer.folder.write("trials/standard-s1/result.json", '{"status": "finished", "error": null, "metrics": {}}')
    observer.tracker.refuses = request.param
    return observer


CALLBACKS: dict[str, Callable[[Observer], None]] = {
    "start": lambda observer: observer.on_trial_start(1, [], _trial()),
    "result": lambda observer: observer.on_trial_result(1, [], _trial(), _report()),
    "complete": lambda observer: observer.on_trial_complete(1, [], _trial()),
    "error": lambda observer: observer.on_trial_error(1, [], _trial()),
}


@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_storage_that_refuses_in_a_callback_ends_the_sweep(
    refusing: Observer, callback: Callable[[Observer], None]
) -> None:
    stopper = Stopper(refusing)
    assert not stopper.stop_all()
    callback(refusing)
    assert refusing.problem
    assert stopper.stop_all()


def test_a_full_disk_is_told_with_what_to_do(observer: Observer) -> None:
    assert isinstance(observer.tracker, FakeTracker)
    observer.tracker.refuses = OSError(28, "No space left on device")
    _hear(observer)
    assert observer.problem and observer.problem.startswith(f"cannot write {observer.folder.path}: No space left")
    assert observer.problem.endswith("make room there, then go on with --resume")


def test_the_first_problem_is_the_one_that_is_told(observer: Observer) -> None:
    assert isinstance(observer.tracker, FakeTracker)
    for reason in ("first", "second"):
        observer.tracker.refuses = StorageError(reason)
        _hear(observer)
    assert observer.problem == "first"


def test_what_a_run_tells_of_its_storage_ends_the_sweep(observer: Observer) -> None:
    _hear(observer, phase="stopped", problem="cannot write step-00000050")
    assert observer.problem == "cannot write step-00000050"
    assert Stopper(observer).stop_all()
    assert not _told(observer, "log")


@pytest.mark.parametrize(
    ("policy", "status", "stops"),
    [("fail_fast", "failed", True), ("continue", "failed", False), ("fail_fast", "finished", False)],
)
def test_a_failed_run_stops_the_others_only_where_the_recipe_says_so(
    make_observer: MakeObserver, policy: str, status: str, stops: bool
) -> None:
    observer = make_observer(sweep__on_failure=policy)
    _end(observer, 1, status)
    assert Stopper(observer).stop_all() is stops
    assert _told(observer, "finish") == [("finish", "standard-s1", status, None if status == "finished" else "lr")]


def test_a_run_stopped_from_outside_has_not_ended(observer: Observer) -> None:
    observer.on_trial_complete(1, [], _trial())
    assert not _told(observer, "finish")
    assert observer.progress.rows["standard-s1"].phase == "waiting"
    assert observer.problem is None


def test_a_lost_process_leaves_its_error_as_the_run_s_result(observer: Observer, tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text("The actor died")
    observer.on_trial_error(1, [], _trial(2, tmp_path / "error.txt"))
    result = json.loads((observer.folder.trial("standard", 2) / "result.json").read_text())
    assert (result["status"], result["error"], result["seed"]) == ("failed", "The actor died", 2)
    assert observer.failed == ["standard-s2"]
    assert _told(observer, "finish") == [("finish", "standard-s2", "failed", "The actor died")]


@pytest.mark.parametrize(
    ("account", "line"),
    [
        ("The actor died.\n\tpid: 7\n", "The actor died."),
        ("ray::run() (pid=7)\n  File x.py, line 3\n    index[3]\nIndexError: 3\n", "IndexError: 3"),
    ],
)
def test_status_tells_the_last_failure_of_a_lost_process_in_a_line(
    observer: Observer, tmp_path: Path, account: str, line: str
) -> None:
    header = "Failure # {} (occurred at 2026-01-02_03-04-05)\n"
    (tmp_path / "error.txt").write_text(f"{header.format(1)}an earlier one\n{header.format(2)}{account}")
    observer.on_trial_error(1, [], _trial(2, tmp_path / "error.txt"))
    assert run_status(observer.folder.path / "trials", ("standard", 2), None, running=False).error == line


def test_training_s_resources_are_free_once_a_run_is_scored_or_lost(observer: Observer) -> None:
    for let_go in (
        lambda: _hear(observer, phase="scoring"),
        lambda: observer.on_trial_recover(1, [], _trial()),
        lambda: _end(observer, 1, "finished"),
    ):
        observer.on_trial_start(1, [], _trial())
        assert observer.training == {"standard-s1"}
        let_go()
        assert not observer.training


def test_a_broken_metrics_file_ends_the_sweep_with_its_name(observer: Observer) -> None:
    from raymdm.tracking.jsonl import JsonlTracker

    path = observer.folder.trial("standard", 1) / "metrics.jsonl"
    Storage(str(path.parent)).write(path.name, b'not JSON\n{"step": 1}\n')
    observer.tracker = JsonlTracker(observer.folder.path / "trials")
    observer.on_trial_start(1, [], _trial())
    assert observer.problem and "metrics.jsonl:1" in observer.problem
