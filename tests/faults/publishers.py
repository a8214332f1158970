"""A publisher that extends sets of a bucket again and again, and writes down what it saw.

It may be killed at any time: started again, it repeats the command that it was killed in.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

with contextlib.suppress(ImportError):  # fork servers import once what their children need
    import obstore.store  # noqa: F401

from featstore import copy_sets, open_store
from featstore.errors import AddressError, FeatstoreError, UnknownSetError
from featstore.store import LayoutLimits, SetSpec, SetWriter
from featstore.testing import item_table

#: Numbers of a row: one row a block, two blocks a shard.
DIM = 4096
LIMITS = LayoutLimits(block_rows=1, plain_bytes=0, shard_bytes=2 * DIM * 4)


def row_of(item: str) -> np.ndarray:
    """Return the row of an item, (DIM,) float32: its id says all of it."""
    return np.full(DIM, float(int(item.rpartition("/")[2])), np.float32)


#: Operations after which a publisher gives up, for each commit that it should make.
MOST = 400


def publish(
    root: Path, *, address: str, name: str, number: int, datasets: int, commits: int
) -> int:
    """Make `commits` commits as the publisher `name`, the `number`-th; return how many were made.

    The journal ``root/<name>.jsonl`` has a line for each operation that began, and one for how it
    ended; ``root/<name>.pid`` is this process.
    """
    (root / f"{name}.pid").write_text(str(os.getpid()))
    journal = Journal(root / f"{name}.jsonl")
    while journal.done < commits and len(journal.lines) < MOST * commits:
        chosen = random.Random(f"{name} {len(journal.lines)}")  # the same after a kill
        dataset = f"d{chosen.randrange(datasets)}"
        own = root / name / dataset
        if not journal.pending:
            base = _pull(address, own, dataset, journal)
            new = _extend(own, dataset, f"{dataset}/{(1 + number * 100_000 + len(journal.lines))}")
            journal.begin(kind="push", set=dataset, base=base, value=new)
        else:
            own = root / name / str(journal.pending["set"])
        try:
            report = copy_sets(own, address)
            (how,) = report.sets.values() if not report.failed else ("refused",)
        except FeatstoreError:
            if journal.count_error() > MOST:
                raise
            continue  # such as a catalog that is always newer: the same command again
        journal.end(ok=how != "refused")
        if how == "refused":
            shutil.rmtree(own)  # what is ours does not follow from theirs: theirs is extended
    return journal.done


def extract_into(root: Path, *, address: str, name: str, manifest: str, nap: float = 0.0) -> Any:
    """Extract a manifest into a bucket as the machine `name`; ``root/<name>.pid`` is this process.

    It is slow by `nap` seconds a batch, as a large model is.
    """
    from tests.faults import scenarios

    (root / f"{name}.pid").write_text(str(os.getpid()))
    encode = scenarios.MeanColour.encode

    def slowly(self: scenarios.MeanColour, images: list[Any]) -> np.ndarray:
        time.sleep(nap)
        return encode(self, images)

    scenarios.MeanColour.encode = slowly  # type: ignore[method-assign]
    place: Any = address
    return scenarios.extract(place, manifest=manifest, thumbnails=True, staging=root / name)


class Journal:
    """What a publisher did, in a file that outlives it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._errors = 0
        text = path.read_text() if path.exists() else ""
        self.lines: list[dict[str, Any]] = [
            json.loads(line) for line in text.splitlines() if line.endswith("}")
        ]
        # A line that a kill tore is as if it had never been.
        path.write_text("".join(f"{json.dumps(line)}\n" for line in self.lines))

    @property
    def pending(self) -> dict[str, Any]:
        """The push that has begun and not ended."""
        last = self.lines[-1] if self.lines else {}
        return last if last.get("kind") == "push" and "end" not in last else {}

    @property
    def done(self) -> int:
        """Commits that were acknowledged."""
        return sum("end" in line and line["ok"] for line in self.lines if line["kind"] == "push")

    def count_error(self) -> int:
        """Count an error that the same command may mend, and return how many there were."""
        self._errors += 1
        return self._errors

    def begin(self, **facts: Any) -> None:
        """Write down that an operation begins."""
        self._add({"start": time.monotonic_ns(), **facts})

    def end(self, **facts: Any) -> None:
        """Write down how the operation that began last has ended."""
        self._add({**self.lines[-1], "end": time.monotonic_ns(), **facts})

    def _add(self, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)


def _pull(address: str, own: Path, dataset: str, journal: Journal) -> str:
    """Bring a publisher's own store up to date; return the revision, empty if there is none."""
    journal.begin(kind="read", set=dataset)
    while True:
        try:
            report = copy_sets(address, own, select=[f"{dataset}/*"])
        except (AddressError, UnknownSetError):  # nobody has made the store or the set
            revision = ""
            break
        except FeatstoreError:
            continue
        if not report.failed:
            (info,) = open_store(own).sets()
            revision = info.commit.revision_id
            break
        shutil.rmtree(own)
    journal.end(value=revision, ok=True)
    return revision


def _extend(own: Path, dataset: str, item: str) -> str:
    """Append an item to a publisher's own set; return its new revision."""
    items = []
    with contextlib.suppress(AddressError, UnknownSetError):
        (info,) = open_store(own).sets()
        items = open_store(own).item_table(info)["item_id"].to_list()
    names = [*items, item]
    table = item_table([{"item_id": one, "kind": "image"} for one in names])
    spec = SetSpec(dataset, "image", "test:toy", {"name": "toy"}, "float32")
    with SetWriter(own, spec, table, DIM, limits=LIMITS) as writer:
        for block in writer.pending():
            where = writer.layout.block_slice(block)
            writer.write_block(block, np.stack([row_of(one) for one in names[where]]))
        return writer.finish()
