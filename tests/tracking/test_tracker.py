"""Handing records on to several trackers."""

from pathlib import Path

from raymdm.tracking.tracker import FanOut


class Recorder:
    """Remembers what it was told, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def start(self, *arguments) -> None:
        self.calls.append(("start", *arguments))

    def log(self, *arguments) -> None:
        self.calls.append(("log", *arguments))

    def log_summary(self, *arguments) -> None:
        self.calls.append(("log_summary", *arguments))

    def artifacts(self, *arguments) -> None:
        self.calls.append(("artifacts", *arguments))

    def finish(self, *arguments) -> None:
        self.calls.append(("finish", *arguments))

    def close(self, *arguments) -> None:
        self.calls.append(("close", *arguments))


CALLS = [
    ("start", "arm-s1", {"lr": 0.1}, {"method": "arm"}),
    ("log", "arm-s1", [{"step": 1, "train/loss": 2.0}]),
    ("log_summary", "arm-s1", {"accuracy": 0.5}),
    ("artifacts", "arm-s1", [Path("report.html")]),
    ("finish", "arm-s1", "failed", "out of memory"),
    ("close", "interrupted"),
]


def test_every_tracker_is_told_everything_in_order():
    recorders = [Recorder(), Recorder()]
    everyone = FanOut(recorders)
    for name, *arguments in CALLS:
        getattr(everyone, name)(*arguments)
    assert recorders[0].calls == recorders[1].calls == CALLS
