"""One sentence for a file system that refuses: what, why, and what to do."""

from __future__ import annotations

import errno

from featstore.errors import StoreWriteError

_REMEDIES = {
    errno.ENOSPC: "Free space",
    errno.EDQUOT: "Free space or have the quota raised",
    errno.EFBIG: "Raise the limit on the size of files (`ulimit -f`)",
    errno.EIO: "Look after the disk (`dmesg` says more)",
    errno.EROFS: "Mount it writable",
    errno.EACCES: "Get the permission (in a team: `featstore init STORE --shared`)",
    errno.EPERM: "Get the permission (in a team: `featstore init STORE --shared`)",
}


def write_error(what: object, err: OSError) -> StoreWriteError:
    """Return the error to raise when `what` could not be written."""
    remedy = _REMEDIES.get(err.errno or 0, "Free space or permission")
    return StoreWriteError(
        f"Cannot write {what}: {err.strerror or err}. {remedy}, then run the same command again; "
        "finished blocks are kept."
    )
