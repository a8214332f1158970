"""Pin what this version does: write the JSON files of this folder.

    make goldens          or    python -m tests.goldens.write [NAME ...]

Run it after a change that is meant to change bytes, values or choices, and look at the diff: what
it shows is what the change does. Saved alignments are never written again, only those of new
methods are added: what users have saved must stay readable.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.goldens import files
from tests.goldens.chosen_settings import chosen_settings
from tests.goldens.claims import claims
from tests.goldens.manifests import manifests
from tests.goldens.plans import plans
from tests.goldens.result_values import result_values
from tests.goldens.saved_aligners import save_all, saved
from tests.goldens.sentences import sentences
from tests.goldens.store_bytes import store_bytes


def _chosen(folder: Path) -> dict[str, Any]:
    skipped: list[str] = []
    found = chosen_settings(folder, skipped)
    print(f"without a clear winner, not pinned: {'; '.join(skipped) or 'none'}")
    return found


def _aligners(_: Path) -> dict[str, Any]:
    print(f"alignments that were added: {', '.join(save_all()) or 'none'}")
    return saved()


MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "store_bytes": store_bytes,
    "plans": plans,
    "manifests": manifests,
    "chosen_settings": _chosen,
    "result_values": result_values,
    "claims": claims,
    "sentences": sentences,
    "saved_aligners": _aligners,
}


def main(names: list[str]) -> None:
    """Write these files, or all."""
    unknown = set(names) - set(MAKERS)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MAKERS)}")
    for name in names or MAKERS:
        with tempfile.TemporaryDirectory() as folder:
            files.write(name, MAKERS[name](Path(folder) / "pinned"))
        print(f"wrote {name}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
