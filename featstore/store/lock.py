"""One writer a set: a lock that the kernel releases when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from featstore.errors import StoreWriteError
from featstore.store.layout import SetKey


def lock_set(path: Path, *, key: SetKey) -> IO[str]:
    """Take the set's lock and return its handle; closing it releases the lock.

    Raises
    ------
    StoreWriteError
        If another process holds it; the message names the process.
    """
    handle = path.open("a+", encoding="utf-8")
    with contextlib.suppress(ImportError):  # Windows: a single writer is the user's affair
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            handle.close()
            msg = (
                f"{key} is being written by {holder}. Wait for it to end; the same command then "
                "reuses its rows."
            )
            raise StoreWriteError(msg) from err
        if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
            handle.close()
            msg = f"{key} was finished or removed by another process just now. Run it again."
            raise StoreWriteError(msg)
    handle.seek(0)
    handle.truncate()
    handle.write(f"process {os.getpid()}\n")
    handle.flush()
    return handle
