"""What a storage address may be."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from raymdm.errors import UserError
from raymdm.storage import Storage, StorageError, address, fetched


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/a%20b")
    assert storage.local
    assert storage.path == tmp_path / "a b"
    assert storage.uri == str(tmp_path / "a b")


def test_a_question_mark_in_a_path_is_a_letter(tmp_path: Path) -> None:
    Storage(str(tmp_path / "what?")).child("a").write("file", b"1")
    assert (tmp_path / "what?" / "a" / "file").read_bytes() == b"1"


def test_a_relative_path_starts_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage("runs").path == tmp_path / "runs"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage("~/runs").path == tmp_path / "runs"


def test_what_is_local_is_not_copied(tmp_path: Path) -> None:
    assert fetched(str(tmp_path / "a")) == tmp_path / "a"
    assert fetched(f"file://{tmp_path}/a%20b") == tmp_path / "a b"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hdfs://host/folder", "hdfs:// as storage: give a folder's path, file:///folder, s3://.* or gs://"),
        ("http://host/folder", "http:// as storage: give"),
        ("S3://bucket/folder", "S3:// as storage: give"),
        ("file://folder", "file:///folder, with three slashes"),
        ("~nobody-of-this-name/runs", "names no home folder"),
        ("s3://bucket/a b", "percent-encoded, s3://bucket/a%20b"),
        ("s3://bucket/ü", "percent-encoded, s3://bucket/%C3%BC"),
        ("s3://bucket/a#b", "percent-encoded, s3://bucket/a%23b"),
        ("s3://", "empty name"),
        ("s3:///folder", "empty name"),
        ("s3://bucket//folder", "empty name"),
        ("s3://bucket/../other", "empty name, `.` or `..`"),
        ("s3://bucket/%2e%2e/other", "empty name, `.` or `..`"),
        ("s3://bucket/a?regoin=eu", "only region, endpoint_override, scheme may be set, not regoin"),
        ("s3://bucket/a?retry_limit_seconds=1", "not retry_limit_seconds"),
        ("gs://bucket/a?region=eu", "only endpoint_override, scheme may be set, not region"),
        ("s3://bucket/a?scheme=ftp&region=eu", "cannot use s3://bucket/a as storage"),
        ("s3://bucket/%zz?region=eu", "cannot use s3://bucket/%zz as storage"),
    ],
)
def test_another_address_is_refused(uri: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Storage(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://WHO:HUSH@bucket/folder",
        "s3://WHO:SEC/HUSH@bucket/folder",
        "s3://WHO:SEC?HUSH@bucket/folder",
        "s3://HUSH@bucket",
        "s3://anonymous:HUSH@bucket",
        "s3://bucket/a?endpoint_override=http://WHO:HUSH@host",
        "s3://bucket/a?endpoint_override=http://WHO:HUSH%40host",
        "s3://bucket/a?secret_key=HUSH",
        "gs://WHO:HUSH@bucket/folder",
        "hdfs://WHO:HUSH@host/folder",
    ],
)
@pytest.mark.parametrize("use", [Storage, fetched])
def test_credentials_are_refused_and_not_repeated(uri: str, use: Callable[[str], object]) -> None:
    with pytest.raises(UserError) as refusal:
        use(uri)
    assert "HUSH" not in str(refusal.value)
    assert "WHO" not in str(refusal.value)


def test_google_s_address_is_google_s_filesystem() -> None:
    storage = Storage("gs://bucket/folder")
    assert isinstance(storage._fs, fs.GcsFileSystem)
    assert storage.child("a b").uri == "gs://bucket/folder/a%20b"


def test_google_s_storage_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "GS_SECONDS", 0.5)
    storage = Storage("gs://anonymous@bucket/folder?endpoint_override=127.0.0.1:1&scheme=http")
    with pytest.raises(StorageError, match=r"cannot read gs://bucket/folder/file: .*connect.*: bring the storage back"):
        storage.read("file")
