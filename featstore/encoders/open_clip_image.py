"""Image encoders of open_clip, alone and with their text tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from featstore.encoders.base import IMAGE_KINDS, TEXT_KINDS
from featstore.encoders.golden import golden_images
from featstore.encoders.open_clip_model import OpenClipPair, check_open_clip_name, load_pair
from featstore.encoders.open_clip_text import OpenClipTextEncoder
from featstore.encoders.runtime import (
    DeviceCopies,
    HostCopy,
    checked_device,
    checked_precision,
    computing,
    pinned_threads,
)
from featstore.encoders.weights import parse_weights
from featstore.errors import EncoderError
from featstore.images import DECODE_RULE, to_rgb

if TYPE_CHECKING:
    from PIL import Image


class OpenClipImageEncoder:
    """``encode_image(normalize=False)`` of an open_clip model.

    Parameters
    ----------
    pair : OpenClipPair
    device : str
    batch_size : int, optional
        32 by default.
    threads : int, optional
        Threads of torch while encoding; the process's own number by default.
    precision : str
        ``float32``, ``bfloat16`` or ``float16``.
    """

    kinds = IMAGE_KINDS

    def __init__(
        self,
        pair: OpenClipPair,
        *,
        device: str = "cpu",
        batch_size: int | None = None,
        threads: int | None = None,
        precision: str = "float32",
    ) -> None:
        self.name = pair.name
        self.batch_size = batch_size or 32
        self._device = checked_device(device)
        self._threads = threads
        self.precision = checked_precision(precision, self._device)
        self._model: Any = pair.model
        visual: Any = self._model.visual
        config = PreprocessCfg(**visual.preprocess_cfg)
        self._transform = image_transform_v2(config, is_train=False)
        self._input_size = tuple(int(side) for side in config.input_size)
        state = {
            key: value
            for key, value in self._model.state_dict().items()
            if key.startswith("visual.")
        }
        self.space: dict[str, Any] = {
            **pair.tower_space("image", state, visual),
            "preprocessing": preprocessing_facts(config),
        }
        visual.to(self._device)  # the only part that is run
        self._copies = DeviceCopies(self.name, self._input_size, self._device)
        #: Whether several threads should encode, each the next batch: see `DeviceCopies`.
        self.overlaps = self._device.type == "cuda"
        self.dim = int(self.encode([self.prepare(golden_images()[0])]).shape[1])
        self.facts: dict[str, Any] = {
            **pair.facts(),
            "parameters": sum(tensor.numel() for tensor in state.values()),
        }

    def prepare(self, item: Image.Image) -> np.ndarray:
        """Return a picture as the model takes it: (3, h, w) float32, by open_clip's transform."""
        image = item if item.mode == "RGB" else to_rgb(item)
        return np.asarray(self._transform(image), dtype=np.float32)

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Return the (b, d) float32 vectors of prepared pictures.

        The same batch gives the same bits on a CPU with the same number of threads.

        Raises
        ------
        EncoderError
            If a picture was not prepared for this model.
        """
        return self._encode(batch, self.precision)

    def encode_float32(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Return what `encode` would in float32: what `precision` costs is measured against it."""
        return self._encode(batch, "float32")

    def _encode(self, batch: Sequence[np.ndarray], precision: str) -> np.ndarray:
        if not batch:
            return np.empty((0, self.dim), np.float32)
        pictures = self._copies.to_device(batch)
        with (
            self._copies.turn(),
            torch.inference_mode(),
            pinned_threads(self._threads),
            computing(precision, self._device),
        ):
            vectors = HostCopy(self._model.encode_image(pictures, normalize=False))
        return vectors.numpy()


def preprocessing_facts(config: PreprocessCfg) -> Mapping[str, Any]:
    """Return the keyed facts of open_clip's evaluation transform."""
    return {
        "input_size": [int(side) for side in config.input_size],
        "resize_mode": config.resize_mode,
        "interpolation": config.interpolation,
        # Only where a picture does not fill the square.
        "fill_color": config.fill_color if config.resize_mode == "longest" else None,
        "mean": [float(value) for value in config.mean],
        "std": [float(value) for value in config.std],
        "decode": dict(DECODE_RULE),
    }


def open_open_clip(
    name: str,
    *,
    kind: str | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    threads: int | None = None,
    precision: str = "float32",
) -> OpenClipImageEncoder | OpenClipTextEncoder:
    """Build one tower of ``oc:<model>/<tag>``, or of ``oc:<model>`` with given weights.

    Parameters
    ----------
    name, weights, device, batch_size, threads, precision
        As for ``open_encoder``.
    kind : str
        ``image``, or ``caption`` or ``class_name``: the items to encode.

    Raises
    ------
    UnknownEncoderError
        If open_clip has no such model or tag.
    EncoderError
        If no tower is named, the weights do not come or do not fit, or the tag was trained with
        another activation.
    """
    check_open_clip_name(name.partition(":")[2])
    if kind not in IMAGE_KINDS | TEXT_KINDS:
        known = ", ".join(sorted(IMAGE_KINDS | TEXT_KINDS))
        raise EncoderError(f"{name} has two towers: say kind=, one of {known}. Got {kind!r}.")
    source = parse_weights(weights, encoder=name)
    checked_precision(precision, checked_device(device))
    pair = load_pair(name, source)
    tower = OpenClipImageEncoder if kind in IMAGE_KINDS else OpenClipTextEncoder
    return tower(pair, device=device, batch_size=batch_size, threads=threads, precision=precision)
