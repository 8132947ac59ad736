"""One process a sweep: a lock on its folder and, where runs work on other storage, a mark there."""

import fcntl
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN
from pathlib import Path

from filelock import FileLock, Timeout

from raymdm.errors import UserError
from raymdm.orchestrate.folder import SweepFolder
from raymdm.storage import Storage, StorageError

_log = logging.getLogger(__name__)

OWNER = "owner.json"
BEAT_S = 10.0
"""Seconds between two signs of life on the storage."""


@contextmanager
def owned(folder: SweepFolder) -> Iterator[None]:
    """Hold the sweep. Raises UserError while another process runs it, on this machine or on another one.

    A lock that a process held goes with it. Storage without locks gets a mark that its owner renews: a mark that stands
    still for more than two beats was left by a process that died.
    """
    busy = f"{folder.path} is being run by another process: wait for it, or stop it first"
    with locked(folder.path / ".lock", 1, busy):  # a look at it holds it for a moment
        if folder.mirror is None:
            yield
            return
        _refuse_living_owner(folder.mirror, folder.path)
        mark: dict[str, str | int] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "folder": str(folder.path),
            "token": uuid.uuid4().hex,
        }
        _write(folder.mirror, mark, 0)
        ended = threading.Event()
        beating = threading.Thread(target=_beat, args=(folder.mirror, mark, ended), daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()


def held(folder: Path) -> bool | None:
    """Whether a living process holds the sweep's lock; None where the file system cannot tell.

    The look makes no file, and holds a shared lock for some microseconds, in which nobody else can take the sweep's.
    """
    try:
        lock = os.open(folder / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return True if error.errno in (EAGAIN, EACCES) else None
    finally:
        os.close(lock)


@contextmanager
def locked(path: Path, patience: float, busy: str) -> Iterator[None]:
    """Hold the lock that is this file, whose folder is made; raises UserError after `patience` seconds (`busy` says
    why) and where there are no locks."""
    lock = FileLock(path, timeout=patience)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(busy) from None
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot lock the sweep ({error.strerror}): only who may write there can run it, on a file "
            "system that has locks"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _refuse_living_owner(storage: Storage, folder: Path) -> None:
    before = _mark(storage)
    if before is None or (before["host"] == socket.gethostname() and before["folder"] == str(folder)):
        return  # the lock of this machine has told already
    time.sleep(2.5 * BEAT_S)
    now = _mark(storage)
    if now is not None and now != before:
        raise UserError(
            f"{storage.uri} is being run by process {now['pid']} on {now['host']}: wait for it, or stop it first"
        )


def _mark(storage: Storage) -> dict[str, str | int] | None:
    try:
        found: dict[str, str | int] = json.loads(storage.read(OWNER))
    except FileNotFoundError:
        return None
    return found


def _write(storage: Storage, mark: dict[str, str | int], beat: int) -> None:
    storage.write(OWNER, json.dumps(mark | {"beat": beat}).encode())


def _beat(storage: Storage, mark: dict[str, str | int], ended: threading.Event) -> None:
    """Renew the mark until the sweep has ended, then take it away; interrupt the sweep when another has taken it.

    Storage cannot look and write in one step: a mark that another process writes in between is written over. That
    process finds so at its next beat and stops instead of this one: of two, one goes on, a beat later at most.
    """
    beat = 1
    while not ended.wait(BEAT_S):
        with suppress(StorageError):  # the sweep's own writes will tell
            if _taken(storage, mark):
                _log.error("%s was taken over by another process: this one stops", storage.uri)
                os.kill(os.getpid(), signal.SIGTERM)  # Ctrl-C, even where that is ignored
                return
            _write(storage, mark, beat)
        beat += 1
    with suppress(StorageError):  # it stands still from now on, which says the same
        if not _taken(storage, mark):
            storage.delete(OWNER)


def _taken(storage: Storage, mark: dict[str, str | int]) -> bool:
    now = _mark(storage)
    return now is not None and now["token"] != mark["token"]
