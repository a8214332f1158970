"""Text through torch: tokens, lengths and batches of like length."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from featstore.encoders.base import TEXT_KINDS
from featstore.encoders.runtime import checked_device, checked_precision, computing, pinned_threads
from featstore.errors import EncoderError


@dataclass(frozen=True, eq=False, slots=True)
class PreparedText:
    """Tokens of one text, cut at the model's longest input."""

    ids: np.ndarray
    """(length,) int64, prefix and special tokens included."""
    type_ids: np.ndarray | None
    """(length,) int64 segments, for models that take them."""
    n_tokens: int
    """Tokens before the cut."""

    @property
    def length(self) -> int:
        """Tokens that the model sees."""
        return len(self.ids)

    @property
    def truncated(self) -> bool:
        """Whether tokens were cut off."""
        return self.n_tokens > self.length


def checked_text(item: Any, encoder: str) -> str:
    """Return `item`, a text that can be tokenized.

    Raises
    ------
    EncoderError
        If it is no text, or holds half of a surrogate pair.
    """
    if not isinstance(item, str):
        raise EncoderError(f"{encoder} takes texts, got {type(item).__name__}.")
    try:
        item.encode("utf-8")
    except UnicodeEncodeError as err:
        raise EncoderError(
            f"{encoder} takes texts of whole characters; this one has half of one: {item[:40]!r}."
        ) from err
    return item


class TextTokenizer:
    """The tokenizer of a transformers model, with the model's longest input and a prefix.

    Safe in threads: of a tokenizer that keeps its truncation as state it owns a copy, whose
    state is set once.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    encoder : str
        Name, for messages.
    limit : int, optional
        Tokens at most, special tokens included.
    prefix : str
        Put before every text.
    clean : callable
        What is done to prefix and text before the tokenizer.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoder: str,
        *,
        limit: int | None,
        prefix: str = "",
        clean: Callable[[str], str] = str,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._limit = limit
        self._prefix = prefix
        self._clean = clean
        self._lock = threading.Lock()
        self._pad = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        self._special = int(tokenizer.num_special_tokens_to_add(pair=False))
        if limit is not None and limit <= self._special:
            raise EncoderError(
                f"{encoder} adds {self._special} special tokens to every text, so its longest "
                f"input must be more than that. Got {limit} instead."
            )
        self._fast: Tokenizer | None = None
        if tokenizer.is_fast:
            self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
            self._fast.no_padding()
            self._fast.no_truncation()
            if limit is not None:
                self._fast.enable_truncation(limit, direction=tokenizer.truncation_side)

    def prepare(self, item: Any) -> PreparedText:
        """Return the tokens of a text.

        Raises
        ------
        EncoderError
            If `item` is no text.
        """
        text = self._clean(self._prefix + checked_text(item, self._encoder))
        if self._fast is None:
            return self._prepare_slowly(text)
        encoding = self._fast.encode(text)
        # Every piece that was cut off carries special tokens of its own.
        beyond = sum(len(piece.ids) - self._special for piece in encoding.overflowing)
        types = np.array(encoding.type_ids, np.int64) if self._with_types else None
        return PreparedText(np.array(encoding.ids, np.int64), types, len(encoding.ids) + beyond)

    def _prepare_slowly(self, text: str) -> PreparedText:
        with self._lock:
            tokens = self._tokenizer(text, truncation=False, verbose=False)
            whole = len(tokens["input_ids"])
            if self._limit is not None and whole > self._limit:
                tokens = self._tokenizer(text, truncation=True, max_length=self._limit)
        types = np.array(tokens["token_type_ids"], np.int64) if self._with_types else None
        return PreparedText(np.array(tokens["input_ids"], np.int64), types, whole)

    def batch(self, texts: Sequence[PreparedText]) -> dict[str, torch.Tensor]:
        """Return the model's inputs, padded on the right to the longest text of the batch."""
        shape = len(texts), max(text.length for text in texts)
        ids = np.full(shape, self._pad, np.int64)
        mask = np.zeros(shape, np.int64)
        types = np.zeros(shape, np.int64)
        for row, text in enumerate(texts):
            ids[row, : text.length] = text.ids
            mask[row, : text.length] = 1
            if text.type_ids is not None:
                types[row, : text.length] = text.type_ids
        arrays = {"input_ids": ids, "attention_mask": mask}
        if self._with_types:
            arrays["token_type_ids"] = types
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


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


def longest_input(network: Any) -> int | None:
    """Return the most tokens that a network has positions for, or None if it has no table.

    Where positions are counted from the padding index (RoBERTa, MPNet), the first of them are
    never a token's: 514 rows make 512 tokens.
    """
    for name, module in network.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings) - first
    config = getattr(network, "config", None)
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(limit) if limit is not None and limit > 0 else None


def checked_max_length(name: str, max_length: int, *, network: Any) -> int:
    """Return `max_length` if the network can take that many tokens.

    Raises
    ------
    EncoderError
        If it cannot.
    """
    limit = longest_input(network)
    if max_length < 1 or (limit is not None and max_length > limit):
        upper = "" if limit is None else f" and at most {limit:,}, the positions that it has"
        raise EncoderError(
            f"The max_length of {name} must be at least 1{upper}. Got {max_length:,} instead."
        )
    return max_length
