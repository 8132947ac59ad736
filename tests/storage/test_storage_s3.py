"""What only an object store does: buckets, credentials, a network, and uploads that break off."""

import subprocess
import sys
import threading
from pathlib import Path

import moto.settings
import pytest

from raymdm.storage import Storage, StorageError, address
from tests.storage.conftest import S3Server

CONTENT = b"x" * 40_000_000


@pytest.fixture
def bucket(s3: S3Server) -> Storage:
    return Storage(s3.address(s3.bucket()))


@pytest.fixture
def impatient(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Storage that tries once more only."""
    monkeypatch.setattr(address, "RETRIES", 1)
    return Storage(s3.address(s3.bucket()))


USES = {
    "read": lambda storage, local: storage.read("file"),
    "write": lambda storage, local: storage.write("file", b"1"),
    "exists": lambda storage, local: storage.exists("file"),
    "names": lambda storage, local: storage.names("folder"),
    "put": lambda storage, local: storage.put(Path(__file__), "file"),
    "get": lambda storage, local: storage.get("file", local / "file"),
    "delete": lambda storage, local: storage.delete("file"),
}


@pytest.mark.parametrize("use", USES)
def test_a_missing_bucket_is_told(s3: S3Server, tmp_path: Path, use: str) -> None:
    storage = Storage(s3.address("nowhere/folder"))
    with pytest.raises(StorageError, match=r"s3://nowhere/folder.*bucket.*[Cc]reate (it|the bucket)"):
        USES[use](storage, tmp_path)


@pytest.mark.parametrize("use", USES)
def test_wrong_credentials_are_told_and_not_repeated(
    bucket: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    with pytest.raises(StorageError, match="check the credentials in the environment") as refusal:
        USES[use](bucket, tmp_path)
    assert bucket._root in str(refusal.value)
    assert "the-key-id" not in str(refusal.value)
    assert "the-secret" not in str(refusal.value)


@pytest.mark.parametrize("use", USES)
def test_a_server_that_is_away_is_told(s3: S3Server, impatient: Storage, tmp_path: Path, use: str) -> None:
    s3.stop()
    try:
        with pytest.raises(StorageError, match=r"s3://.*connect to.*intact: bring the storage back.*--resume"):
            USES[use](impatient, tmp_path)
    finally:
        s3.start()


@pytest.mark.parametrize("use", ["read", "write"])
def test_a_server_that_is_away_for_seconds_is_waited_for(
    s3: S3Server, bucket: Storage, tmp_path: Path, use: str
) -> None:
    bucket.write("file", b"1")
    s3.stop()
    back = threading.Timer(3, s3.start)
    back.start()
    USES[use](bucket, tmp_path)
    back.join()
    assert bucket.read("file") == b"1"


def test_a_busy_server_is_asked_again(s3: S3Server, bucket: Storage) -> None:
    s3.busy = 3
    bucket.write("file", b"1")
    assert bucket.read("file") == b"1"


def test_a_small_file_is_one_request(s3: S3Server, bucket: Storage) -> None:
    s3.requests.clear()
    bucket.write("file", b"1")
    assert [method for method, _ in s3.requests] == ["PUT"]


def test_a_large_file_is_read_in_large_pieces(s3: S3Server, bucket: Storage) -> None:
    bucket.write("file", CONTENT)
    s3.requests.clear()
    assert bucket.read("file") == CONTENT
    assert len(s3.counted("GET")) == 3


def test_an_endpoint_may_come_without_its_scheme(s3: S3Server) -> None:
    uri = s3.address(s3.bucket()).replace("http://", "") + "&scheme=http"
    Storage(uri).write("file", b"1")
    assert Storage(uri).read("file") == b"1"


def test_an_endpoint_may_come_from_the_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, _, query = s3.address(s3.bucket()).partition("?")
    monkeypatch.setenv("AWS_ENDPOINT_URL", query.removeprefix("endpoint_override=").partition("&")[0])
    Storage(f"{bucket}?region=us-east-1").write("file", b"1")
    assert s3.counted("PUT")[-1].endswith("/file")


def test_a_file_that_is_replaced_all_the_time_is_told(s3: S3Server, bucket: Storage) -> None:
    bucket.write("file", b"0")

    def replace(method: str, path: str) -> None:
        if method == "GET":
            s3.before = lambda method, path: None
            bucket.write("file", b"%d" % len(s3.requests))
            s3.before = replace

    s3.before = replace
    with pytest.raises(StorageError, match="was replaced each time"):
        bucket.read("file")


def test_a_name_that_leads_out_of_its_folder_is_not_copied(s3: S3Server, bucket: Storage, tmp_path: Path) -> None:
    bucket.write("folder/file", b"1")
    s3.request("PUT", f"{bucket._root}/folder/../outside")
    with pytest.raises(StorageError, match="leads out of its folder"):
        bucket.get("folder", tmp_path / "a" / "copy")
    assert list(tmp_path.iterdir()) == []


BROKEN_OFF = """
import os, signal, sys
from pathlib import Path
from raymdm.storage import Storage, store

def cut(path):
    yield b"x" * 25_000_000
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise KeyboardInterrupt

store.file_chunks = cut
Storage(sys.argv[1]).put(Path(__file__ if "__file__" in globals() else sys.executable), "file")
"""


@pytest.mark.parametrize("end", ["killed", "interrupted"])
def test_an_upload_that_breaks_off_leaves_what_was_there(storage: Storage, end: str) -> None:
    storage.write("file", b"before")
    done = subprocess.run([sys.executable, "-c", BROKEN_OFF, storage.uri, end], capture_output=True, check=False)
    assert done.returncode < 0, done.stderr
    assert storage.read("file") == b"before"
    assert storage.names() == ["file"]
