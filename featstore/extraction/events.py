"""What a job tells its caller: a block is done, a set is finished."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class BlockDone:
    """A block is safely on disk; rows are counted over the whole set."""

    key: str
    rows_done: int
    rows_total: int
    failed: int


@dataclass(frozen=True)
class ExtractResult:
    """What became of one set.

    Attributes
    ----------
    key : str
        ``dataset/kind/encoder`` with the full directory name.
    reused, new : int
        Rows that were there already, in this set or in another of the same space, and rows
        that this call encoded.
    failed : int
        Items of the set without an embedding, whenever they failed.
    failures : dict
        item_id -> reason, for the items that failed.
    truncated : int
        Texts longer than the encoder's context, cut by its tokenizer in this call.
    copied : int
        Of the reused rows, those copied from another set, where an item has the same content.
    truncated_items : list of str
        item_ids of the truncated texts.
    blocks_left : int
        Of a part (``--rank``) only: blocks of the set that no process has done yet. The set is
        published when there are none, and has no revision before.
    """

    key: str
    reused: int
    new: int
    failed: int
    revision_id: str
    failures: dict[str, str] = field(default_factory=dict)
    truncated: int = 0
    copied: int = 0
    truncated_items: list[str] = field(default_factory=list)
    blocks_left: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return what ``featstore extract --json`` prints."""
        return asdict(self)
