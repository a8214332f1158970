"""One set while it is being made: what its writer has, what can be copied, what is encoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featstore.encoders.golden import golden_cosine
from featstore.extraction.batches import BatchRunner
from featstore.extraction.events import BlockDone, ExtractResult
from featstore.extraction.golden_check import Golden
from featstore.extraction.known_rows import KnownRows
from featstore.extraction.pipeline import BlockOutput
from featstore.extraction.provenance import run_facts
from featstore.extraction.targets import Target
from featstore.store.writer import SetWriter


@dataclass
class SetInProgress:
    """The writer of one set, and the rows that it takes from elsewhere."""

    target: Target
    writer: SetWriter
    runner: BatchRunner
    golden: Golden
    settings: dict[str, Any]
    known: KnownRows | None = None
    pending: frozenset[int] = frozenset()
    new: int = 0
    copied: int = 0
    truncated: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Note what is pending; the writer must be open."""
        self.pending = frozenset(self.writer.pending())

    def needed(self, block: int) -> np.ndarray:
        """Return a boolean for each row of a block: whether it is to be encoded."""
        rows = self.writer.layout.block_slice(block)
        if block not in self.pending:
            return np.zeros(rows.stop - rows.start, dtype=bool)
        needed: np.ndarray = ~self.writer.kept(block) & ~self._copies(block)
        return needed

    def rows_before(self) -> int:
        """Return how many rows were done when this began."""
        layout = self.writer.layout
        lacking = sum(
            layout.block_slice(block).stop - layout.block_slice(block).start
            for block in self.pending
        )
        return int(layout.n - lacking)

    def new_failures_before(self) -> dict[str, str]:
        """Return what failed in an interrupted attempt, without what an earlier revision has."""
        base = self.writer.base
        old = {} if base is None else base.failures
        return {item: why for item, why in self.writer.failures.items() if item not in old}

    def write(self, output: BlockOutput, number: int) -> int:
        """Write a block that is pending; return how many rows came without encoding.

        Parameters
        ----------
        output : BlockOutput
        number : int
            Of this set's encoder among those of the output.
        """
        block = output.number
        where = self.writer.layout.block_slice(block)
        rows = output.rows[number]
        copies, needed = self._copies(block), self.needed(block)
        if self.known is not None and copies.any():
            rows[copies] = self.known.read(where.start + np.flatnonzero(copies))
        ids = self.target.items["item_id"][where.start : where.stop].to_list()
        lost = {
            item: output.failures[item]
            for item, needs in zip(ids, needed.tolist(), strict=True)
            if needs and item in output.failures
        }
        self.writer.write_block(block, rows, lost)
        self.new += int(needed.sum()) - len(lost)
        self.copied += int(copies.sum())
        self.truncated += output.truncated[number]
        return int((~needed).sum())

    def block_done(self, block: int) -> BlockDone:
        """Return the event of a block that was written."""
        rows = self.writer.layout.block_slice(block)
        return BlockDone(
            str(self.writer.key), rows.stop, self.writer.layout.n, len(self.writer.failures)
        )

    def finish(self, run: dict[str, Any]) -> ExtractResult:
        """Publish the set."""
        failures = self.writer.failures
        n = self.writer.layout.n
        facts = run_facts(self.target.encoder.facts, device=self.target.options.device)
        # Of the run: another device or library gives another cosine for the same set.
        cosine = golden_cosine(self.target.encoder)
        if cosine is not None:
            facts["golden_cosine_to_float32"] = cosine.as_dict()
        revision = self.writer.finish(
            golden=self.golden.document(),
            run={
                **facts,
                **self.settings,
                **run,
                "encoded": self.new,
                "copied": self.copied,
                "truncated": len(self.truncated),
            },
        )
        return ExtractResult(
            key=str(self.writer.key),
            reused=n - self.new - len(failures),
            new=self.new,
            failed=len(failures),
            revision_id=revision,
            failures=failures,
            truncated=len(self.truncated),
            copied=self.copied,
            truncated_items=self.truncated,
        )

    def end_part(self) -> ExtractResult:
        """Make what was written durable, and say what is left; nothing is published."""
        self.writer.sync()
        failures = self.writer.failures
        return ExtractResult(
            key=str(self.writer.key),
            reused=self.writer.layout.n - self.new - len(failures),
            new=self.new,
            failed=len(failures),
            revision_id="",
            failures=failures,
            truncated=len(self.truncated),
            copied=self.copied,
            truncated_items=self.truncated,
            blocks_left=len(self.writer.left()),
        )

    def _copies(self, block: int) -> np.ndarray:
        rows = self.writer.layout.block_slice(block)
        if self.known is None:
            return np.zeros(rows.stop - rows.start, dtype=bool)
        copies: np.ndarray = self.known.has(rows) & ~self.writer.kept(block)
        return copies
