"""Local files that appear whole or not at all, in pieces that fit into memory."""

import os
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from raymdm.storage.refused import told

CHUNK = 2**24
"""Bytes moved at once, and asked of an object store in one request."""


_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial")


def is_partial(name: str) -> bool:
    """Whether `replace` has not ended, or was killed, while it wrote the file of this name."""
    return _PARTIAL.fullmatch(name) is not None


def file_chunks(path: Path) -> Iterator[bytes]:
    with told("read", str(path)):
        file = path.open("rb")
    with file:
        yield from read_chunks(file, str(path))


def read_chunks(file: Any, place: str) -> Iterator[bytes]:
    while True:
        with told("read", place):
            chunk: bytes = file.read(CHUNK)
        if not chunk:
            return
        yield chunk


def replace(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a local file: temporary name, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
