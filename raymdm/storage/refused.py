"""What an operating system or object store refuses, told in one message."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from raymdm.errors import UserError


class StorageError(UserError):
    """Storage is full, away or not permitted: what was written before stays, and the same command can go on later."""


@contextmanager
def told(doing: str, place: str) -> Iterator[None]:
    """Turn what an operating system or object store refuses into one message; what is missing stays for the caller."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and doing == "read":
            raise
        reason = os.strerror(error.errno) if error.errno else _ENDING.split(str(error))[0].rstrip(". ")
        raise StorageError(
            f"cannot {doing} {place}: {reason}. Everything written before is intact: {_remedy(error, place)}, "
            "then go on with --resume"
        ) from error


def refusal(error: BaseException | None) -> OSError | None:
    """The operating system's part in an error: torch hides it behind its own, safetensors and shutil in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error
        if match := _OS_ERROR.search(str(error)):
            return OSError(int(match[1]), os.strerror(int(match[1])))
        error = error.__context__
    return None


def _remedy(error: OSError, place: str) -> str:
    if error.errno:
        elsewhere = ", or name another place by RAYMDM_CACHE" if "/raymdm-cache-" in place else ""
        return _LOCAL.get(error.errno, "mend the permission or the disk") + elsewhere
    for words, remedy in _REMOTE:
        if re.search(words, str(error), re.IGNORECASE):
            return remedy
    return "bring the storage back, or check the network, the address and its options"


_OS_ERROR = re.compile(r"(?:\(os error |\[Errno )(\d+)[)\]]")

_ENDING = re.compile(r" \(Request ID| error_info=")
"""Where an object store's reason ends and its numbers begin."""

_LOCAL = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there or have the quota raised",
    errno.ENOTDIR: "move away the file that lies where a folder is needed",
    errno.EEXIST: "move away the file that lies where a folder is needed",
    errno.EISDIR: "move away the folder that lies where a file is needed",
}

_REMOTE = (
    ("NO_SUCH_BUCKET|bucket .* not found", "create the bucket or mend the address"),
    (
        "ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT|SIGNATURE|EXPIRED|OAuth|PERMISSION_DENIED|UNAUTHENTICATED|"
        "HTTP status 40[13]",
        "check the credentials in the environment, or the role, and what they may do",
    ),
    ("STORAGE_?FULL|QUOTA|HTTP status 507", "make room there or have the quota raised"),
    ("is a directory|not a regular file", "name a file, not a folder"),
)
