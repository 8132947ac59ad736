"""What storage promises, on a disk and in an object store alike."""

import pickle
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from raymdm.storage import Storage

ODD = "a b/ü?#+%41&=\"'~.txt"
TREE = {"weights.bin": b"w" * 5000, "empty": b"", "deep/er/file": b"d", "deep/" + ODD: b"odd"}


def plant(folder: Path) -> Path:
    for name, content in TREE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def harvest(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [0, 1, 100_000, 17_000_000])
def test_what_is_written_is_read(storage: Storage, size: int) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    storage.write("a/file", content)
    assert storage.read("a/file") == content


def test_a_file_is_replaced(storage: Storage) -> None:
    storage.write("file", b"long before")
    storage.write("file", b"now")
    assert storage.read("file") == b"now"


def test_names_may_hold_any_letter(storage: Storage) -> None:
    storage.write(ODD, b"1")
    folder, name = ODD.split("/")
    assert storage.read(ODD) == b"1"
    assert storage.exists(ODD)
    assert storage.names() == [folder]
    assert storage.names(folder) == [name]


def test_a_child_is_a_folder_below(storage: Storage) -> None:
    storage.child("one").child("two").write("file", b"1")
    assert storage.read("one/two/file") == b"1"


@pytest.mark.parametrize("name", ["a b", "ü", "what?", "a#1", "a%20b", "x=1&y", "one/two"])
def test_a_child_is_found_again_by_its_address(storage: Storage, name: str) -> None:
    storage.child(name).write("file", b"1")
    assert Storage(storage.child(name).uri).read("file") == b"1"


def test_a_missing_file_is_told(storage: Storage, tmp_path: Path) -> None:
    storage.write("other", b"")
    with pytest.raises(FileNotFoundError):
        storage.read("file")
    with pytest.raises(FileNotFoundError):
        storage.get("file", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_an_empty_storage_holds_nothing(storage: Storage) -> None:
    assert not storage.exists("file")
    assert storage.names() == []
    assert storage.names("folder") == []


def test_a_folder_exists_with_a_file_in_it(storage: Storage) -> None:
    storage.write("one/two/file", b"")
    assert storage.exists("one")
    assert storage.exists("one/two")
    assert not storage.exists("on")


def test_names_are_those_of_one_folder_in_order(storage: Storage) -> None:
    for name in ("b", "a/x/1", "a/y", "aa", "a.txt"):
        storage.write(name, b"")
    assert storage.names() == ["a", "a.txt", "aa", "b"]
    assert storage.names("a") == ["x", "y"]


def test_a_folder_comes_back_as_it_was(storage: Storage, tmp_path: Path) -> None:
    storage.put(plant(tmp_path / "source"), "there")
    storage.get("there", tmp_path / "copy")
    assert harvest(tmp_path / "copy") == TREE


def test_a_file_comes_back_as_it_was(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"1" * 11_000_000)
    storage.put(tmp_path / "source", "a/there")
    storage.get("a/there", tmp_path / "b" / "copy")
    assert (tmp_path / "b" / "copy").read_bytes() == b"1" * 11_000_000


def test_everything_comes_at_once(storage: Storage, tmp_path: Path) -> None:
    storage.put(plant(tmp_path / "source"), "there")
    storage.child("there").get("", tmp_path / "copy")
    assert harvest(tmp_path / "copy") == TREE


def test_an_empty_folder_is_not_kept(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "source" / "empty").mkdir(parents=True)
    storage.put(tmp_path / "source", "there")
    assert not storage.exists("there")


def test_a_missing_source_is_told(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"):
        storage.put(tmp_path / "source", "there")


def test_a_deleted_file_leaves_its_folder(storage: Storage, tmp_path: Path) -> None:
    storage.write("folder/file", b"")
    storage.delete("folder/file")
    assert storage.exists("folder")
    assert storage.names("folder") == []
    storage.get("folder", tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_deleted_folder_takes_its_files_only(storage: Storage, tmp_path: Path) -> None:
    storage.put(plant(tmp_path / "source"), "a")
    for name in ("ab", "b/c"):
        storage.write(name, b"")
    storage.delete("a")
    assert not storage.exists("a")
    assert storage.names() == ["ab", "b"]


def test_deleting_nothing_does_nothing(storage: Storage) -> None:
    storage.write("other", b"")
    storage.delete("file")
    storage.delete("folder/file")
    assert storage.names() == ["other"]


def test_the_storage_itself_is_never_deleted(storage: Storage) -> None:
    with pytest.raises(AssertionError):
        storage.delete("")


def test_a_last_slash_changes_nothing(storage: Storage) -> None:
    address, mark, query = storage.uri.partition("?")
    again = Storage(f"{address}/{mark}{query}")
    again.write("file", b"1")
    assert storage.read("file") == b"1"
    assert again.uri == storage.uri
    assert again.child("a").uri == storage.child("a").uri


def test_storage_travels_to_other_processes(storage: Storage) -> None:
    storage.child("below").write("file", b"1")
    assert pickle.loads(pickle.dumps(storage.child("below"))).read("file") == b"1"


def test_a_reader_never_sees_half_a_file(storage: Storage) -> None:
    contents = [bytes([turn]) * (100_000 + turn) for turn in range(40)]
    storage.write("file", contents[0])
    writes = SimpleNamespace(done=0, allowed=0)

    def rewrite() -> None:
        for content in contents:
            while writes.done == writes.allowed:
                time.sleep(0.001)
            storage.write("file", content)
            writes.done += 1

    writer = threading.Thread(target=rewrite, daemon=True)
    writer.start()
    seen = []
    while writer.is_alive():
        writes.allowed = writes.done + 3  # a read that meets many more gives up
        seen.append(storage.read("file"))
        assert storage.names() == ["file"]
    writer.join()
    assert writes.done == len(contents)
    assert [len(content) for content in seen if content not in contents] == []
