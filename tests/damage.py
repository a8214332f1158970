"""Files of a store: a writer leaves them read-only, and tests damage and compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from featstore.durable import json_bytes
from featstore.identity import sealed
from featstore.store import SetKey, read_log
from featstore.store.lock import claim_set
from featstore.store.records import staging_of


def unseal(root: Path) -> None:
    """Let the owner write to every file below `root`."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)


def relog(root: Path, **changes: Any) -> dict[str, Any]:
    """Change fields of a store's log, under a digest that fits; return what it said."""
    before: dict[str, Any] = json.loads((root / "log.json").read_text())
    (root / "log.json").unlink()
    (root / "log.json").write_bytes(json_bytes(sealed({**before, **changes})))
    return before


def flip(path: Path, position: int = 0, mask: int = 0x40) -> None:
    """Flip a bit of a file, or those of a mask."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.chmod(0o644)
    path.write_bytes(data)


def leave_staged(root: Path) -> None:
    """Leave beside the sets of a store what writers that were killed behind the log leave."""
    for key in map(SetKey.parse, read_log(root).sets):
        assert key is not None
        directory = key.directory(root)
        if not staging_of(directory).exists():
            with claim_set(directory, key) as claim:
                (claim.folder / "zarr.json.0a1b2c3d.staged").write_bytes(b"half")


def tree(root: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def lasting(root: Path) -> dict[str, bytes]:
    """Return the files of a store but the records of runs, which are about time and place."""
    return {name: data for name, data in tree(root).items() if "/runs/" not in name}
