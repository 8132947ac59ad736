"""A folder on a disk or in an object store, through pyarrow's filesystems.

A file appears whole or not at all: in a folder by a temporary name, fsync and rename, in an object store because a put
is atomic. Empty folders are not kept: an object store has none.
"""

import ctypes
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from pyarrow import fs

from raymdm.storage.address import local_path, opened, without_last_slash
from raymdm.storage.local import file_chunks, is_partial, read_chunks, replace
from raymdm.storage.refused import StorageError, told

REREADS = 20
"""How often a file is read again that is replaced while it is read."""

T = TypeVar("T")


class _Replaced(Exception):
    pass


class Storage:
    """A folder, local or in an object store, and the files below it by their relative names."""

    def __init__(self, uri: str) -> None:
        """uri: a folder's path or file:///folder (`~` is the home folder, a relative path starts at the working
        directory), or s3://bucket/folder, gs://bucket/folder, percent-encoded, with `OPTIONS` after a question mark.

        `self.uri` is an absolute path or the address without its last slash: any process can use it.
        Raises UserError for another kind of address, StorageError where S3 has to be asked for a region and fails.
        """
        path = local_path(uri)
        self.local = path is not None
        self._bucket_seen = self.local
        if path is not None:
            self.uri = self._root = str(path)
            self._fs: fs.FileSystem = fs.LocalFileSystem()
        else:
            self.uri = without_last_slash(uri)
            self._fs, self._root = opened(self.uri)

    def __reduce__(self) -> tuple[type["Storage"], tuple[str]]:
        return Storage, (self.uri,)  # pyarrow would forget how often to try again

    @property
    def path(self) -> Path:
        """The local folder; an assertion fails for a remote one."""
        assert self.local
        return Path(self._root)

    def child(self, name: str) -> "Storage":
        """The folder `name` below this one."""
        below = object.__new__(Storage)  # the same connection
        vars(below).update(vars(self))
        below._root = self._at(name)
        below.uri = below._root
        if not self.local:
            address, mark, query = self.uri.partition("?")
            below.uri = f"{address}/{quote(name)}{mark}{query}"
        return below

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError, or StorageError where it cannot be read."""
        return self._read(self._at(name), name, b"".join)

    def write(self, name: str, content: bytes) -> None:
        """Write a file in one step, folders above it included. Raises StorageError."""
        self._write(name, [content])

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name. Raises StorageError."""
        return bool(self._info(name).type != fs.FileType.NotFound)

    def names(self, folder: str = "") -> list[str]:
        """Names of the files and folders in `folder`, sorted; none where it does not exist. Raises StorageError."""
        with self._told("list", folder):
            found = self._fs.get_file_info(fs.FileSelector(self._at(folder), allow_not_found=True))
            if not found:
                self._need_bucket()
        return sorted({info.base_name for info in found if not is_partial(info.base_name)})

    def put(self, source: Path, name: str) -> None:
        """Copy a local file or folder to `name`; a folder is not one step: write a file that says so last.

        Raises FileNotFoundError where there is no `source`, StorageError.
        """
        if not source.exists():
            raise FileNotFoundError(source)
        files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        for file in files:
            if not is_partial(file.name):
                inner = "" if file == source else f"/{file.relative_to(source).as_posix()}"
                self._write(name + inner, file_chunks(file))

    def get(self, name: str, target: Path) -> None:
        """Copy a file or folder to the local `target`; each file appears whole. Raises FileNotFoundError, StorageError.

        name: `""` for the storage itself.
        """
        files = self._files(name)
        if () not in files:
            with told("write", str(target)):
                target.mkdir(parents=True, exist_ok=True)
        for relative, file in files.items():
            place = target.joinpath(*relative)
            with told("write", str(place)):
                self._read(file, name, partial(replace, place))

    def delete(self, name: str) -> None:
        """Remove a file or folder; nothing happens where there is none. Raises StorageError."""
        assert name, "the storage itself stays"
        info, place = self._info(name), self._at(name)
        with self._told("delete", name), suppress(FileNotFoundError):
            if self.local and info.type == fs.FileType.Directory and not Path(place).is_symlink():
                shutil.rmtree(place)
            elif self.local and info.type != fs.FileType.NotFound:
                Path(place).unlink()
            elif info.type == fs.FileType.Directory:
                self._fs.delete_dir(place)
            elif info.type == fs.FileType.File:
                self._fs.delete_file(place)

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def _info(self, name: str) -> Any:
        with self._told("read", name):
            info = self._fs.get_file_info(self._at(name))
            if info.type == fs.FileType.NotFound:
                self._need_bucket()
        return info

    def _files(self, name: str) -> dict[tuple[str, ...], str]:
        """The files of a file or folder: their places in it, () for a file's own, and paths."""
        info = self._info(name)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(self._shown(name))
        if info.type == fs.FileType.File:
            return {(): info.path}
        with self._told("read", name):
            found = self._fs.get_file_info(fs.FileSelector(self._at(name), recursive=True))
        files = [file for file in found if file.type == fs.FileType.File and not is_partial(file.base_name)]
        inner = {PurePosixPath(file.path).relative_to(info.path).parts: file.path for file in files}
        if outside := [path for parts, path in inner.items() if ".." in parts]:
            raise StorageError(f"will not copy {outside[0]}: the name leads out of its folder. Remove it")
        return inner

    def _read(self, file: str, name: str, use: Callable[[Iterable[bytes]], T]) -> T:
        """What `use` makes of a file's content; it starts again where the file was replaced meanwhile."""
        for _ in range(REREADS):
            with self._told("read", name):
                stream = self._fs.open_input_stream(file)
            with stream, suppress(_Replaced):
                return use(self._chunks(stream, file, name))
        raise StorageError(
            f"cannot read {self._shown(name)}: it was replaced each time. Stop the process that writes it"
        )

    def _chunks(self, stream: Any, file: str, name: str) -> Iterator[bytes]:
        yield from read_chunks(stream, self._shown(name))
        if self.local:
            return  # what is open stays what it was
        with self._told("read", name), self._fs.open_input_stream(file) as now:
            # An object store is asked for a size and then for each chunk, and answers with what is there by then.
            if now.metadata() != stream.metadata():
                raise _Replaced

    def _write(self, name: str, chunks: Iterable[bytes]) -> None:
        with self._told("write", name):
            if self.local:
                replace(Path(self._at(name)), chunks)
                return
            stream = self._fs.open_output_stream(self._at(name))
            try:
                for chunk in chunks:
                    stream.write(chunk)
            except BaseException:
                # Closing the stream would complete a file that is cut short. pyarrow closes it when it is freed, and
                # hangs where that happens at the process's end: it is never freed.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
                raise
            stream.close()

    @contextmanager
    def _told(self, doing: str, name: str) -> Iterator[None]:
        with told(doing, self._shown(name)):
            try:
                yield
            except FileNotFoundError:
                self._need_bucket()
                raise

    def _need_bucket(self) -> None:
        """A bucket that does not exist reads like an empty one: tell it. Who may not ask for it is let through."""
        if self._bucket_seen:
            return
        bucket = self._root.split("/", 1)[0]
        with suppress(OSError):
            if self._fs.get_file_info(bucket).type == fs.FileType.NotFound:
                raise StorageError(
                    f"cannot use {self._shown('')}: there is no bucket {bucket!r}. Create it, or mend the address"
                )
        self._bucket_seen = True

    def _shown(self, name: str) -> str:
        return self._at(name) if self.local else f"{self.uri.split('://', 1)[0]}://{self._at(name)}"
