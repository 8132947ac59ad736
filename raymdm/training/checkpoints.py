"""Checkpoints of a run on storage: one folder a step, committed by its manifest, read only if every byte is right.

    step-00000050/model/  best/  optimizer.pt  state.json  manifest.json

`best/` is there from the first evaluation on. A run's process that lost its driver may go on for seconds beside the one
that replaces it: both write the same steps, so a sound checkpoint is left as it is, and one that is overtaken is not
missed. On an object store a folder without a manifest is a checkpoint that is not finished; on a disk, where a folder
appears whole, it is a broken one.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from raymdm.storage import Storage, refused

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"\.step-(\d{8,})-[0-9a-f]+\.(?:partial|broken)")

Fill = Callable[[Path], None]
"""Writes a checkpoint's files, all but the manifest, into an empty folder."""


@dataclass(frozen=True)
class Found:
    """The newest sound checkpoint."""

    step: int
    path: Path
    """A local folder: the checkpoint itself, or a copy of a remote one."""
    broken: list[str]
    """What is wrong with newer ones."""


def newest(storage: Storage, target: Path) -> Found | None:
    """The newest checkpoint that is whole, in place or copied to `target`; None where there is none.

    storage: a run's checkpoints; target: a local folder that is replaced when they are remote. Raises StorageError.
    """
    found, _ = search(storage, target)
    return found


def search(storage: Storage, target: Path) -> tuple[Found | None, dict[int, str]]:
    """As `newest`, and what is wrong with each newer checkpoint, also where none is sound: step -> file and fault."""
    broken: dict[int, str] = {}
    for step in reversed(steps(storage)):
        if _unfinished(storage, step):
            continue
        fault, path = opened(storage, step, target)
        if fault is None:
            return Found(step, path, list(broken.values())), broken
        broken[step] = f"{folder_name(step)}/{fault}"
    return None, broken


def steps(storage: Storage) -> list[int]:
    """Steps of which there is a folder, sound or not, ascending. Raises StorageError."""
    return sorted(int(match[1]) for name in storage.names() if (match := _NAME.fullmatch(name)))


def folder_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def opened(storage: Storage, step: int, target: Path) -> tuple[str | None, Path]:
    """What is wrong with a step's checkpoint, None if nothing, and where it can be read. Raises StorageError."""
    name = folder_name(step)
    if storage.local:
        with told("read", storage.path / name):
            return _fault(storage.path / name, step), storage.path / name
    shutil.rmtree(target, ignore_errors=True)
    try:
        _manifest(storage.read(f"{name}/{MANIFEST}"), step)  # spares a copy of what is not complete
        storage.get(name, target)
    except FileNotFoundError:
        return f"{MANIFEST} is missing", target
    except _Unfit as error:
        return f"{MANIFEST} {error}", target
    with told("read", target):
        return _fault(target, step), target


def write(storage: Storage, step: int, fill: Fill, scratch: Path) -> None:
    """Write a step's checkpoint so that it is there whole or not at all; a sound one is left as it is.

    scratch: a local folder for what goes to remote storage. Raises StorageError; what was written before is intact.
    """
    name = folder_name(step)
    if _committed(storage, step, scratch) == "sound":
        return
    with told("write", storage.path / name if storage.local else scratch):
        try:
            _write_local(storage, step, fill) if storage.local else _write_remote(storage, step, fill, scratch)
        except (OSError, RuntimeError, SafetensorError) as error:
            # a process that is further on takes our folder for a leftover, and ours is not missed
            if not (isinstance(refused.refusal(error), FileNotFoundError) and _overtaken(storage, step)):
                raise


def prune(storage: Storage, step: int, keep: int, broken: Set[int] = frozenset()) -> None:
    """Remove what the checkpoint of `step`, just written, makes superfluous; later ones are not its business.

    Of the checkpoints up to `step` the newest `keep` stay, the steps in `broken` and unfinished ones not counted; what
    interrupted writes left goes. Raises StorageError.
    """
    earlier = [other for other in steps(storage) if other <= step]
    kept = [other for other in earlier if other not in broken and not _unfinished(storage, other)][-keep:]
    for other in set(earlier) - set(kept):
        storage.delete(f"{folder_name(other)}/{MANIFEST}")  # first: the rest is no checkpoint without it
        storage.delete(folder_name(other))
    if not storage.local:
        return
    with told("list", storage.path):
        names = os.listdir(storage.path)
    for name in names:
        if (match := _LEFTOVER.fullmatch(name)) and int(match[1]) <= step:
            storage.delete(name)


@contextmanager
def told(doing: str, place: object) -> Iterator[None]:
    """Turn what the operating system refuses, however it is hidden, into a StorageError."""
    with refused.told(doing, str(place)):
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            refusal = refused.refusal(error)
            if refusal is None or refusal is error:
                raise
            raise refusal from error


def _unfinished(storage: Storage, step: int) -> bool:
    return not storage.local and not storage.exists(f"{folder_name(step)}/{MANIFEST}")


def _committed(storage: Storage, step: int, scratch: Path) -> Literal["sound", "broken", "no"]:
    """Whether a step's checkpoint has a manifest, and is what that says."""
    if not storage.exists(f"{folder_name(step)}/{MANIFEST}"):
        return "no"
    copy = scratch / "there"
    fault, _ = opened(storage, step, copy)
    shutil.rmtree(copy, ignore_errors=True)
    return "broken" if fault else "sound"


def _overtaken(storage: Storage, step: int) -> bool:
    return any(step <= other and storage.exists(f"{folder_name(other)}/{MANIFEST}") for other in steps(storage))


def _write_local(storage: Storage, step: int, fill: Fill) -> None:
    root, name = storage.path, folder_name(step)
    partial = root / f".{name}-{uuid.uuid4().hex}.partial"
    partial.mkdir(parents=True)
    try:
        fill(partial)
        (partial / MANIFEST).write_text(_described(partial, step))
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        _move(partial, root / name, step)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync(root)


def _move(partial: Path, target: Path, step: int) -> None:
    """Rename into place; what is there already stays if it is sound, for readers may have it open."""
    while True:
        try:
            partial.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if _fault(target, step) is None:
            shutil.rmtree(partial, ignore_errors=True)
            return
        aside = partial.with_suffix(".broken")
        with suppress(FileNotFoundError):
            target.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _write_remote(storage: Storage, step: int, fill: Fill, scratch: Path) -> None:
    """Put the files over what an unfinished upload left, and the manifest last."""
    name, folder = folder_name(step), scratch / "upload"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fill(folder)
    manifest = _described(folder, step)
    before = _committed(storage, step, scratch)  # again: another process may have finished meanwhile
    if before == "broken":
        storage.delete(f"{name}/{MANIFEST}")
    if before != "sound":
        storage.put(folder, name)
        storage.write(f"{name}/{MANIFEST}", manifest.encode())
    shutil.rmtree(folder)


def _described(folder: Path, step: int) -> str:
    """The manifest of a folder's files."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content = {"format": FORMAT, "step": step, "files": files}
    return json.dumps({**content, "sha256": _sha256_of(content)}, indent=1)


class _Unfit(ValueError):
    """A manifest that is not what was written, or of something else."""


def _manifest(text: bytes, step: int) -> dict[str, dict[str, Any]]:
    """The files that a manifest lists. Raises _Unfit saying what is wrong with it."""
    try:
        content = json.loads(text)
        own = content.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _Unfit("is not what was written") from None
    if own != _sha256_of(content):
        raise _Unfit("is not what was written: its checksum differs")
    if content["format"] != FORMAT or content["step"] != step:
        raise _Unfit(f"is of step {content['step']}, format {content['format']}: expected {step}, {FORMAT}")
    files: dict[str, dict[str, Any]] = content["files"]
    return files


def _fault(folder: Path, step: int) -> str | None:
    """The first file of a local checkpoint that is not as its manifest says, and how it differs."""
    name = MANIFEST
    try:
        for name, expected in _manifest((folder / MANIFEST).read_bytes(), step).items():
            size = (folder / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes, not the {expected['size']} written"
            if _sha256(folder / name) != expected["sha256"]:
                return f"{name} is not what was written: its checksum differs"
    except (FileNotFoundError, NotADirectoryError):
        return f"{name} is missing"
    except _Unfit as error:
        return f"{name} {error}"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"{name} cannot be read: {os.strerror(errno.EIO)}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
