"""The tokenizer of an open_clip model: texts cleaned, cut and padded to the context length."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from featstore.encoders.text_space import ModelFiles
from featstore.encoders.text_tokens import PreparedText, checked_text
from featstore.errors import EncoderError
from featstore.keys import canonical_json, sha256_hex


class OpenClipTokens:
    """open_clip's own tokenizer, and whether it cut a text.

    Every text fills the whole context, because the model was trained so: SigLIP reads its last
    position, padding or not.

    Parameters
    ----------
    tokenizer : open_clip.SimpleTokenizer or open_clip.HFTokenizer
    encoder : str
        Name, for messages.

    Raises
    ------
    EncoderError
        If it is another kind, or one that drops tokens by chance.
    """

    def __init__(self, tokenizer: Any, encoder: str) -> None:
        if not isinstance(tokenizer, SimpleTokenizer | HFTokenizer):
            msg = (
                f"{encoder} has a tokenizer of kind {type(tokenizer).__name__}, which is not "
                "served: only SimpleTokenizer and HFTokenizer are."
            )
            raise EncoderError(msg)
        if getattr(tokenizer, "reduction_fn", None) is not None:
            msg = f"The tokenizer of {encoder} drops tokens by chance, as in training only."
            raise EncoderError(msg)
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._context = int(tokenizer.context_length)
        # Tokenizers of transformers keep padding and truncation as state.
        self._lock = threading.Lock()

    def prepare(self, item: Any) -> PreparedText:
        """Return the (context,) tokens of a text.

        Raises
        ------
        EncoderError
            If `item` is no text.
        """
        text = checked_text(item, self._encoder)
        with self._lock:
            row = self._tokenizer([text])[0].numpy().astype(np.int64)
            pad = self._pad_id
            # `clips` puts the token that is read behind the padding.
            end = row[:-1] if self._mode == "clips" else row
            if end[-1] == pad:
                # A text that leaves room was not cut, and is not tokenized twice.
                n_tokens = len(row) - int(np.argmax(end[::-1] != pad))
            else:
                n_tokens = self._count(text)
        return PreparedText(row, None, n_tokens)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer itself."""
        return self._tokenizer

    @property
    def _mode(self) -> str:
        return str(getattr(self._tokenizer, "tokenizer_mode", "") or "")

    @property
    def _pad_id(self) -> int:
        if isinstance(self._tokenizer, SimpleTokenizer):
            return 0
        return int(self._tokenizer.tokenizer.pad_token_id or 0)

    def _count(self, text: str) -> int:
        """Return the tokens of a text, uncut, with the special ones."""
        if isinstance(self._tokenizer, SimpleTokenizer):
            return len(self._tokenizer.encode(text)) + 2
        inner, clean = self._tokenizer.tokenizer, self._tokenizer.clean_fn
        special = self._mode != "clips"
        ids = inner(clean(text), truncation=False, add_special_tokens=special, verbose=False)
        return len(ids["input_ids"]) + (0 if special else 3)

    def space(self, source: str) -> dict[str, Any]:
        """Return the keyed facts, read off the tokenizer itself.

        Parameters
        ----------
        source : str
            Folder or repository of a tokenizer of transformers; unused for CLIP's own.
        """
        cleaning = self._tokenizer.clean_fn.__name__.removeprefix("_clean_")
        facts = {
            "kind": type(self._tokenizer).__name__,
            "cleaning": cleaning,
            "lower_case": self._tokenizer.clean_fn("A") == "a",
            "context_length": self._context,
            "padding": "context length",
            "pad_id": self._pad_id,
        }
        if isinstance(self._tokenizer, SimpleTokenizer):
            table = {
                "vocabulary": self._tokenizer.encoder,
                "merges": [list(pair) for pair in self._tokenizer.bpe_ranks],
            }
            return {**facts, "tokenizer_sha256": sha256_hex(canonical_json(table))}
        folder = Path(source)
        files = ModelFiles(folder, None) if folder.is_dir() else ModelFiles(None, source)
        return {
            **facts,
            "mode": self._mode,
            "strip_sep_token": bool(self._tokenizer.strip_sep_token),
            "tokenizer_sha256": files.tokenizer_sha256(self._encoder),
        }
