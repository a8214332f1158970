"""What a store must be after a fault: whole, readable, and in the end the same bytes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from featstore import open_store
from featstore.store import verify_store
from tests.faults import scenarios, steps

#: Runs say when and where.
_EXEMPT = re.compile(r"(^|/)runs(/|$)")

#: Names that were never finished: a run that ends well leaves none, whatever was killed before.
_LITTER = re.compile(r"(^|/)(\.[^/]+\.staged|\.staging)(/|$)")


def tree(root: Path) -> dict[str, bytes | None]:
    """Return every file's bytes, and None for every folder, but for runs and litter."""
    found: dict[str, bytes | None] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not _EXEMPT.search(name) and not _LITTER.search(name):
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def litter(root: Path) -> list[str]:
    """Return the unfinished names of a store."""
    names = [path.relative_to(root).as_posix() for path in root.rglob("*")]
    return [name for name in names if _LITTER.search(name)]


def check_readable(root: Path, where: str) -> None:
    """Assert that a store is without damage, and that what is published reads right."""
    if not (root / "log.json").exists():
        return
    report = verify_store(root)
    assert report.problems == [], f"{where}: {report.problems}"
    for mode in ("map", "pread"):
        store = open_store(root, mode=mode, verify="first-touch")  # type: ignore[arg-type]
        for info in store.sets():
            n, kind = info.commit.n, info.key.kind
            view = store.view(str(info.key))
            good = [i for i in range(n) if kind == "head_weight" or i not in scenarios.FAILED]
            expected = steps.rows_of(kind, n)[good]
            assert view.numpy(np.float32).tobytes() == expected.tobytes(), where
            assert view.n_failed == n - len(good)
