"""Models of open_clip: both towers as encoders, and the text tower that learned prompts go through.

Learning a prompt needs the step behind the text encoder: some of the token embeddings are
parameters, and a gradient must reach them. Only towers are served that look at earlier tokens alone
and are read at the end token, as CLIP's: behind it nothing counts, so that a prompt is as long as
its tokens instead of the whole context.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from featstore.encoders.base import (
    DEFAULT_OPTIONS,
    IMAGE_KINDS,
    TEXT_KINDS,
    EncoderOptions,
    golden_images,
)
from featstore.encoders.runtime import (
    DeviceCopies,
    HostCopy,
    Preprocessing,
    TorchImageEncoder,
    checked_device,
    checked_precision,
)
from featstore.encoders.text import PreparedText, TorchTextEncoder, checked_text
from featstore.encoders.weights import (
    ModelFiles,
    WeightsSource,
    cached_file,
    hub_error,
    hub_unreachable,
    load_strictly,
    one_line,
    parse_weights,
    quiet,
    read_state_dict,
)
from featstore.errors import EncoderError, UnknownEncoderError, unknown_name
from featstore.identity import canonical_json, sha256_hex, weights_sha256
from featstore.images import DECODE_RULE

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

    def tower_space(self, tower: str, state: Mapping[str, Any], module: Any) -> dict[str, Any]:
        """Return the keyed facts that both towers have; `state` are the tower's own tensors."""
        side = "vision_cfg" if tower == "image" else "text_cfg"
        whole = {"weights_sha256": weights_sha256(self.model.state_dict()), "config": self.config}
        return {
            "family": "oc",
            "name": split_name(self.name)[0],
            "tower": tower,
            # Of the checkpoint: the same in the spaces of both towers, and of no other.
            "pair": sha256_hex(canonical_json(whole)),
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
    if trained != bool(config.get("quick_gelu", False)):
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
        with self._lock:
            ids = self.tokenizer(texts).numpy().astype(np.int64)
            prepared = []
            for text, row in zip(texts, ids, strict=True):
                # A text that leaves room was not cut, and is not tokenized twice.
                cut = row[-1] != pad and self._count(text) > len(row)
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
        return len(inner(clean(text), truncation=False, verbose=False)["input_ids"])

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


class OpenClipImageEncoder(TorchImageEncoder):
    """``encode_image(normalize=False)`` of an open_clip model.

    Parameters
    ----------
    pair : OpenClipPair
    options : EncoderOptions
        How it is computed.
    """

    def __init__(self, pair: OpenClipPair, options: EncoderOptions) -> None:
        super().__init__(pair.name, options)
        self._model: Any = pair.model
        visual: Any = self._model.visual
        config = PreprocessCfg(**visual.preprocess_cfg)
        self.preprocessing = Preprocessing(
            image_transform_v2(config, is_train=False), tuple(int(n) for n in config.input_size)
        )
        state = {
            key: value
            for key, value in self._model.state_dict().items()
            if key.startswith("visual.")
        }
        self.space = {
            **pair.tower_space("image", state, visual),
            "preprocessing": {
                "input_size": [int(side) for side in config.input_size],
                "resize_mode": config.resize_mode,
                "interpolation": config.interpolation,
                # Only where a picture does not fill the square.
                "fill_color": config.fill_color if config.resize_mode == "longest" else None,
                "mean": [float(value) for value in config.mean],
                "std": [float(value) for value in config.std],
                "decode": dict(DECODE_RULE),
            },
        }
        visual.to(self._device)  # the only part that is run
        self._copies = DeviceCopies(self.name, self.preprocessing, self._device)
        self.dim = int(self.encode_float32([self.prepare(golden_images()[0])]).shape[1])
        self.facts |= pair.facts(state)

    def _computed(self, batch: Sequence[np.ndarray], *, exact: bool) -> np.ndarray:
        pictures = self._copies.to_device(batch)
        with self._running(exact=exact):
            vectors = HostCopy(self._model.encode_image(pictures, normalize=False))
        return vectors.numpy()


def open_open_clip(
    name: str, options: EncoderOptions
) -> OpenClipImageEncoder | OpenClipTextEncoder:
    """Build one tower of ``oc:<model>/<tag>``, or of ``oc:<model>`` with given weights.

    The kind of the options says which: ``image``, or ``caption`` or ``class_name``.

    Raises
    ------
    UnknownEncoderError
        If open_clip has no such model or tag.
    EncoderError
        If no tower is named, the weights do not come or do not fit, or the tag was trained with
        another activation.
    """
    if options.kind not in IMAGE_KINDS | TEXT_KINDS:
        known = ", ".join(sorted(IMAGE_KINDS | TEXT_KINDS))
        raise EncoderError(
            f"{name} has two towers: say kind=, one of {known}. Got {options.kind!r}."
        )
    pair = open_pair(name, options)
    return (OpenClipImageEncoder if options.kind in IMAGE_KINDS else OpenClipTextEncoder)(
        pair, options
    )


#: Tensors of a pair that are not the text tower's.
_OTHER = ("visual.", "logit_", "text_decoder.")


class OpenClipTextEncoder(TorchTextEncoder):
    """``encode_text(normalize=False)`` of an open_clip model.

    Parameters
    ----------
    pair : OpenClipPair
    options : EncoderOptions
        How it is computed.

    Attributes
    ----------
    model : open_clip.CLIP or CustomTextCLIP
        Both towers.
    tokenizer : open_clip.SimpleTokenizer or open_clip.HFTokenizer
    """

    def __init__(self, pair: OpenClipPair, options: EncoderOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(pair.name, options)
        tokenizer, source = _tokenizer(pair)
        self.tokenizer, self._tokens = tokenizer, OpenClipTokens(tokenizer, pair.name)
        model: Any = pair.model
        state = {
            key: value for key, value in model.state_dict().items() if not key.startswith(_OTHER)
        }
        tower = getattr(model, "text", None) or model.transformer
        self.space = {
            **pair.tower_space("text", state, tower),
            "tokenizer": self._tokens.space(source),
        }
        self.model = model.to(self._device)
        self.dim = int(self.encode_float32([""]).shape[1])
        self.facts |= pair.facts(state)

    def _vectors(self, inputs: dict[str, Any]) -> torch.Tensor:
        vectors: torch.Tensor = self.model.encode_text(inputs["text"], normalize=False)
        return vectors


def _tokenizer(pair: OpenClipPair) -> tuple[Any, str]:
    """Return a pair's tokenizer, and the folder or repository of its files."""
    folder = pair.tokenizer_name.removeprefix("local-dir:")
    local = folder != pair.tokenizer_name
    config = open_clip.get_model_config(pair.tokenizer_name)["text_cfg"]
    repo = str(config.get("hf_tokenizer_name") or "")
    # Asked once, because the library would retry for a minute.
    unreachable = hub_unreachable() if repo and not local else None
    options = {"local_files_only": local or unreachable is not None} if repo else {}
    try:
        with quiet():
            tokenizer = open_clip.get_tokenizer(pair.tokenizer_name, **options)
    except Exception as err:  # network, disk and format errors of three libraries
        reason = one_line(err)
        if local:
            where = f"its folder: {reason.replace(folder, 'the folder')}"
        else:
            where = f"the hub ({repo}): {unreachable or reason}"
        raise EncoderError(
            f"The tokenizer of {pair.name} could not be read from {where} Give a folder that "
            "open_clip saved, with configuration, weights and tokenizer."
        ) from err
    return tokenizer, folder if local else repo


#: What is encoded both ways before a tower is served: short, long, and cut.
_PROBES = ("a photo of a dog.", "", "dog " * 200)

#: Largest difference of unit rows that the two ways may have: rounding of float32.
_TOLERANCE = 1e-4


class OpenClipPromptTower:
    """A frozen text tower that takes token embeddings.

    Parameters
    ----------
    encoder : OpenClipTextEncoder
        On the CPU, in float32.

    Attributes
    ----------
    name : str
    space : dict
        Of the encoder: what its coordinates mean.
    context_length : int
        Tokens of the longest prompt, start and end included.
    width : int
        Of a token embedding.
    dim : int
        Of a text embedding.
    logit_scale : float
        What cosines are multiplied by to become logits.
    start, end : int
        Tokens that every prompt begins and ends with.

    Raises
    ------
    EncoderError
        If the tower is of another kind: not causal, with a class token, a tokenizer other than
        CLIP's, or read elsewhere than at the end token.
    """

    def __init__(self, encoder: OpenClipTextEncoder) -> None:
        model, tokenizer = encoder.model, encoder.tokenizer
        text: Any = getattr(model, "text", model)
        self.name = encoder.name
        self.space = encoder.space
        _refuse_other_kinds(self.name, text, tokenizer)
        self._tokenizer: Any = tokenizer
        model.requires_grad_(requires_grad=False)
        self._text = text
        self._positions: Tensor = text.positional_embedding
        self._mask: Tensor = text.attn_mask
        self._projection: Tensor | nn.Module | None = text.text_projection
        self.context_length = int(tokenizer.context_length)
        self.width = int(self._text.token_embedding.weight.shape[1])
        self.dim = encoder.dim
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.start, self.end = int(tokenizer.sot_token_id), int(tokenizer.eot_token_id)
        self._check(model)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, uncut, without those of start and end."""
        return list(self._tokenizer.encode(text))

    def to(self, device: torch.device) -> Self:
        """Move the tower to a device; `embed` takes tokens from the CPU all the same."""
        for module in (self._text.token_embedding, self._text.transformer, self._text.ln_final):
            module.to(device)
        self._positions, self._mask = self._positions.to(device), self._mask.to(device)
        if self._projection is not None:
            self._projection = self._projection.to(device)
        return self

    def embed(self, tokens: Tensor) -> Tensor:
        """Return token embeddings, (b, l) to (b, l, width)."""
        table = self._text.token_embedding
        return table(tokens.to(table.weight.device))

    def encode(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Return unit rows of prompts, differentiable in their token embeddings.

        Parameters
        ----------
        embedded : float32 tensor of shape (b, l, width)
            l is at most `context_length`.
        ends : int64 tensor of shape (b,)
            Where in each prompt its end token stands; what follows is not looked at.

        Returns
        -------
        tensor of shape (b, dim)
        """
        length = embedded.shape[1]
        hidden = embedded + self._positions[:length]
        hidden = self._text.transformer(hidden, attn_mask=self._mask[:length, :length])
        rows = self._text.ln_final(hidden[torch.arange(len(hidden), device=hidden.device), ends])
        if isinstance(self._projection, nn.Module):
            rows = self._projection(rows)
        elif self._projection is not None:
            rows = rows @ self._projection
        return nn.functional.normalize(rows, dim=-1)

    def _check(self, model: Any) -> None:
        """Compare with the model's own way from texts to rows."""
        ids = self._tokenizer(list(_PROBES))
        ends = ids.argmax(dim=1)
        longest = int(ends.max()) + 1
        with torch.inference_mode():
            ours = self.encode(self.embed(ids[:, :longest]), ends)
            theirs = model.encode_text(ids, normalize=True)
        difference = float((ours - theirs).abs().max())
        if not difference <= _TOLERANCE:
            raise EncoderError(
                f"The text tower of {self.name} does more than CLIP's: from its token embeddings "
                f"on, rows come out {difference:.1g} apart. Prompts cannot be learned through it."
            )


def _refuse_other_kinds(name: str, text: Any, tokenizer: Any) -> None:
    lacking: Sequence[tuple[bool, str]] = (
        (not isinstance(tokenizer, SimpleTokenizer), "its tokenizer is not CLIP's"),
        (not isinstance(getattr(text, "token_embedding", None), nn.Embedding),
         "it is a model of another library"),
        (getattr(text, "attn_mask", None) is None, "its tokens look at later ones"),
        (getattr(text, "cls_emb", None) is not None, "it has a class token"),
        (getattr(text, "text_pool_type", getattr(text, "pool_type", "")) != "argmax",
         "it is not read at the end token"),
    )  # fmt: skip
    for other, why in lacking:
        if other:
            raise EncoderError(
                f"Prompts cannot be learned through the text tower of {name}: {why}. Use a model "
                "with CLIP's own text tower, such as oc:ViT-B-32-quickgelu/openai."
            )


def open_prompt_tower(name: str, *, weights: str | None = None) -> OpenClipPromptTower:
    """Build the text tower of ``oc:<model>[/<tag>]`` on the CPU, in float32.

    Parameters
    ----------
    name, weights
        As for ``open_encoder``.

    Raises
    ------
    UnknownEncoderError
        If open_clip has no such model or tag.
    EncoderError
        If the weights do not come or do not fit, or the tower is of another kind.
    """
    options = EncoderOptions(kind="class_name", weights=weights)
    return OpenClipPromptTower(OpenClipTextEncoder(open_pair(name, options), options))
