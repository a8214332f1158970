"""Models and tokens of open_clip."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import nn

from featstore.encoders.base import EncoderOptions
from featstore.encoders.runtime import checked_device, checked_precision, quiet
from featstore.encoders.torch_text import ModelFiles, PreparedText, checked_text
from featstore.encoders.weights import (
    WeightsSource,
    cached_file,
    hub_error,
    hub_unreachable,
    load_strictly,
    one_line,
    parse_weights,
    read_state_dict,
)
from featstore.errors import EncoderError, UnknownEncoderError, unknown_name
from featstore.identity import canonical_json, sha256_hex, weights_sha256

#: Of a configuration: where to find things, not what the model computes.
_NOT_KEYED = frozenset(
    {
        "timm_model_pretrained",
        "hf_model_pretrained",
        "hf_tokenizer_name",
        "tokenizer_kwargs",
        "tokenizer_mode",
        "output_tokens",
    }
)
CONFIG = "open_clip_config.json"
#: Weights in a folder, the better first; as open_clip and its hub repositories name them.
_FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True, eq=False)
class OpenClipPair:
    """A checkpoint with an image and a text tower."""

    name: str
    """``oc:<model>`` or ``oc:<model>/<tag>``."""
    model: nn.Module
    """With its weights, in float32, in evaluation mode."""
    config: Mapping[str, Any]
    """open_clip's configuration of the model, without what is not keyed."""
    tokenizer_name: str
    """What ``open_clip.get_tokenizer`` is asked for."""
    weights: Mapping[str, str]
    """Where the weights came from."""

    @property
    def pair_id(self) -> str:
        """The id of the checkpoint: the same in the spaces of both towers, and of no other."""
        whole = weights_sha256(self.model.state_dict())
        return sha256_hex(canonical_json({"weights_sha256": whole, "config": self.config}))

    def tower_space(self, tower: str, state: Mapping[str, Any], module: Any) -> dict[str, Any]:
        """Return the keyed facts that both towers have; `state` are the tower's own tensors."""
        side = "vision_cfg" if tower == "image" else "text_cfg"
        return {
            "family": "oc",
            "name": split_name(self.name)[0],
            "tower": tower,
            "pair": self.pair_id,
            "weights_sha256": weights_sha256(state),
            "architecture": self.config[side],
            "quick_gelu": bool(self.config.get("quick_gelu", False)),
            "activations": activations(module),
            "normalized": False,
        }

    def facts(self, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Return what is recorded of a tower, and of how the pair's logits are made of cosines."""
        bias = getattr(self.model, "logit_bias", None)
        scale: torch.Tensor = self.model.logit_scale  # type: ignore[assignment]
        return {
            "weights": dict(self.weights),
            "tag": split_name(self.name)[1],
            "logit_scale": round(float(scale.detach().exp()), 6),
            "logit_bias": None if bias is None else round(float(bias.detach()), 6),
            "parameters": sum(tensor.numel() for tensor in state.values()),
            "versions": {"open_clip_torch": open_clip.__version__, "torch": torch.__version__},
        }


def activations(module: nn.Module) -> list[str]:
    """Return the kinds of activation in a tower: ``["QuickGELU"]``, ``["GELU"]``, ``["ReLU"]``."""
    kinds = {type(part) for part in module.modules()}
    return sorted(
        kind.__name__
        for kind in kinds
        if not issubclass(kind, nn.MultiheadAttention)
        and (
            kind is open_clip.transformer.QuickGELU
            or kind.__module__.rpartition(".")[2].startswith("activation")
        )
    )


def split_name(name: str) -> tuple[str, str | None]:
    """Return model and tag of ``oc:<model>/<tag>``; the tag may be missing."""
    model, slash, tag = name.partition(":")[2].partition("/")
    return model, tag if slash else None


def check_open_clip_name(model_name: str) -> None:
    """Refuse a model or a tag that open_clip does not know.

    Raises
    ------
    UnknownEncoderError
        With the closest name that exists.
    """
    model, tag = split_name(f"oc:{model_name}")
    library = f"open_clip {open_clip.__version__} ('oc:{model_name}')"
    models = open_clip.list_models()
    if model not in models:
        where, by = f"in {library}", "open_clip.list_models()"
        raise UnknownEncoderError(unknown_name("model", model, models, where=where, listed_by=by))
    known = open_clip.list_pretrained_tags_by_model(model)
    if tag is not None and tag not in known:
        where, by = f"of the model {model!r} in {library}", "open_clip.list_pretrained()"
        raise UnknownEncoderError(unknown_name("tag", tag, known, where=where, listed_by=by))


def load_pair(name: str, source: WeightsSource) -> OpenClipPair:
    """Build a model and fill it from `source`, strictly: nothing stays random.

    From a file, or from a folder that open_clip wrote (configuration, weights and tokenizer),
    or the hub, for names with a tag. A tag also says how pictures are prepared.

    Raises
    ------
    EncoderError
        If the weights do not come or do not fit, or the tag was trained with another activation.
    """
    model_name, tag = split_name(name)
    config = _checked_config(name, model_name, tag)
    preprocess = dict(open_clip.get_pretrained_cfg(model_name, tag)) if tag else {}
    tokenizer = model_name
    if source.kind == "hub":
        path = _downloaded(name, tag, preprocess)
    else:
        assert source.path is not None
        path = source.path
        if source.kind == "folder":
            path, preprocess = _from_folder(name, source.path, config)
            tokenizer = f"local-dir:{source.path}"
    model = _built(name, model_name, preprocess)
    load_strictly(model, _state(model, path), what=name, source=f"'{path.name}'")
    facts = source.facts()
    if source.kind == "hub" and "hf_hub" in preprocess:
        facts["repository"] = preprocess["hf_hub"].rpartition("/")[0]
    return OpenClipPair(name, model.float().eval(), _keyed(config), tokenizer, facts)


def open_pair(name: str, options: EncoderOptions) -> OpenClipPair:
    """Build the model of ``oc:<model>[/<tag>]`` once name, device and precision are checked.

    Raises
    ------
    UnknownEncoderError, EncoderError
        As `check_open_clip_name` and `load_pair`.
    """
    check_open_clip_name(name.partition(":")[2])
    source = parse_weights(options.weights, encoder=name)
    checked_precision(options.precision, checked_device(options.device))
    return load_pair(name, source)


def _checked_config(name: str, model_name: str, tag: str | None) -> dict[str, Any]:
    config: dict[str, Any] = open_clip.get_model_config(model_name)
    if tag is None:
        return config
    trained = bool(open_clip.get_pretrained_cfg(model_name, tag).get("quick_gelu", False))
    built = bool(config.get("quick_gelu", False))
    if trained != built:
        # open_clip only warns, and gives embeddings that are a few per cent off.
        plain = model_name.removesuffix("-quickgelu")
        other = f"{plain}-quickgelu" if trained else plain
        advice = f" Use oc:{other}/{tag}." if other in open_clip.list_models() else ""
        one, other = ("QuickGELU", "GELU") if trained else ("GELU", "QuickGELU")
        raise EncoderError(
            f"{name}: the weights '{tag}' were trained with {one}, the model {model_name} computes "
            f"{other}.{advice}"
        )
    return config


def _keyed(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {key: _keyed(value) for key, value in config.items() if key not in _NOT_KEYED}


def _built(name: str, model_name: str, preprocess: Mapping[str, Any]) -> nn.Module:
    backbone = open_clip.get_model_config(model_name)["text_cfg"].get("hf_model_name")
    if backbone and not cached_file(backbone, "config.json") and (reason := hub_unreachable()):
        raise EncoderError(
            f"The text tower of {name} is configured by {backbone} on the hub, which cannot be "
            f"reached: {reason} Download that repository's config.json first."
        )
    try:
        with quiet():
            model: nn.Module = open_clip.create_model(
                model_name,
                load_weights=False,
                pretrained_image=False,
                pretrained_text=False,
                force_preprocess_cfg=dict(preprocess),
            )
    except Exception as err:  # missing extras of open_clip, damaged configurations
        raise EncoderError(f"open_clip could not build {name}: {one_line(err)}") from err
    return model


def _state(model: Any, path: Path) -> dict[str, Any]:
    """Return the tensors of a file under the names of `model`."""
    state = {key.removeprefix("module."): value for key, value in read_state_dict(path).items()}
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    expected = model.state_dict()
    for key in ("logit_scale", "logit_bias"):  # a number or a vector of one
        if key in state and key in expected:
            state[key] = state[key].reshape(expected[key].shape)
    for key in [key for key in state if key.endswith("embeddings.position_ids")]:
        if key not in expected:  # a buffer that transformers kept until 4.31
            del state[key]
    return dict(state)


def _from_folder(name: str, folder: Path, config: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the weights file and the preprocessing of a folder that holds this very model."""
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        given, preprocess = described["model_cfg"], described.get("preprocess_cfg", {})
    except (OSError, ValueError, KeyError, TypeError) as err:
        msg = (
            f"The folder '{folder.name}' holds no {CONFIG} of open_clip ({one_line(err)}) Give a "
            "folder that open_clip saved, or the weights file alone."
        )
        raise EncoderError(msg.replace(str(folder), folder.name)) from err
    if _keyed(given) != _keyed(config):
        raise EncoderError(
            f"The folder '{folder.name}' holds another model than {name}: its {CONFIG} differs "
            "from open_clip's configuration of that name. Name the model that it holds."
        )
    found = [folder / file for file in _FOLDER_WEIGHTS if (folder / file).is_file()]
    if not found:
        raise EncoderError(
            f"The folder '{folder.name}' holds none of {', '.join(_FOLDER_WEIGHTS)}."
        )
    return found[0], dict(preprocess)


def _downloaded(name: str, tag: str | None, pretrained: Mapping[str, Any]) -> Path:
    """Return the file of a tag, from the cache or by open_clip's own download."""
    if tag is None:
        raise hub_error(name, "without a tag (oc:model/tag) it names no weights.")
    repo, _, filename = str(pretrained.get("hf_hub", "")).rpartition("/")
    wanted = filename or HF_WEIGHTS_NAME
    safe = HF_SAFE_WEIGHTS_NAME if not filename else str(Path(filename).with_suffix(".safetensors"))
    if repo:
        for candidate in (safe, wanted):
            if (cached := cached_file(repo, candidate)) is not None:
                return cached
        if reason := hub_unreachable():
            raise hub_error(name, reason)
    try:
        return Path(download_pretrained(dict(pretrained)))
    except Exception as err:  # network and disk errors of two libraries
        raise hub_error(name, one_line(err)) from err


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
        If it is another kind.
    """

    def __init__(self, tokenizer: Any, encoder: str) -> None:
        if not isinstance(tokenizer, SimpleTokenizer | HFTokenizer):
            raise EncoderError(
                f"{encoder} has a tokenizer of kind {type(tokenizer).__name__}, which is not "
                "served: only SimpleTokenizer and HFTokenizer are."
            )
        self.tokenizer = tokenizer
        self._encoder = encoder
        self._context = int(tokenizer.context_length)
        self._mode = str(getattr(tokenizer, "tokenizer_mode", "") or "")
        inner = getattr(tokenizer, "tokenizer", None)  # of transformers; CLIP's own pads with 0
        self._pad_id = int(getattr(inner, "pad_token_id", 0) or 0)
        # Tokenizers of transformers keep padding and truncation as state.
        self._lock = threading.Lock()

    def prepare_many(self, items: Sequence[Any]) -> list[PreparedText]:
        """Return the (context,) tokens of each text, by one call of the tokenizer.

        Raises
        ------
        EncoderError
            If one is no text.
        """
        texts = [checked_text(item, self._encoder) for item in items]
        pad = self._pad_id
        # `clips` puts the token that is read behind the padding.
        last = -2 if self._mode == "clips" else -1
        with self._lock:
            ids = self.tokenizer(texts).numpy().astype(np.int64)
            prepared = []
            for text, row in zip(texts, ids, strict=True):
                # A text that leaves room was not cut, and is not tokenized twice.
                cut = row[last] != pad and self._count(text) > len(row)
                prepared.append(PreparedText(row, None, bool(cut)))
        return prepared

    def batch(self, texts: Sequence[PreparedText]) -> dict[str, torch.Tensor]:
        """Return the model's input: texts of one length need no mask."""
        return {"text": torch.from_numpy(np.stack([text.ids for text in texts]))}

    def _count(self, text: str) -> int:
        """Return the tokens of a text, uncut, with the special ones."""
        if isinstance(self.tokenizer, SimpleTokenizer):
            return len(self.tokenizer.encode(text)) + 2
        inner, clean = self.tokenizer.tokenizer, self.tokenizer.clean_fn
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
        cleaning = self.tokenizer.clean_fn.__name__.removeprefix("_clean_")
        facts = {
            "kind": type(self.tokenizer).__name__,
            "cleaning": cleaning,
            "lower_case": self.tokenizer.clean_fn("A") == "a",
            "context_length": self._context,
            "padding": "context length",
            "pad_id": self._pad_id,
        }
        if isinstance(self.tokenizer, SimpleTokenizer):
            table = {
                "vocabulary": self.tokenizer.encoder,
                "merges": [list(pair) for pair in self.tokenizer.bpe_ranks],
            }
            return {**facts, "tokenizer_sha256": sha256_hex(canonical_json(table))}
        folder = Path(source)
        files = ModelFiles(folder, None) if folder.is_dir() else ModelFiles(None, source)
        return {
            **facts,
            "mode": self._mode,
            "strip_sep_token": bool(self.tokenizer.strip_sep_token),
            "tokenizer_sha256": files.tokenizer_sha256(self._encoder),
        }
