"""What a sentence-transformers model is: its keyed facts, and the check that all was loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.encoders.weights import cached_file
from featstore.errors import EncoderError
from featstore.identity import files_sha256, weights_sha256

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
#: Of the transformer's configuration, what its tensors do not show.
_ARCHITECTURE = ("model_type", "hidden_act", "num_attention_heads", "layer_norm_eps")
#: Names of tensors in checkpoints of long ago.
_OLD_NAMES = ((".gamma", ".weight"), (".beta", ".bias"))


@dataclass(frozen=True)
class ModelFiles:
    """The files of a text model: in a folder, or in the hub's cache."""

    folder: Path | None
    repo: str | None

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


def text_space(model: Any, name: str, files: ModelFiles, prompt: str) -> dict[str, Any]:
    """Return the keyed facts of a loaded SentenceTransformer.

    Raises
    ------
    EncoderError
        If the model is not a transformer with pooling, or a tensor was not in its files.
    """
    modules = list(model)
    kinds = [type(module).__name__ for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise EncoderError(
            f"{name} is made of {', '.join(kinds)}; only models of a transformer with pooling "
            "are served. Use another model, or pass an object to extract(encoder=...)."
        )
    transformer, pooling, *rest = modules
    network = transformer.auto_model
    unused = _not_loaded(network, files, name)
    prefix = next(key for key, module in model.named_modules() if module is network)
    state = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if key.removeprefix(f"{prefix}.") not in unused
    }
    config = network.config.to_dict()
    limit = model.max_seq_length
    return {
        "family": "st",
        "name": name.partition(":")[2].removeprefix("sentence-transformers/"),
        "weights_sha256": weights_sha256(state),
        "architecture": {key: config[key] for key in _ARCHITECTURE if key in config},
        "tokenizer_sha256": files.tokenizer_sha256(name),
        "max_seq_length": None if limit is None else int(limit),
        "lower_case": bool(getattr(transformer, "do_lower_case", False)),
        "pooling": {
            "mode": pooling_mode(pooling),
            "include_prompt": bool(getattr(pooling, "include_prompt", True)),
        },
        "after_pooling": [_module_facts(module) for module in rest],
        "normalized": "Normalize" in kinds,
        "prompt": prompt,
    }


def pooling_mode(pooling: Any) -> str:
    """Return the pooling of a model, ``mean`` or ``cls+max``, in any version of the library."""
    mode = getattr(pooling, "pooling_mode", None)
    if mode is None:  # before version 5, a flag a mode
        return str(pooling.get_pooling_mode_str())
    return mode if isinstance(mode, str) else "+".join(mode)


def _module_facts(module: Any) -> dict[str, Any]:
    """Return the kind of a module after pooling and, of a dense layer, its activation."""
    facts: dict[str, Any] = {"kind": type(module).__name__}
    activation = getattr(module, "activation_function", None)
    if activation is not None:
        facts["activation"] = type(activation).__name__
    return facts


def _not_loaded(network: Any, files: ModelFiles, encoder: str) -> set[str]:
    """Return the tensors of the pooler that no file holds; refuse any other.

    The library fills what is missing with random numbers and goes on. For the pooler that does
    not matter, since pooling takes the token states: it is left out of the hash, which else
    would differ at every load. Anything else would make the embeddings random.
    """
    stored = files.tensor_names()
    if stored is None:
        raise EncoderError(
            f"{encoder} has no model.safetensors, so what it loaded cannot be checked. Save it "
            "with safetensors (model.save_pretrained)."
        )
    base = f"{network.base_model_prefix}."
    present = {_today(key).removeprefix(base) for key in stored}
    state: Mapping[str, Any] = network.state_dict()
    # Tied tensors are stored under one of their names.
    present_data = {state[key].data_ptr() for key in present if key in state}
    missing = [
        key
        for key, tensor in state.items()
        if key not in present and tensor.data_ptr() not in present_data
    ]
    needed = [key for key in missing if not key.startswith("pooler.")]
    if needed:
        raise EncoderError(
            f"The weights of {encoder} are incomplete: {len(needed):,} of {len(state):,} tensors "
            f"are missing ({', '.join(needed[:3])}{', ...' * (len(needed) > 3)}). Give the "
            "complete folder of this model."
        )
    return set(missing)


def _today(key: str) -> str:
    for old, new in _OLD_NAMES:
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key
