"""Where stages leave files for each other: a folder that all nodes see, or an object store.

Everything goes through pyarrow's filesystems, so `s3://` and `gs://` work as a folder does. A file appears whole or not
at all: in a folder by a temporary name, fsync and rename, in an object store because a put is atomic.
"""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock
from pyarrow import fs

from raymdm.errors import UserError

CACHE = Path(tempfile.gettempdir()) / "raymdm-cache"
"""Copies of remote folders, one a node."""


class StorageError(UserError):
    """Storage is full, away or not permitted: what was written before stays, and the same command can go on later."""


class Storage:
    """A folder, local or in an object store, and the files below it by their relative names."""

    def __init__(self, uri: str) -> None:
        """uri: a folder's absolute path, or s3://bucket/folder, gs://bucket/folder with what pyarrow's
        `FileSystem.from_uri` takes after a question mark (region, endpoint_override, scheme).

        Raises UserError for another kind of address.
        """
        self.uri = uri
        self.local = "://" not in uri
        if self.local:
            self._fs: fs.FileSystem = fs.LocalFileSystem()
            self._root = uri
            return
        try:
            self._fs, self._root = fs.FileSystem.from_uri(uri)
        except (ValueError, OSError) as error:
            raise UserError(f"storage_path: cannot use {_hidden(uri)}: {error}") from None

    @property
    def path(self) -> Path:
        """The local folder; an assertion fails for a remote one."""
        assert self.local
        return Path(self._root)

    def child(self, name: str) -> "Storage":
        """The folder `name` below this one."""
        address, mark, query = self.uri.partition("?")
        return Storage(f"{address.rstrip('/')}/{name}{mark}{query}")

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError, or StorageError where it cannot be read."""
        with _told("read", self._at(name)), self._fs.open_input_stream(self._at(name)) as file:
            content: bytes = file.read()
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file in one step, folders above it included. Raises StorageError."""
        with _told("write", self._at(name)):
            if self.local:
                _replace(Path(self._at(name)), content)
            else:
                with self._fs.open_output_stream(self._at(name)) as file:
                    file.write(content)

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        with _told("read", self._at(name)):
            found: fs.FileInfo = self._fs.get_file_info(self._at(name))
        return found.type != fs.FileType.NotFound

    def names(self, folder: str = "") -> list[str]:
        """Names of the files and folders in `folder`, sorted; none where it does not exist."""
        with _told("list", self._at(folder)):
            found = self._fs.get_file_info(fs.FileSelector(self._at(folder), allow_not_found=True))
        return sorted(info.base_name for info in found)

    def put(self, source: Path, name: str) -> None:
        """Copy a local file or folder to `name`; a folder is not one step: write a file that says so last."""
        files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        for file in files:
            inner = "" if file == source else f"/{file.relative_to(source).as_posix()}"
            with _told("write", self._at(name + inner)):
                if self.local:
                    _replace(Path(self._at(name + inner)), file)
                else:
                    with file.open("rb") as content, self._fs.open_output_stream(self._at(name + inner)) as target:
                        shutil.copyfileobj(content, target, 2**24)

    def get(self, name: str, target: Path) -> None:
        """Copy a file or folder to the local `target`. Raises FileNotFoundError, StorageError."""
        with _told("read", self._at(name)):
            info = self._fs.get_file_info(self._at(name))
            if info.type == fs.FileType.NotFound:
                raise FileNotFoundError(self._at(name))
            if info.type == fs.FileType.File:
                inner = {"": info.path}
            else:
                found = self._fs.get_file_info(fs.FileSelector(self._at(name), recursive=True))
                files = [file.path for file in found if file.type == fs.FileType.File]
                inner = {str(PurePosixPath(file).relative_to(info.path)): file for file in files}
            for relative, file in inner.items():
                place = target / relative if relative else target
                place.parent.mkdir(parents=True, exist_ok=True)
                with self._fs.open_input_stream(file) as content, place.open("wb") as copy:
                    shutil.copyfileobj(content, copy, 2**24)

    def delete(self, name: str) -> None:
        """Remove a file or folder; nothing happens where there is none."""
        with _told("delete", self._at(name)):
            info = self._fs.get_file_info(self._at(name))
            if info.type == fs.FileType.Directory:
                self._fs.delete_dir(self._at(name))
            elif info.type == fs.FileType.File:
                self._fs.delete_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root


def fetched(location: str) -> Path:
    """A local folder or file with the content of `location`: itself, or a copy that is made once a node.

    location: a local path, or the URI of something that never changes once it is written.
    """
    if "://" not in location:
        return Path(location)
    address, mark, query = location.rstrip("/").partition("?")
    above, _, name = address.rpartition("/")
    copy = CACHE / hashlib.sha256(location.encode()).hexdigest()[:16] / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(copy.parent / ".lock"):
        if not copy.exists():
            partial = copy.parent / ".partial"
            shutil.rmtree(partial, ignore_errors=True)
            Storage(f"{above}{mark}{query}").get(name, partial / name)
            (partial / name).rename(copy)
    return copy


@contextmanager
def _told(doing: str, place: str) -> Iterator[None]:
    """Turn what an operating system or object store refuses into one message."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(
            f"cannot {doing} {place}: {reason}. Everything written before is intact: make room or mend the permission, "
            "then go on with --resume"
        ) from error


def _replace(path: Path, content: bytes | Path) -> None:
    """Write or copy a local file: temporary name, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as file:
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file, 2**24)
            else:
                file.write(content)
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


def _hidden(uri: str) -> str:
    """A URI without the credentials that pyarrow would take from it."""
    scheme, rest = uri.split("://", 1)
    user, at, place = rest.rpartition("@")
    return f"{scheme}://***@{place}" if at else f"{scheme}://{place or user}"
