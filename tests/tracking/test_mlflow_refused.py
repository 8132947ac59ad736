"""Files that MLflow's artifact store will never take do not count as an outage."""

import errno
import os
import socket

import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED, UNAUTHENTICATED

from raymdm.tracking.mlflow_refused import is_final


def answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} of the server", response=response)


def of_bucket(status: int) -> ClientError:
    return ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


def wrapped(error: Exception) -> Exception:
    """As boto3 hides what S3 says in an exception of its own."""
    try:
        try:
            raise error
        except ClientError as inner:
            raise RuntimeError(f"failed to upload: {inner}")  # noqa: B904
    except RuntimeError as outer:
        return outer


def system(code: int) -> OSError:
    return OSError(code, os.strerror(code))


FINAL = [
    system(errno.EACCES), system(errno.EROFS), system(errno.ENOTDIR), ImportError("No module named 'boto3'"),
    MlflowException("no", error_code=PERMISSION_DENIED), MlflowException("no", error_code=UNAUTHENTICATED),
    answered(401), answered(403), of_bucket(403), wrapped(of_bucket(403)),
]  # fmt: skip
OUTAGE = [
    system(errno.ECONNREFUSED), system(errno.EHOSTUNREACH), TimeoutError(), ConnectionResetError(),
    socket.gaierror(-3, "temporary failure in name resolution"), MlflowException("no", error_code=INTERNAL_ERROR),
    answered(503), requests.ConnectionError(), requests.Timeout(), of_bucket(503), wrapped(of_bucket(503)),
    EndpointConnectionError(endpoint_url="http://s3"), ValueError("of a proxy's answer"),
]  # fmt: skip


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_what_no_later_try_will_mend(error):
    assert is_final(error)


@pytest.mark.parametrize("error", OUTAGE, ids=repr)
def test_an_outage(error):
    assert not is_final(error)


def test_files_that_are_refused_are_told_once_and_tried_once(store, track, sweep, monkeypatch, caplog, tmp_path):
    calls = []

    def refuse(*arguments):
        calls.append(arguments)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store.client, "log_artifact", refuse)
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        file.write_text("{}")
    tracker = track(store, sweep)
    tracker.start("mirror-s1", {}, {})
    tracker.artifacts("mirror-s1", files)
    tracker.finish("mirror-s1", "finished")
    tracker.close("finished")
    assert len(calls) == 2
    assert [message for message in caplog.messages if "is not logged to MLflow" in message] == [
        f"artifact {files[0]} is not logged to MLflow, and others may not be either: [Errno 13] Permission denied"
    ]
    assert tracker.lacking() == (0, 2, 0)


@pytest.mark.parametrize(("status", "seconds"), [("finished", 60.0), ("interrupted", 20.0), ("failed", 20.0)])
def test_a_sweep_that_is_interrupted_does_not_wait_long(store, track, sweep, monkeypatch, status, seconds):
    tracker, waited = track(store, sweep, patience=60.0), []
    monkeypatch.setattr(tracker, "flush", waited.append)
    tracker.close(status)
    assert waited == [seconds]
