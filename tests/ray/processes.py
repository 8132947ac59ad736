"""Processes and ports of this machine, as tests look at them from outside."""

import fcntl
import os
import random
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PORTS = range(30000, 32768)
"""No worker of Ray's listens there (10002 to 19999), nor does a system choose them for whoever asks for any port."""
_LOCKS: list[int] = []
"""Files that stay locked as long as this process lives."""


def free_port() -> int:
    """A port that nothing listens on and that no other test on this machine gets as long as this process lives."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in _PORTS if not low <= port <= high] or list(_PORTS)
    locks = Path(tempfile.gettempdir(), f"raymdm-test-ports-{os.getuid()}")
    locks.mkdir(exist_ok=True)
    for port in random.SystemRandom().sample(ports, len(ports)):
        lock = os.open(locks / str(port), os.O_CREAT | os.O_RDWR, 0o600)
        with socket.socket() as probe:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                probe.bind(("127.0.0.1", port))
            except OSError:
                os.close(lock)
                continue
        _LOCKS.append(lock)
        return port
    raise AssertionError(f"none of {len(ports)} ports is free")


def listens(port: int) -> bool:
    """Whether somebody on this machine takes connections to a port, at whichever of its addresses."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    fields = [line.split() for table in tables for line in table]
    return any(state == "0A" and int(local.rpartition(":")[2], 16) == port for _, local, _, state, *_ in fields)


def names(folder: str | Path) -> list[str]:
    """What lies in a folder; nothing when it has gone, as processes and runs' folders do at any moment."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def descendants(pid: int) -> Iterator[int]:
    """All processes below one, by /proc."""
    children: dict[int, list[int]] = {}
    for name in names("/proc"):
        if name.isdigit():
            try:
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it has gone
            children.setdefault(parent, []).append(int(name))
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            yield child


def gone(pids: list[int], seconds: float = 30) -> None:
    """Wait for processes that have lost their driver, as Ray's end by themselves; not for ever."""
    deadline = time.monotonic() + seconds
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def titled(pid: int, titles: tuple[str, ...]) -> list[int]:
    """Processes below `pid` whose title begins with one of `titles`."""
    found = []
    for child in descendants(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if title.startswith(titles):
            found.append(child)
    return found


def until(true: Callable[[], object], seconds: float = 400) -> None:
    """Wait until something holds; AssertionError when it never does."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.05)


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """kill -9, or another signal; False where the process has gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def slowed(pids: Callable[[], list[int]]) -> Iterator[None]:
    """Have processes run for a fifth of the time, so that what they do lasts longer than what a test does meanwhile."""
    over = threading.Event()

    def slow() -> None:
        while not over.is_set():
            found = pids()
            for pid in found:
                kill(pid, signal.SIGSTOP)
            over.wait(0.4)
            for pid in found:
                kill(pid, signal.SIGCONT)
            over.wait(0.1)

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
