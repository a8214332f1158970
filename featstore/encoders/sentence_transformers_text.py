"""Text encoder: a sentence-transformers model as it was published."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer

from featstore.encoders.base import transferring
from featstore.encoders.quiet import quiet_transformers
from featstore.encoders.runtime import checked_device, checked_precision
from featstore.encoders.text_space import ModelFiles, text_space
from featstore.encoders.torch_text import (
    PreparedText,
    TextTokenizer,
    TorchTextEncoder,
    checked_max_length,
)
from featstore.encoders.weights import (
    WeightsSource,
    hub_error,
    hub_unreachable,
    one_line,
    parse_weights,
    remote_code_facts,
)
from featstore.errors import EncoderError, UnknownEncoderError, lookup

#: What a tokenizer without a limit says is far beyond this.
_NO_LIMIT = 10**6
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def check_text_name(model_name: str) -> None:
    """Refuse what cannot be the name of a model: ``model`` or ``owner/model``.

    Raises
    ------
    UnknownEncoderError
        If it is not of that form.
    """
    if not _NAME.fullmatch(model_name):
        raise UnknownEncoderError(
            f"No encoder named 'st:{model_name}': a text model is named st:model or "
            "st:owner/model, for instance st:all-MiniLM-L6-v2. A folder is given with --weights."
        )


class SentenceTransformerEncoder(TorchTextEncoder):
    """A sentence-transformers model: tokenizer, transformer, pooling and what follows.

    What the model does to its output it does here too (all-MiniLM normalises), and nothing
    more. Weights are held in float32 whatever they are stored in.

    Parameters
    ----------
    name : str
        ``st:all-MiniLM-L6-v2``.
    model : SentenceTransformer
    files : ModelFiles
        Where its files lie, for the hash of the tokenizer and the check that all was loaded.
    prefix : str, optional
        Put before every text; by default the model's own default prompt.
    weights : dict, optional
        Where the weights came from; recorded in `facts`.
    device : str
    batch_size : int, optional
        64 by default.
    threads : int, optional
        Threads of torch while encoding; the process's own number by default.
    precision : str
        ``float32``, ``bfloat16`` or ``float16``.
    trust_remote_code : bool
        Whether code of the model's own may have been run: then its hash is keyed.

    Raises
    ------
    EncoderError
        If the model is of another kind, or incomplete.
    """

    _tokens: TextTokenizer

    def __init__(
        self,
        name: str,
        model: SentenceTransformer,
        files: ModelFiles,
        *,
        prefix: str | None = None,
        weights: dict[str, str] | None = None,
        device: str = "cpu",
        batch_size: int | None = None,
        threads: int | None = None,
        precision: str = "float32",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(
            name, device=device, batch_size=batch_size, threads=threads, precision=precision
        )
        # float16 to float32 is exact, so the hash does not depend on which the library chose.
        self._model = model.float().eval()
        if prefix is None:
            prefix = str((model.prompts or {}).get(model.default_prompt_name or "", ""))
        self.space = {
            **text_space(self._model, name, files, prefix),
            **remote_code_facts([*model.modules(), model.tokenizer], trusted=trust_remote_code),
        }
        if "message" in getattr(model[0], "modality_config", {}):
            raise EncoderError(
                f"{name} puts texts into a chat template, which is not served. Use the family hf "
                "with a prefix and pool=last, or pass an object to extract(encoder=...)."
            )
        limit = self.space["max_seq_length"]
        self._tokens = TextTokenizer(
            model.tokenizer,
            name,
            # A tokenizer without a limit of its own says 1e30.
            limit=limit if limit is not None and limit < _NO_LIMIT else None,
            prefix=prefix,
            clean=_library_cleaning(model[0]),
        )
        self._prefix_length = _prefix_length(model.tokenizer, prefix)
        self._model.to(self._device)
        self.dim = int(self.encode([""]).shape[1])
        self.facts = {
            "weights": weights or {"source": "object"},
            "parameters": sum(p.numel() for p in model.parameters()),
            "versions": {
                "sentence-transformers": sentence_transformers.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }

    def _vectors(self, texts: Sequence[PreparedText]) -> torch.Tensor:
        with transferring():
            features: dict[str, Any] = {
                name: tensor.to(self._device) for name, tensor in self._tokens.batch(texts).items()
            }
        if self._prefix_length:
            # Pooling leaves these tokens out, if the model says so.
            features["prompt_length"] = self._prefix_length
        vectors: torch.Tensor = self._model(features)["sentence_embedding"]
        return vectors


def _prefix_length(tokenizer: Any, prefix: str) -> int:
    """Return the tokens of a prefix, without the special token that would end a text."""
    if not prefix:
        return 0
    ids = tokenizer(prefix)["input_ids"]
    return len(ids) - (ids[-1] in tokenizer.all_special_ids)


def _library_cleaning(transformer: Any) -> Callable[[str], str]:
    """Return what the library does to a text before its tokenizer.

    Until version 5 it stripped texts and lower-cased them there; later the tokenizer does.
    """
    if hasattr(transformer, "preprocess"):
        return str
    if getattr(transformer, "do_lower_case", False):
        return lambda text: text.strip().lower()
    return str.strip


def open_text(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    threads: int | None = None,
    precision: str = "float32",
    trust_remote_code: bool = False,
    prompt_name: str | None = None,
    prefix: str | None = None,
    max_length: int | None = None,
) -> SentenceTransformerEncoder:
    """Build the encoder ``st:<model>`` with weights from a package, a folder or the hub.

    Parameters
    ----------
    name, weights, device, batch_size, threads, precision
        As for ``open_encoder``.
    trust_remote_code : bool
        Whether code in the model's folder or repository may be run.
    prompt_name : str, optional
        One of the model's own prompts, put before every text; its default one otherwise.
    prefix : str, optional
        A prompt of the caller's own, instead.
    max_length : int, optional
        Longest input in tokens; the model's own otherwise.

    Raises
    ------
    UnknownEncoderError
        If the name is not of the form of one.
    EncoderError
        If the weights do not come, are incomplete or of another kind of model, or the model has
        no such prompt.
    """
    model_name = name.partition(":")[2]
    check_text_name(model_name)
    source = parse_weights(weights, encoder=name.replace(":sentence-transformers/", ":"))
    checked_precision(precision, checked_device(device))
    facts = source.facts()
    if source.kind == "hub":
        repo = model_name if "/" in model_name else f"sentence-transformers/{model_name}"
        model = _from_hub(name, repo, trust=trust_remote_code)
        files = ModelFiles(None, repo)
        facts["repository"] = repo
    else:
        folder = _checked_folder(name, source)
        model = _from_folder(name, folder, trust=trust_remote_code)
        files = ModelFiles(folder, None)
    if max_length is not None:
        model.max_seq_length = checked_max_length(name, max_length, network=model[0].auto_model)
    return SentenceTransformerEncoder(
        name,
        model,
        files,
        prefix=_chosen_prompt(name, model, prompt_name, prefix),
        weights=facts,
        device=device,
        batch_size=batch_size,
        threads=threads,
        precision=precision,
        trust_remote_code=trust_remote_code,
    )


def _chosen_prompt(
    name: str, model: SentenceTransformer, prompt_name: str | None, prefix: str | None
) -> str | None:
    if prompt_name is None or prefix is not None:
        if prompt_name is not None:
            raise EncoderError(
                f"{name} got both prompt_name={prompt_name!r} and prefix={prefix!r}. Give one."
            )
        return prefix
    known = dict(sorted((model.prompts or {}).items()))
    return str(lookup(known, prompt_name, what="prompt", where=f"in {name}", error=EncoderError))


def _checked_folder(name: str, source: WeightsSource) -> Path:
    folder = source.path
    if folder is None or not folder.is_dir():
        raise EncoderError(
            f"{name} needs a folder (weights, configuration and tokenizer), got a single file."
        )
    if not (folder / "modules.json").is_file():
        # Without it the library would make up a mean pooling of its own.
        raise EncoderError(
            f"The folder '{folder.name}' holds no modules.json, so its pooling is unknown. Use a "
            "folder that sentence-transformers saved."
        )
    return folder


def _from_folder(name: str, folder: Path, *, trust: bool) -> SentenceTransformer:
    try:
        with quiet_transformers():
            return SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, trust_remote_code=trust
            )
    except Exception as err:  # missing, damaged or foreign files: each library has its own
        raise EncoderError(
            f"{name} could not be loaded from the folder '{folder.name}': {_reason(err, folder)}"
        ) from err


def _reason(err: Exception, folder: Path) -> str:
    return one_line(err).replace(str(folder), folder.name)


def _from_hub(name: str, repo: str, *, trust: bool) -> SentenceTransformer:
    unreachable = hub_unreachable()
    try:
        with quiet_transformers():
            return SentenceTransformer(
                repo,
                device="cpu",
                # What is in the cache already is used without the network.
                local_files_only=unreachable is not None,
                trust_remote_code=trust,
            )
    except Exception as err:  # network, disk and format errors of three libraries
        raise hub_error(name, unreachable or one_line(err)) from err
