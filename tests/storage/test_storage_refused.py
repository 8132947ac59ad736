"""What a disk refuses is told in one message, and leaves what was there."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from raymdm.storage import Storage, StorageError


@pytest.fixture
def read_only_disk(small_disk: Path) -> Path:
    Storage(str(small_disk)).write("folder/file", b"before")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    return small_disk


def said(place: Path, reason: str, remedy: str) -> str:
    return rf"cannot \w+ {re.escape(str(place))}: {reason}.*intact: {remedy}, then go on with --resume"


def test_a_full_disk_keeps_what_was_there(small_disk: Path) -> None:
    storage = Storage(str(small_disk))
    storage.write("file", b"before")
    with pytest.raises(StorageError, match=said(small_disk / "file", "No space left", "make room there")):
        storage.write("file", b"x" * 2**21)
    assert storage.read("file") == b"before"
    assert os.listdir(small_disk) == ["file"]


def test_a_disk_that_was_full_is_written_on(small_disk: Path) -> None:
    storage = Storage(str(small_disk))
    with pytest.raises(StorageError):
        storage.write("file", b"x" * 2**21)
    storage.write("file", b"after")
    assert storage.read("file") == b"after"


def test_a_full_disk_is_told_while_a_folder_is_copied(small_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model").write_bytes(b"x" * 2**21)
    with pytest.raises(StorageError, match=said(small_disk / "there/model", "No space left", "make room there")):
        Storage(str(small_disk)).put(source, "there")
    with pytest.raises(StorageError, match=said(small_disk / "copy/model", "No space left", "make room there")):
        Storage(str(source)).get("", small_disk / "copy")


REFUSED = {
    "write": lambda storage: storage.write("folder", b""),
    "put": lambda storage: storage.put(Path(__file__), "folder"),
    "delete": lambda storage: storage.delete("folder"),
}


@pytest.mark.parametrize("use", REFUSED)
def test_a_read_only_disk_is_told(read_only_disk: Path, use: str) -> None:
    storage = Storage(str(read_only_disk))
    told = said(read_only_disk / "folder", "Read-only file system", "mend the permission or the disk")
    with pytest.raises(StorageError, match=told):
        REFUSED[use](storage)
    assert storage.read("folder/file") == b"before"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do anything")
def test_a_missing_permission_is_told(tmp_path: Path) -> None:
    Storage(str(tmp_path)).write("file", b"")
    (tmp_path / "file").chmod(0)
    tmp_path.chmod(0o500)
    with pytest.raises(
        StorageError, match=said(tmp_path / "file", "Permission denied", "mend the permission or the disk")
    ):
        Storage(str(tmp_path)).read("file")
    with pytest.raises(
        StorageError, match=said(tmp_path / "other", "Permission denied", "mend the permission or the disk")
    ):
        Storage(str(tmp_path)).write("other", b"")


def test_a_file_where_a_folder_is_needed_is_told(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("file", b"")
    where = "move away the file that lies where a folder is needed"
    with pytest.raises(StorageError, match=said(tmp_path / "file/below", "(Not a directory|File exists)", where)):
        storage.write("file/below", b"")
    with pytest.raises(StorageError, match=said(tmp_path / "file", "Not a directory", where)):
        storage.names("file")


def test_a_folder_where_a_file_is_needed_is_told(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("folder/file", b"")
    with pytest.raises(StorageError, match=said(tmp_path / "folder", ".*is a directory", "name a file, not a folder")):
        storage.read("folder")
    with pytest.raises(
        StorageError,
        match=said(tmp_path / "folder", "Is a directory", "move away the folder that lies where a file is needed"),
    ):
        storage.write("folder", b"")
    assert storage.names("folder") == ["file"]


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    # Linux lets nobody read this one, root included.
    with pytest.raises(
        StorageError, match=said(Path("/proc/self/mem"), "Input/output error", "mend the permission or the disk")
    ):
        Storage(str(tmp_path / "there")).put(Path("/proc/self/mem"), "file")
    assert Storage(str(tmp_path / "there")).names() == []


def test_names_leave_out_what_is_being_written(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("file", b"")
    for name in (".file.0123abcd.partial", ".hidden", "a.partial"):
        (tmp_path / name).write_bytes(b"half")
    assert storage.names() == [".hidden", "a.partial", "file"]
    storage.child("copy").put(tmp_path, "all")
    storage.get("copy/all", tmp_path / "again")
    assert sorted(os.listdir(tmp_path / "again")) == [".hidden", "a.partial", "file"]


def test_a_link_is_deleted_and_not_what_it_names(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("folder/file", b"1")
    (tmp_path / "link").symlink_to("folder")
    storage.delete("link")
    assert storage.names() == ["folder"]
    assert storage.read("folder/file") == b"1"
