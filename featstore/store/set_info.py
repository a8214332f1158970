"""What a finished set is: its key, commit and attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from featstore.store.commit import Commit
from featstore.store.layout import SetKey


@dataclass(frozen=True)
class SetInfo:
    """A finished set: its key, commit and attributes."""

    key: SetKey
    commit: Commit
    attributes: dict[str, Any] = field(repr=False)

    @property
    def encoder(self) -> str:
        """Name of the encoder as the user types it, ``family:name``."""
        return str(self.attributes["encoder"])

    @property
    def n_failed(self) -> int:
        """Number of items without an embedding."""
        return self.commit.n_failed

    def as_dict(self) -> dict[str, Any]:
        """Return what ``featstore ls --json`` prints."""
        return {
            "key": str(self.key),
            "encoder": self.encoder,
            "n": self.commit.n,
            "dim": self.commit.dim,
            "dtype": self.commit.dtype,
            "failed": self.n_failed,
            "precision": self.attributes["precision"],
            "space_id": self.commit.space_id,
            "set_id": self.commit.set_id,
            "revision_id": self.commit.revision_id,
        }
