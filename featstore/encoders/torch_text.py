"""What every text encoder of torch does: prepare, measure and encode in one stated precision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from featstore.encoders.base import TEXT_KINDS
from featstore.encoders.precision import checked_precision, computing
from featstore.encoders.text_tokens import PreparedText
from featstore.encoders.torch_runtime import checked_device, pinned_threads


class Tokens(Protocol):
    """Turns a text into what the model takes."""

    def prepare(self, item: Any) -> PreparedText:
        """Return the tokens of a text."""


class TorchTextEncoder(ABC):
    """Base of the text encoders: a subclass adds its model, tokens, space and `_vectors`.

    Parameters
    ----------
    name : str
        ``family:name``.
    device : str
    batch_size : int, optional
        64 by default.
    threads : int, optional
        Threads of torch while encoding; the process's own number by default.
    precision : str
        ``float32``, ``bfloat16`` or ``float16``.
    """

    kinds = TEXT_KINDS
    space: dict[str, Any]
    facts: dict[str, Any]
    dim: int
    _tokens: Tokens

    def __init__(
        self,
        name: str,
        *,
        device: str,
        batch_size: int | None,
        threads: int | None,
        precision: str,
    ) -> None:
        self.name = name
        self.batch_size = batch_size or 64
        self._device = checked_device(device)
        self._threads = threads
        self.precision = checked_precision(precision, self._device)

    def prepare(self, item: Any) -> PreparedText:
        """Return the tokens of a text, cut at the model's longest input. Safe in threads.

        Raises
        ------
        EncoderError
            If `item` is no text.
        """
        return self._tokens.prepare(item)

    def encode(self, batch: Sequence[PreparedText | str]) -> np.ndarray:
        """Return (b, d) float32 vectors of prepared texts, or of texts, prepared here.

        The same batch gives the same bits on a CPU with the same number of threads. A text that
        is too long was cut, see `is_truncated`.
        """
        return self._encode(batch, self.precision)

    def encode_float32(self, batch: Sequence[PreparedText | str]) -> np.ndarray:
        """Return what `encode` would in float32: what `precision` costs is measured against it."""
        return self._encode(batch, "float32")

    def length(self, prepared: PreparedText) -> int:
        """Return how many tokens of a prepared text the model sees."""
        return prepared.length

    def is_truncated(self, item: PreparedText | str) -> bool:
        """Say whether `encode` cuts a text at the model's longest input."""
        return self._prepared(item).truncated

    def n_tokens(self, item: PreparedText | str) -> int:
        """Return how many tokens a text has, prefix and special tokens included, uncut."""
        return self._prepared(item).n_tokens

    def _prepared(self, item: PreparedText | str) -> PreparedText:
        return item if isinstance(item, PreparedText) else self.prepare(item)

    def _encode(self, batch: Sequence[PreparedText | str], precision: str) -> np.ndarray:
        if not batch:
            return np.empty((0, self.dim), np.float32)
        texts = [self._prepared(item) for item in batch]
        with (
            torch.inference_mode(),
            pinned_threads(self._threads),
            computing(precision, self._device),
        ):
            return np.asarray(self._vectors(texts).float().cpu().numpy(), dtype=np.float32)

    @abstractmethod
    def _vectors(self, texts: Sequence[PreparedText]) -> torch.Tensor:
        """Return the (b, d) output of the model."""
