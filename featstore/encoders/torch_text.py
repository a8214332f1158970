"""Text through torch: files of a model, tokens, and batches of like length."""

from __future__ import annotations

import json
import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from torch import nn

from featstore.encoders.base import TEXT_KINDS, EncoderOptions
from featstore.encoders.runtime import (
    DeviceCopies,
    HostCopy,
    TorchEncoder,
    checked_device,
    checked_precision,
    quiet,
)
from featstore.encoders.weights import (
    cached_file,
    hub_error,
    hub_unreachable,
    one_line,
    parse_weights,
    remote_code_facts,
)
from featstore.errors import EncoderError
from featstore.identity import files_sha256

#: A fast tokenizer is these two; the older files beside them are not read then.
_FAST_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_OTHER_TOKENIZERS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)


@dataclass(frozen=True)
class ModelFiles:
    """The files of a text model: in a folder, or in the hub's cache."""

    folder: Path | None
    repo: str | None

    @contextmanager
    def loading(self, encoder: str, options: EncoderOptions) -> Iterator[tuple[str, Any]]:
        """Yield what ``from_pretrained`` is called with: where the files are, and keywords.

        Raises
        ------
        EncoderError
            If a library fails in the block, or the hub cannot be reached.
        """
        unreachable = hub_unreachable() if self.folder is None else None
        keywords: dict[str, Any] = {
            # What is in the cache already is used without the network.
            "local_files_only": self.folder is not None or unreachable is not None,
            "trust_remote_code": options.trust_remote_code,
        }
        try:
            with quiet():
                yield str(self.folder or self.repo), keywords
        except Exception as err:  # network, disk and format errors of three libraries
            if self.folder is None:
                raise hub_error(encoder, unreachable or one_line(err)) from err
            reason = one_line(err).replace(str(self.folder), self.folder.name)
            raise EncoderError(
                f"{encoder} could not be loaded from the folder '{self.folder.name}': {reason}"
            ) from err

    def find(self, name: str) -> Path | None:
        """Return the file of the transformer module by that name, or None."""
        if self.folder is not None:
            path = self.folder / _transformer_path(self.folder / "modules.json") / name
            return path if path.is_file() else None
        assert self.repo is not None
        modules = cached_file(self.repo, "modules.json")
        prefix = _transformer_path(modules) if modules else ""
        return cached_file(self.repo, f"{prefix}/{name}" if prefix else name)

    def tokenizer_sha256(self, encoder: str) -> str:
        """Return the hash of the tokenizer's files.

        Raises
        ------
        EncoderError
            If there is none.
        """
        names: Iterable[str] = _FAST_TOKENIZER
        if self.find(_FAST_TOKENIZER[0]) is None:
            names = _OTHER_TOKENIZERS
        found = {name: path for name in names if (path := self.find(name)) is not None}
        if not found:
            raise EncoderError(
                f"{encoder} has no tokenizer files beside its weights. Give a complete folder."
            )
        return files_sha256(found)

    def tensor_names(self) -> set[str] | None:
        """Return the names in the safetensors file or files, or None if there is none."""
        from safetensors import safe_open

        single = self.find("model.safetensors")
        if single is not None:
            with safe_open(single, framework="np") as tensors:
                return set(tensors.keys())
        index = self.find("model.safetensors.index.json")
        return set(json.loads(index.read_text())["weight_map"]) if index else None


def _transformer_path(modules: Path) -> str:
    """Return where ``modules.json`` says that the first module lies."""
    if not modules.is_file():
        return ""
    entries = json.loads(modules.read_text(encoding="utf-8"))
    return str(entries[0].get("path", "")) if entries else ""


@dataclass(frozen=True, eq=False, slots=True)
class PreparedText:
    """Tokens of one text, cut at the model's longest input."""

    ids: np.ndarray
    """(length,) int64, prefix and special tokens included."""
    type_ids: np.ndarray | None
    """(length,) int64 segments, for models that take them."""
    truncated: bool
    """Whether tokens were cut off."""

    @property
    def length(self) -> int:
        """Tokens that the model sees."""
        return len(self.ids)


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

    Safe in threads: the library's tokenizers keep their truncation as state, so one thread at a
    time uses it.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    encoder : str
        Name, for messages.
    limit : int, optional
        Tokens at most, special tokens included.
    prefix : str
        Put before every text.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoder: str,
        *,
        limit: int | None,
        prefix: str = "",
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._limit = limit
        self._prefix = prefix
        self._lock = threading.Lock()
        self._pad = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        special = int(tokenizer.num_special_tokens_to_add(pair=False))
        if limit is not None and limit <= special:
            raise EncoderError(
                f"{encoder} adds {special} special tokens to every text, so its longest "
                f"input must be more than that. Got {limit} instead."
            )

    def prepare_many(self, items: Sequence[Any]) -> list[PreparedText]:
        """Return the tokens of each text, by one call of the tokenizer.

        Raises
        ------
        EncoderError
            If one is no text.
        """
        texts = [self._prefix + checked_text(item, self._encoder) for item in items]
        cut = {"truncation": self._limit is not None, "max_length": self._limit}
        prepared = []
        with self._lock:
            tokens = self._tokenizer(texts, verbose=False, **cut)
            types = tokens["token_type_ids"] if self._with_types else [None] * len(texts)
            for text, ids, own in zip(texts, tokens["input_ids"], types, strict=True):
                # Only a text that fills the input may have been cut: it is tokenized once more.
                full = len(ids) == self._limit
                whole = self._tokenizer(text, verbose=False)["input_ids"] if full else ids
                segments = None if own is None else np.array(own, np.int64)
                prepared.append(
                    PreparedText(np.array(ids, np.int64), segments, len(whole) > len(ids))
                )
        return prepared

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


def find_files(name: str, options: EncoderOptions, repo: str) -> tuple[ModelFiles, dict[str, str]]:
    """Return the files of a text model, and what is recorded of where its weights are from.

    Parameters
    ----------
    name : str
        ``family:model``.
    options : EncoderOptions
        Weights, and a device and precision that are checked before anything is loaded.
    repo : str
        Where the hub has it.

    Raises
    ------
    EncoderError
        If the weights are a single file, are not there or belong to another model.
    """
    source = parse_weights(options.weights, encoder=name.replace(":sentence-transformers/", ":"))
    checked_precision(options.precision, checked_device(options.device))
    if source.kind == "hub":
        return ModelFiles(None, repo), {**source.facts(), "repository": repo}
    if source.path is None or not source.path.is_dir():
        raise EncoderError(
            f"{name} needs a folder (weights, configuration and tokenizer), got a single file."
        )
    return ModelFiles(source.path, None), source.facts()


class Tokens(Protocol):
    """Turns texts into what the model takes."""

    def prepare_many(self, items: Sequence[Any]) -> list[PreparedText]:
        """Return the tokens of each text."""

    def batch(self, texts: Sequence[PreparedText]) -> dict[str, torch.Tensor]:
        """Return the model's inputs, on the host."""


class TorchTextEncoder(TorchEncoder):
    """Base of the text encoders: a subclass adds its model, tokens, space and `_vectors`."""

    kinds = TEXT_KINDS
    own_batch_size = 64
    _tokens: Tokens

    def __init__(self, name: str, options: EncoderOptions) -> None:
        super().__init__(name, options)
        self._copies = DeviceCopies(name, None, self._device)

    def _complete(
        self,
        network: Any,
        *,
        weights: dict[str, str] | None,
        versions: Mapping[str, str],
        tokenizer: Any,
        trusted: bool,
    ) -> None:
        """Move a network of transformers to the device; complete space, facts and length."""
        self.space |= remote_code_facts([*network.modules(), tokenizer], trusted=trusted)
        network.to(self._device)
        self.dim = int(self.encode_float32([""]).shape[1])
        self.facts |= {
            "weights": weights or {"source": "object"},
            "parameters": sum(p.numel() for p in network.parameters()),
            "versions": {
                **versions, "torch": torch.__version__, "transformers": transformers.__version__,
            },
        }  # fmt: skip

    def prepare(self, item: Any) -> PreparedText:
        """Return the tokens of a text, cut at the model's longest input. Safe in threads.

        Raises
        ------
        EncoderError
            If `item` is no text.
        """
        return self.prepare_many([item])[0]

    def prepare_many(self, items: Sequence[Any]) -> list[PreparedText]:
        """Return what `prepare` does of each text, by one call of the tokenizer.

        Raises
        ------
        EncoderError
            If one is no text.
        """
        return self._tokens.prepare_many(items)

    def length(self, prepared: PreparedText) -> int:
        """Return how many tokens of a prepared text the model sees."""
        return prepared.length

    def is_truncated(self, prepared: PreparedText) -> bool:
        """Say whether a text was cut at the model's longest input."""
        return prepared.truncated

    def _computed(self, batch: Sequence[PreparedText | str], *, exact: bool) -> np.ndarray:
        texts = [self.prepare(item) if isinstance(item, str) else item for item in batch]
        inputs = {
            name: self._copies.moved(tensor) for name, tensor in self._tokens.batch(texts).items()
        }
        with self._running(exact=exact):
            vectors = HostCopy(self._vectors(inputs))
        return vectors.numpy()

    @abstractmethod
    def _vectors(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the (b, d) output of the model for a batch of tokens on its device."""


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
