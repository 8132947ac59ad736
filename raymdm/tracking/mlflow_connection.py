"""Reaching an MLflow store before training starts: SQLite is made ready, a server is waited for, a little.

MLflow is imported when it is used, so that nothing else waits for it.
"""

import logging
import os
import re
import shlex
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from filelock import FileLock
from filelock import Timeout as LockTimeout

from raymdm.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

logger = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_UNAVAILABLE = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""MLflow's codes for a server that is down or starting; its code for "no connection" is INTERNAL_ERROR."""


_SECRET = re.compile(r"(?i)([?&;][^=&;]*(?:pass|pwd|secret|token|odbc_connect)[^=&;]*=)([^&]*)")
"""A value after an address's question mark that is nobody's business."""
_TELLING = 4
"""Letters of a secret that is looked for in any text; a shorter one is struck out in the address alone."""

_settings_lock = threading.Lock()
_settings: list[set[str]] = []
"""Names of environment variables that were set, by each that asked for them and is not done yet."""


class Connection(NamedTuple):
    """A store, and the experiment in it."""

    client: "MlflowClient"
    experiment_id: str | None
    """None for a server that has not answered yet."""
    uri: str
    experiment: str = ""
    """The experiment's name, by which it is found or made when the server answers."""


def sqlite_uri(path: Path) -> str:
    """The tracking URI of a SQLite file, absolute."""
    return _SQLITE + str(path.absolute()).replace("%", "%25").replace("?", "%3F")


def mlflow_command(uri: str) -> str:
    """The command that shows what was logged to `uri`; for a server, its address without a password."""
    if uri.startswith(("http://", "https://")):
        return f"open {without_password(uri, uri)} in a browser"
    store = shlex.quote(without_password(_absolute(uri), uri))
    return f"mlflow ui --backend-store-uri {store} --host 127.0.0.1 --port 5000"


def connect(
    uri: str, experiment: str, artifact_root: Path, patience: float = 12.0, required: bool = True
) -> Connection:
    """Open a store and find or make the experiment.

    A SQLite file gets its folders and its schema here, once, because several processes that make it together break
    it, and the experiment gets `artifact_root` for its files, because MLflow's default depends on the working
    directory. A server keeps its own artifact root and is tried again for `patience` seconds; one that does not answer
    by then costs a warning where it is not `required`, and its experiment is looked up later.

    Raises:
        UserError: the store cannot be reached or used, or the experiment was deleted.
    """
    from mlflow import MlflowClient

    uri = _absolute(uri)
    is_server = uri.startswith(("http://", "https://"))
    if uri.startswith(_SQLITE):
        _check_sqlite(uri)
    deadline = time.monotonic() + (patience if is_server else 0)
    wait = 0.5
    while True:
        try:
            # a server that has just started answers late: one request may take all that is left
            left = max(5, round(deadline - time.monotonic()))
            with client_settings(timeout=left), _quiet_start(), _one_at_a_time(uri):
                client = MlflowClient(tracking_uri=uri)
                found = find_experiment(client, experiment, uri, None if is_server else artifact_root)
                return Connection(client, found, uri, experiment)
        except UserError:
            raise
        except Exception as error:  # whatever a store, a driver or a proxy raises: the person is told, nothing runs on
            if not _is_temporary(error):
                raise UserError(_unreachable(uri, error)) from error
            if time.monotonic() + wait > deadline:
                if not is_server or required:
                    raise UserError(_unreachable(uri, error)) from error
                logger.warning(
                    "MLflow at %s does not answer; the sweep goes on without, and MLflow is told when it does: %s",
                    *(without_password(uri, uri), reason(error, uri)),
                )
                return Connection(client, None, uri, experiment)
        time.sleep(wait)
        wait = min(2 * wait, 2.0)


def find_experiment(client: "MlflowClient", name: str, uri: str, artifact_root: Path | None = None) -> str:
    """The id of the experiment, which is made if there is none. Raises UserError for a deleted one."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = artifact_root.absolute().as_uri() if artifact_root else None
        try:
            made: str = client.create_experiment(name, artifact_location=location)
            return made
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # another sweep made it in between
    return _usable(found, name, uri)


@contextmanager
def client_settings(timeout: int = 10) -> Iterator[None]:
    """For the calls inside: MLflow gives up soon, prints no links and no progress, and sends no usage data.

    `timeout` in seconds for a request. What the environment already sets is left alone.
    """
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the caller tries again; MLflow's own 7 retries take minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    _apply(settings)
    try:
        yield
    finally:
        _take_back()


def without_password(text: str, uri: str) -> str:
    """`text` with the user, the passwords and the tokens of `uri`, if it has any, struck out.

    A database's address may hold a password with `/`, `#`, `?` or `@` in it, or name it after a question mark.
    """
    scheme, mark, rest = uri.partition("://")
    if not mark or uri.startswith((_SQLITE, "file:")):
        return text
    is_http = scheme in ("http", "https")
    authority = re.split("[/?#]", rest)[0]
    is_host = is_http and ("@" in authority or re.fullmatch(r"[^@:]*(:\d*)?|\[.*\](:\d*)?", authority))
    user, at, place = (authority if is_host else rest).rpartition("@")
    place += rest[len(authority) :] if is_host else ""
    shown = f"{scheme}://{'***@' if at else ''}" + _SECRET.sub(r"\1***", place)
    secrets = {user.partition(":")[2], *(match[2] for match in _SECRET.finditer(rest))}
    struck = [_struck(part, f"{user}@" if at else "", secrets) for part in text.split(uri)]
    return shown.join(struck)


def _struck(text: str, user: str, secrets: set[str]) -> str:
    """`text` without secrets of an address, as they stand there or percent-decoded."""
    if user:
        text = text.replace(user, "***@")
    known = secrets | {unquote(secret) for secret in secrets}
    known |= {part for secret in known for part in secret.split("@")}  # a driver may take a part of it for the host
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _TELLING:
            text = text.replace(secret, "***")
    return text


def reason(error: Exception, uri: str) -> str:
    """The first line of what MLflow says, cut, without a password."""
    lines = without_password(str(error).strip(), uri).splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:300]}..."


def _apply(settings: dict[str, str]) -> None:
    """Set what the environment lacks; several may ask for it at a time, in several threads."""
    with _settings_lock:
        added = {name: value for name, value in settings.items() if name not in os.environ}
        os.environ.update(added)
        _settings.append(set(added))


def _take_back() -> None:
    """Undo `_apply`, when the last that asked for it is done."""
    with _settings_lock:
        names = _settings.pop()
        if _settings:
            _settings[0] |= names
            return
        for name in names:
            os.environ.pop(name, None)


def _usable(found: "Experiment", name: str, uri: str) -> str:
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment: {name!r} was deleted in {without_password(uri, uri)}; choose another name, or "
            f"restore it: MLFLOW_TRACKING_URI={without_password(uri, uri)} mlflow experiments restore "
            f"--experiment-id {found.experiment_id}"
        )
    return found.experiment_id


def _is_temporary(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code in _UNAVAILABLE


def _unreachable(uri: str, error: Exception) -> str:
    return (
        f"tracking.uri: cannot use the MLflow store {without_password(uri, uri)}; start the server or correct the URI, "
        f"or set tracking.uri=null for a local SQLite file, or tracking.mlflow=false. MLflow says: {reason(error, uri)}"
    )


def _absolute(uri: str) -> str:
    """A SQLite URI with an absolute path, so that it means the same in every working directory."""
    return f"{_SQLITE}{Path.cwd() / uri.removeprefix(_SQLITE)}" if uri.startswith(_SQLITE) else uri


def _sqlite_path(uri: str) -> Path:
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0]))


def _check_sqlite(uri: str) -> None:
    """Make the folders, and see that the file can be written: MLflow itself would try for an hour."""
    path = _sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version")
            database.execute("BEGIN IMMEDIATE")
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"tracking.uri: {path} cannot be used as a SQLite file: {error}. Name a file in a folder that you may "
            "write to; or set tracking.mlflow=false"
        ) from error


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Keeps two sweeps from making one SQLite schema together."""
    if not uri.startswith(_SQLITE):
        yield
        return
    lock = f"{_sqlite_path(uri)}.lock"
    try:
        with FileLock(lock, timeout=120):
            yield
    except LockTimeout as error:
        raise UserError(f"{lock}: another process holds it for 2 minutes; end that one, or remove the file") from error


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Without the progress messages and the one deprecation that making a schema shows."""
    with quiet_database(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
        yield


@contextmanager
def quiet_database() -> Iterator[None]:
    """Without the traceback that MLflow logs for a database that is locked, full or away: what it raises is told."""
    log = logging.getLogger("mlflow.store.db.utils")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
