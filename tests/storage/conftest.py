"""A real S3 server on this machine, small disks, and storage of both kinds."""

import itertools
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from processes import free_port
from werkzeug.serving import make_server

from raymdm.storage import Storage

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "the-key-id",
    "AWS_SECRET_ACCESS_KEY": "the-secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


class Quiet(MotoRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class S3Server:
    """moto's S3 behind a record of requests. What it stores outlives `stop` and `start`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.busy = 0
        """So many requests are answered by 503."""
        self.before: Callable[[str, str], object] = lambda method, path: None
        """Called with method and path before a request is answered."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._port, self._buckets = free_port(), itertools.count()  # nobody else gets it after `stop`
        self.start()

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=Quiet)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def address(self, place: str) -> str:
        return f"s3://{place}?endpoint_override=http://127.0.0.1:{self._port}&region=us-east-1"

    def bucket(self) -> str:
        """A new bucket's name."""
        name = f"bucket-{next(self._buckets)}"
        self.request("PUT", name)
        return name

    def request(self, method: str, place: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/{place}", method=method)
        urllib.request.urlopen(request).close()

    def counted(self, method: str) -> list[str]:
        """Paths of the requests of a method."""
        return [path for used, path in self.requests if used == method]

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].encode("latin-1").decode()
        self.requests.append((method, path))
        self.before(method, path)
        if self.busy:
            self.busy -= 1
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return self._app(environ, start_response)


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, and credentials for it in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    _s3_server.requests.clear()
    monkeypatch.setattr(_s3_server, "before", _s3_server.before)
    return _s3_server


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder with a blank and an accent in its path, on the disk and in a bucket."""
    if request.param == "folder":
        return Storage(str(tmp_path / "the stör"))
    server: S3Server = request.getfixturevalue("s3")
    return Storage(server.address(f"{server.bucket()}/the%20st%C3%B6r"))


@pytest.fixture
def small_disk(tmp_path: Path, mount_disk: Callable[[Path, str], AbstractContextManager[Path]]) -> Iterator[Path]:
    """A disk of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    with mount_disk(place, "1m"):
        yield place
