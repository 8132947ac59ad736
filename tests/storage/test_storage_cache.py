"""Remote folders are copied once a node, whole, into a folder of the user's own."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raymdm.storage import Storage, StorageError, fetched
from tests.storage.conftest import S3Server

FETCH = "import sys; from raymdm.storage import fetched; print(fetched(sys.argv[1]))"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the copies will lie."""
    monkeypatch.setenv("RAYMDM_CACHE", str(tmp_path / "above"))
    return tmp_path / "above" / f"raymdm-cache-{os.getuid()}"


@pytest.fixture
def model(s3: S3Server) -> str:
    """The address of a folder of three files in a bucket."""
    storage = Storage(s3.address(s3.bucket())).child("my model")
    for name in ("config.json", "deep/weights", "ü"):
        storage.write(name, name.encode() * 1000)
    s3.requests.clear()
    return storage.uri


@pytest.fixture
def slow(s3: S3Server) -> S3Server:
    s3.before = lambda method, path: time.sleep(0.2 if method == "GET" else 0)
    return s3


def start(location: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", FETCH, location], stdout=subprocess.PIPE, text=True)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WHOLE = {name: name.encode() * 1000 for name in ("config.json", "deep/weights", "ü")}


def test_a_folder_is_copied_under_its_name(model: str, cache: Path) -> None:
    copy = fetched(model)
    assert copy.name == "my model"
    assert copy.parent.parent == cache
    assert content(copy) == WHOLE


def test_a_file_is_copied_under_its_name(model: str) -> None:
    address, mark, query = model.partition("?")
    copy = fetched(f"{address}/deep/weights{mark}{query}")
    assert copy.name == "weights"
    assert copy.read_bytes() == WHOLE["deep/weights"]


def test_a_whole_bucket_is_copied(model: str) -> None:
    address, mark, query = model.partition("?")
    copy = fetched(f"{address.removesuffix('/my%20model')}{mark}{query}")
    assert content(copy / "my model") == WHOLE


def test_four_processes_copy_once(model: str, slow: S3Server) -> None:
    processes = [start(model) for _ in range(4)]
    places = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert len(places) == 1
    assert content(Path(places.pop())) == WHOLE
    files = [path for path in slow.counted("GET") if path.endswith(tuple(WHOLE))]
    assert len(files) == len(set(files)) == 3


def test_a_copy_needs_no_storage(model: str, s3: S3Server) -> None:
    copy = fetched(model)
    s3.requests.clear()
    address, mark, query = model.partition("?")
    assert fetched(f"{address}/{mark}{query}") == copy
    assert s3.requests == []


def test_other_addresses_have_other_copies(model: str, s3: S3Server) -> None:
    other = Storage(s3.address(s3.bucket())).child("my model")
    other.write("config.json", b"other")
    assert content(fetched(other.uri)) != content(fetched(model))


def test_a_copy_that_was_killed_is_made_again(model: str, slow: S3Server, cache: Path) -> None:
    process = start(model)
    while not any(path.endswith("deep/weights") for path in slow.counted("GET")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name for path in cache.rglob("my model")] == ["my model"]  # the part of it
    assert content(fetched(model)) == WHOLE
    assert not any(cache.rglob("*.partial"))


def test_what_is_not_there_leaves_no_copy(model: str, cache: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fetched(model.replace("my%20model", "nothing"))
    assert not any(cache.rglob("nothing"))


def test_the_cache_is_the_user_s_alone(model: str, cache: Path) -> None:
    fetched(model)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def plant_link(cache: Path) -> None:
    (cache.parent / "real").mkdir(mode=0o700)
    cache.symlink_to("real")


def plant_open(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o770)


def plant_foreign(cache: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may give a folder away")
    cache.mkdir(mode=0o700)
    os.chown(cache, 65534, 65534)


@pytest.mark.parametrize("plant", [plant_link, plant_open, plant_foreign])
def test_a_cache_that_others_can_change_is_not_trusted(model: str, cache: Path, plant: Callable[[Path], None]) -> None:
    cache.parent.mkdir()
    plant(cache)
    # A copy that somebody else has put there.
    home = cache / hashlib.sha256(model.encode()).hexdigest()[:16]
    (home / "my model").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"will not trust the cache .*raymdm-cache.*RAYMDM_CACHE"):
        fetched(model)


def test_a_file_in_the_cache_s_place_is_told(model: str, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_bytes(b"")
    with pytest.raises(StorageError, match=r"raymdm-cache.*move away the file .*RAYMDM_CACHE"):
        fetched(model)


def test_a_full_cache_is_told_and_cleared(
    s3: S3Server, model: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMDM_CACHE", str(small_disk))
    Storage(model).write("weights", b"x" * 2**21)
    with pytest.raises(StorageError, match=r"weights: No space left.*make room there, or name another place by RAYMDM"):
        fetched(model)
    assert content(small_disk).keys() == {f"{home.relative_to(small_disk)}/.lock" for home in small_disk.glob("*/*")}


def test_a_read_only_cache_gives_what_it_has(model: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMDM_CACHE", str(small_disk))
    copy = fetched(model)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert fetched(model) == copy
    address, mark, query = model.partition("?")
    with pytest.raises(StorageError, match=r"Read-only file system.*name another place by RAYMDM_CACHE"):
        fetched(f"{address}/deep{mark}{query}")
