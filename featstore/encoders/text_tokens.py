"""A text as tokens: made once, then measured, cut, padded and encoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

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
        msg = f"{encoder} takes texts, got {type(item).__name__}."
        raise EncoderError(msg)
    try:
        item.encode("utf-8")
    except UnicodeEncodeError as err:
        msg = f"{encoder} takes texts of whole characters; this one has half of one: {item[:40]!r}."
        raise EncoderError(msg) from err
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
            msg = (
                f"{encoder} adds {self._special} special tokens to every text, so its longest "
                f"input must be more than that. Got {limit} instead."
            )
            raise EncoderError(msg)
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
