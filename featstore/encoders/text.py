"""Text encoder: a sentence-transformers model as it was published."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer

from featstore.encoders.base import TEXT_KINDS
from featstore.encoders.hub import hub_error, hub_unreachable
from featstore.encoders.text_space import ModelFiles, text_space
from featstore.encoders.torch_runtime import checked_device, pinned_threads
from featstore.encoders.weights import WeightsSource, one_line, parse_weights
from featstore.errors import EncoderError, UnknownEncoderError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def check_text_name(model_name: str) -> None:
    """Refuse what cannot be the name of a model: ``model`` or ``owner/model``.

    Raises
    ------
    UnknownEncoderError
        If it is not of that form.
    """
    if not _NAME.fullmatch(model_name):
        msg = (
            f"No encoder named 'st:{model_name}': a text model is named st:model or "
            "st:owner/model, for instance st:all-MiniLM-L6-v2. A folder is given with --weights."
        )
        raise UnknownEncoderError(msg)


class SentenceTransformerEncoder:
    """A sentence-transformers model: tokenizer, transformer, pooling and what follows.

    What the model does to its output it does here too (all-MiniLM normalises), and nothing
    more. Computed in float32 whatever the weights are stored in; code from a model's folder or
    repository is never run.

    Parameters
    ----------
    name : str
        ``st:all-MiniLM-L6-v2``.
    model : SentenceTransformer
    files : ModelFiles
        Where its files lie, for the hash of the tokenizer and the check that all was loaded.
    weights : dict, optional
        Where the weights came from; recorded in `facts`.
    device : str
    batch_size : int, optional
        64 by default.
    threads : int, optional
        Threads of torch while encoding; the process's own number by default.

    Raises
    ------
    EncoderError
        If the model is of another kind, or incomplete.
    """

    kinds = TEXT_KINDS

    def __init__(
        self,
        name: str,
        model: SentenceTransformer,
        files: ModelFiles,
        *,
        weights: dict[str, str] | None = None,
        device: str = "cpu",
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.name = name
        self.batch_size = batch_size or 64
        self._device = checked_device(device)
        self._threads = threads
        # float16 to float32 is exact, so the hash does not depend on which the library chose.
        self._model = model.float().eval()
        self._prompt = str((model.prompts or {}).get(model.default_prompt_name or "", ""))
        self.space: dict[str, Any] = text_space(self._model, name, files, self._prompt)
        self._limit: int | None = self.space["max_seq_length"]
        self._model.to(self._device)
        self.dim = int(self.encode([""]).shape[1])
        self.facts: dict[str, Any] = {
            "weights": weights or {"source": "object"},
            "parameters": sum(p.numel() for p in model.parameters()),
            "versions": {
                "sentence-transformers": sentence_transformers.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }

    def prepare(self, item: Any) -> str:
        """Return the text itself: tokenizing belongs to the batch, which it pads.

        Raises
        ------
        EncoderError
            If `item` is no text.
        """
        if not isinstance(item, str):
            msg = f"{self.name} takes texts, got {type(item).__name__}."
            raise EncoderError(msg)
        return item

    def encode(self, batch: Sequence[str]) -> np.ndarray:
        """Return (b, d) float32 vectors of texts.

        The same batch gives the same bits on a CPU with the same number of threads. A text that
        is too long is cut, see `is_truncated`.
        """
        if not batch:
            return np.empty((0, self.dim), np.float32)
        with pinned_threads(self._threads):
            vectors = self._model.encode(
                list(batch),
                batch_size=len(batch),
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=False,
                device=str(self._device),
            )
        return np.asarray(vectors, dtype=np.float32)

    def n_tokens(self, text: str) -> int:
        """Return how many tokens `text` has, prompt and special tokens included, uncut."""
        tokens = self._model.tokenizer(
            self._prompt + text, truncation=False, add_special_tokens=True, verbose=False
        )
        return len(tokens["input_ids"])

    def is_truncated(self, text: str) -> bool:
        """Say whether `encode` cuts `text` at the model's longest input."""
        return self._limit is not None and self.n_tokens(text) > self._limit


def open_text(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    threads: int | None = None,
) -> SentenceTransformerEncoder:
    """Build the encoder ``st:<model>`` with weights from a package, a folder or the hub.

    Raises
    ------
    UnknownEncoderError
        If the name is not of the form of one.
    EncoderError
        If the weights do not come, are incomplete or of another kind of model.
    """
    model_name = name.partition(":")[2]
    check_text_name(model_name)
    source = parse_weights(weights, encoder=name.replace(":sentence-transformers/", ":"))
    checked_device(device)
    facts = source.facts()
    if source.kind == "hub":
        repo = model_name if "/" in model_name else f"sentence-transformers/{model_name}"
        model = _from_hub(name, repo)
        files = ModelFiles(None, repo)
        facts["repository"] = repo
    else:
        folder = _checked_folder(name, source)
        model = _from_folder(name, folder)
        files = ModelFiles(folder, None)
    return SentenceTransformerEncoder(
        name,
        model,
        files,
        weights=facts,
        device=device,
        batch_size=batch_size,
        threads=threads,
    )


def _checked_folder(name: str, source: WeightsSource) -> Path:
    folder = source.path
    if folder is None or not folder.is_dir():
        msg = f"{name} needs a folder (weights, configuration and tokenizer), got a single file."
        raise EncoderError(msg)
    if not (folder / "modules.json").is_file():
        # Without it the library would make up a mean pooling of its own.
        msg = (
            f"The folder '{folder.name}' holds no modules.json, so its pooling is unknown. Use a "
            "folder that sentence-transformers saved."
        )
        raise EncoderError(msg)
    return folder


def _from_folder(name: str, folder: Path) -> SentenceTransformer:
    try:
        with _quiet_transformers():
            return SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, trust_remote_code=False
            )
    except Exception as err:  # missing, damaged or foreign files: each library has its own
        msg = f"{name} could not be loaded from the folder '{folder.name}': {_reason(err, folder)}"
        raise EncoderError(msg) from err


def _reason(err: Exception, folder: Path) -> str:
    return one_line(err).replace(str(folder), folder.name)


def _from_hub(name: str, repo: str) -> SentenceTransformer:
    unreachable = hub_unreachable()
    try:
        with _quiet_transformers():
            return SentenceTransformer(
                repo,
                device="cpu",
                # What is in the cache already is used without the network.
                local_files_only=unreachable is not None,
                trust_remote_code=False,
            )
    except Exception as err:  # network, disk and format errors of three libraries
        raise hub_error(name, unreachable or one_line(err)) from err


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing a bar and from reporting on tensors, checked here anyway."""
    log = transformers.logging
    verbosity, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bar:
            log.enable_progress_bar()
