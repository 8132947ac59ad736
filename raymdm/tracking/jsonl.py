"""Metrics as JSON lines, `<folder>/<trial>/metrics.jsonl`: the record that reports are made from."""

import json
import os
from collections.abc import Mapping, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any

from raymdm.errors import UserError
from raymdm.tracking.tracker import SweepStatus, TrialStatus

Group = tuple[int, frozenset[str]]
"""A step and the names of its metrics: what one line holds, and holds once."""


class JsonlTracker:
    """Appends each record as one line. Parameters, summary and status are in the trial's other files.

    NaN and infinities are written as Python's `json` writes and reads them.
    """

    def __init__(self, folder: Path) -> None:
        """Write below `folder`, the sweep's `trials`."""
        self._folder = folder
        self._written: dict[str, set[Group]] = {}

    def start(self, trial: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Make the trial's folder, or take up its file and drop a last line that a crash cut short.

        Raises:
            UserError: the file has a broken line that is not its last.
        """
        path = self._path(trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._written[trial] = {_group(record) for record in recover(path)} if path.exists() else set()

    def log(self, trial: str, records: Sequence[Mapping[str, float]]) -> None:
        """Append the records that are new; all of them, or, where the disk refuses, none. Raises OSError."""
        written = self._written[trial]
        lines: dict[Group, str] = {}
        for record in records:
            if _group(record) not in written:
                lines.setdefault(_group(record), json.dumps(dict(record)) + "\n")
        append(self._path(trial), "".join(lines.values()).encode())
        written.update(lines)

    def log_summary(self, trial: str, metrics: Mapping[str, float | None]) -> None: ...

    def artifacts(self, trial: str, paths: Sequence[Path]) -> None: ...

    def finish(self, trial: str, status: TrialStatus, error: str | None = None) -> None: ...

    def close(self, status: SweepStatus) -> None: ...

    def _path(self, trial: str) -> Path:
        return self._folder / trial / "metrics.jsonl"


def append(path: Path, lines: bytes) -> None:
    """Write whole lines behind the last whole one; all of them or, where the disk refuses, none. Raises OSError.

    A last line that a crash cut short is dropped: what stands behind it would be lost with it.
    """
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            file.seek(0)
            size = file.readall().rfind(b"\n") + 1
            file.truncate(size)
        try:
            _write_all(file, lines)
        except BaseException:
            file.truncate(size)  # else the next line would stand behind half a one
            raise


def _write_all(file: RawIOBase, content: bytes) -> None:
    """Write without a buffer, which would be tried again when the file is closed."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) or 0 :]


def _group(record: Mapping[str, float]) -> Group:
    return int(record["step"]), frozenset(record)


def recover(path: Path) -> list[dict[str, float]]:
    """A metrics.jsonl's records; a last line that a crash cut short is cut off the file.

    Raises UserError where another line is broken.
    """
    records, end = [], 0
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            whole = line.endswith(b"\n") and isinstance(record, dict) and "step" in record
        except ValueError:
            whole = False
        if not whole and number < len(lines):
            raise UserError(f"{path}:{number}: not a JSON record with a step; delete that line, then resume again")
        if whole:
            records.append(record)
            end += len(line)
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
    return records
