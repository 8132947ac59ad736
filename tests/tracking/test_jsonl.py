"""Metrics as JSON lines: appended, each record once, whatever a crash left."""

import json
import math
import resource
import signal

import pytest

from raymdm.errors import UserError
from raymdm.tracking.jsonl import JsonlTracker


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mirror-s1" / "metrics.jsonl"


def started(tmp_path) -> JsonlTracker:
    tracker = JsonlTracker(tmp_path)
    tracker.start("mirror-s1", {}, {})
    return tracker


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_in_the_file_when_log_returns(tmp_path, path):
    tracker = started(tmp_path)
    tracker.log("mirror-s1", [{"step": 1, "train/loss": 2.5}, {"step": 1, "val/nll": 0.5}])
    assert read(path) == [{"step": 1, "train/loss": 2.5}, {"step": 1, "val/nll": 0.5}]
    tracker.log("mirror-s1", [{"step": 2, "train/loss": 2.0}])
    assert read(path)[2] == {"step": 2, "train/loss": 2.0}


def test_trials_have_their_own_files(tmp_path, path):
    tracker = started(tmp_path)
    tracker.start("arm-s1", {}, {})
    tracker.log("arm-s1", [{"step": 1, "train/loss": 1.0}])
    tracker.log("mirror-s1", [{"step": 1, "train/loss": 2.0}])
    assert read(path) == [{"step": 1, "train/loss": 2.0}]
    assert read(tmp_path / "arm-s1" / "metrics.jsonl") == [{"step": 1, "train/loss": 1.0}]


def test_a_resumed_trial_writes_each_group_of_a_step_once(tmp_path, path):
    started(tmp_path).log("mirror-s1", [{"step": 1, "train/loss": 1.0}, {"step": 2, "train/loss": 2.0}])
    again = [{"step": 2, "train/loss": 2.5}, {"step": 2, "val/nll": 0.5}, {"step": 3, "train/loss": 3.0}]
    started(tmp_path).log("mirror-s1", again)
    assert read(path) == [
        {"step": 1, "train/loss": 1.0},
        {"step": 2, "train/loss": 2.0},
        {"step": 2, "val/nll": 0.5},
        {"step": 3, "train/loss": 3.0},
    ]


def test_a_group_told_twice_to_one_tracker_is_written_once(tmp_path, path):
    started(tmp_path).log("mirror-s1", [{"step": 1, "train/loss": 1.0}] * 2)
    assert len(read(path)) == 1


def test_a_full_disk_leaves_no_half_line_and_the_record_can_be_told_again(tmp_path, path):
    """Ten bytes of the second record still fit."""
    tracker = started(tmp_path)
    tracker.log("mirror-s1", [{"step": 1, "train/loss": 1.0}])
    size = path.stat().st_size
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            tracker.log("mirror-s1", [{"step": 2, "train/loss": 2.0}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.stat().st_size == size
    tracker.log("mirror-s1", [{"step": 2, "train/loss": 2.0}])
    assert [record["step"] for record in read(path)] == [1, 2]


@pytest.mark.parametrize(
    "torn", [b'{"step": 2, "tra', b'{"step": 2, "train/loss": 2.0}', b"\0\0\0\n", b"3\n", b"\xff\n"]
)
def test_a_torn_last_line_is_dropped(tmp_path, path, torn):
    started(tmp_path).log("mirror-s1", [{"step": 1, "train/loss": 1.0}])
    with path.open("ab") as file:
        file.write(torn)
    started(tmp_path).log("mirror-s1", [{"step": 2, "train/loss": 2.5}])
    assert read(path) == [{"step": 1, "train/loss": 1.0}, {"step": 2, "train/loss": 2.5}]


def test_a_broken_line_in_the_middle_is_refused_by_number(tmp_path, path):
    path.parent.mkdir()
    path.write_text('{"step": 1, "a": 1.0}\nnonsense\n{"step": 2, "a": 1.0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: not a JSON record"):
        started(tmp_path)


def test_numbers_that_are_not_finite_are_read_back(tmp_path, path):
    started(tmp_path).log("mirror-s1", [{"step": 1, "a": math.nan, "b": -math.inf}])
    (record,) = read(path)
    assert math.isnan(record["a"])
    assert record["b"] == -math.inf


def test_a_trial_without_records_has_no_file(tmp_path, path):
    started(tmp_path).finish("mirror-s1", "finished")
    assert not path.exists()


def test_a_summary_writes_nothing(tmp_path, path):
    tracker = started(tmp_path)
    tracker.log("mirror-s1", [{"step": 1, "train/loss": 2.5}])
    tracker.log_summary("mirror-s1", {"grad_norm_std": None, "grad_norm": 0.5})
    assert read(path) == [{"step": 1, "train/loss": 2.5}]
