"""A run's checkpoints in a folder, and reached as those in an object store are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from raymdm.storage import Storage


class Bucket:
    """A local filesystem that, as an object store, needs no folder to be made before what lies in it."""

    def __init__(self) -> None:
        self._local = fs.LocalFileSystem()
        self.before_put: Callable[[str], object] = lambda path: None
        """Called with a file's path before it is written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._local, name)

    def open_output_stream(self, path: str) -> Any:
        self.before_put(path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return self._local.open_output_stream(path)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@pytest.fixture
def remote(tmp_path: Path) -> Storage:
    """Its `_fs` is a Bucket."""
    found = Storage(str(tmp_path / "run"))
    vars(found).update(local=False, _bucket_seen=True, _fs=Bucket())
    return found


@pytest.fixture(params=["folder", "remote"])
def storage(request: pytest.FixtureRequest) -> Storage:
    found: Storage = request.getfixturevalue(request.param)
    return found
