"""Getting at the files of a store: a writer leaves them read-only, and tests damage them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from featstore.identity import sealed
from featstore.store.files import json_bytes


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
