"""Copies of what lies in an object store, one a node."""

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from filelock import FileLock

from raymdm.storage.address import local_path, parsed, without_last_slash
from raymdm.storage.refused import StorageError, told
from raymdm.storage.store import Storage


def fetched(location: str) -> Path:
    """A local folder or file with the content of `location`: itself, or a copy that is made once a node.

    location: a path or file:// (not looked at), or the address of something that never changes once it is written.
    The copies lie in the folder `raymdm-cache-` with the user's number, below what the environment variable
    RAYMDM_CACHE names (the machine's temporary folder without it). Raises FileNotFoundError, StorageError.
    """
    path = local_path(location)
    if path is not None:
        return path
    location = without_last_slash(location)
    parts = parsed(location)
    home = _cache() / hashlib.sha256(location.encode()).hexdigest()[:16]
    place = home / (PurePosixPath(unquote(parts.path)).name or parts.netloc)
    if place.exists():
        return place
    with told("write", str(home)):
        home.mkdir(exist_ok=True)
        lock = FileLock(home / ".lock").acquire()
    with lock:
        if not place.exists():
            _fetch(location, home / ".partial" / place.name, place)
    return place


def _fetch(location: str, partial: Path, place: Path) -> None:
    shutil.rmtree(partial.parent, ignore_errors=True)  # of a process that was killed
    try:
        Storage(location).get("", partial)
        with told("write", str(place)):
            partial.rename(place)
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)


def _cache() -> Path:
    """The user's own folder for copies. Raises StorageError where it cannot be trusted: others could change a model."""
    above = Path(os.environ.get("RAYMDM_CACHE") or tempfile.gettempdir()).expanduser().absolute()
    folder = above / f"raymdm-cache-{os.getuid()}"
    with told("write", str(folder)):
        above.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StorageError(
            f"will not trust the cache {folder}: it must be a folder, yours and closed to others (mode 0700). "
            "Remove it, or name another place by the environment variable RAYMDM_CACHE"
        )
    return folder
