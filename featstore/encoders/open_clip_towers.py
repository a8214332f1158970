"""Image and text encoders of open_clip, and the tower that learned prompts go through.

Learning a prompt needs the step behind the text encoder: some of the token embeddings are
parameters, and a gradient must reach them. Only towers are served that look at earlier tokens alone
and are read at the end token, as CLIP's: behind it nothing counts, so that a prompt is as long as
its tokens instead of the whole context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from featstore.encoders.base import (
    DEFAULT_OPTIONS,
    IMAGE_KINDS,
    TEXT_KINDS,
    EncoderOptions,
    golden_images,
)
from featstore.encoders.open_clip_model import OpenClipPair, OpenClipTokens, open_pair
from featstore.encoders.runtime import (
    DeviceCopies,
    HostCopy,
    Preprocessing,
    TorchImageEncoder,
    quiet,
)
from featstore.encoders.torch_text import TorchTextEncoder
from featstore.encoders.weights import hub_unreachable, one_line
from featstore.errors import EncoderError
from featstore.images import DECODE_RULE


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
        pictures = self._copies.to_device(batch, self._pixels_in(exact=exact))
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
