"""What the command tells of an error that no stage told of: a disk, or Ray's object store, that takes nothing more."""

import errno

REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
"""What an operating system says when a disk is full, gone or not ours to write to."""


def told(error: Exception) -> str | None:
    """What the user reads; None for what is a fault of raymdm."""
    if refused := _refused(error):
        place = f"{refused.filename}: " if refused.filename else ""
        return (
            f"{place}{refused.strerror}. Everything written before is intact: make room there or mend the permission, "
            "then go on with --resume"
        )
    from raymdm.orchestrate.pool import no_room  # Ray comes with it

    full = no_room(error)
    return str(full) if full else None


def _refused(error: BaseException | None) -> OSError | None:
    """A full or refusing disk at the bottom of an error, which libraries and Ray may have wrapped."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in REFUSED:
            return error
        error = error.__cause__ or error.__context__
    return None
