"""Checkpoints: the state of a training in one file of torch, so that it can be resumed.

A resumed training ends in the same bytes as one that was never interrupted. The file holds data
only (`torch.load` with ``weights_only``), and is read by the same training alone (`identity`).
"""

from __future__ import annotations

import io
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from featstore.durable import write_durably
from fitters.errors import unwritable

logger = logging.getLogger(__name__)

#: What `torch.load` raises of a file that is cut off, damaged or no checkpoint.
_UNREADABLE = (OSError, RuntimeError, EOFError, UnpicklingError, ValueError, KeyError, TypeError)


@dataclass(eq=False)
class Checkpoint:
    """The file of one training.

    Attributes
    ----------
    path : Path
    identity : str
        Digest of settings and data; a file of another training is left unread and replaced.
    every : float
        Seconds between two writes, at the least; 0 writes after every epoch.
    """

    path: Path
    identity: str
    every: float = 30.0
    _written: float = field(default_factory=time.monotonic)

    def read(self) -> dict[str, Any] | None:
        """Return what was written, on the CPU, or None if there is nothing to resume."""
        if not self.path.exists():
            return None
        try:
            # Tensors and plain values: with `weights_only` no code of the file is run.
            found: dict[str, Any] = torch.load(  # noqa: TID251
                self.path, map_location="cpu", weights_only=True
            )
            if found["identity"] == self.identity:
                return found
            logger.warning("%s is of another training; this one starts anew.", self.path)
        except _UNREADABLE as err:
            logger.warning("%s cannot be read (%s); the training starts anew.", self.path, err)
        return None

    def due(self) -> bool:
        """Return whether enough time has gone since the last write."""
        return time.monotonic() - self._written >= self.every

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file, whole or not at all.

        Parameters
        ----------
        state : dict
            Tensors, numbers, texts, and lists and dicts of them.

        Raises
        ------
        AlignmentWriteError
            If it cannot be written.
        """
        buffer = io.BytesIO()
        torch.save({"identity": self.identity, **state}, buffer)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.path, [buffer.getvalue()])
        except OSError as err:
            raise unwritable(self.path, err) from err
        self._written = time.monotonic()
