"""Two users of one group, for tests that may become someone else."""

from __future__ import annotations

import os


def become(uid: int, gid: int) -> None:
    """Give up this process's rights for those of another user; only the superuser can."""
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
