"""Image encoders of open_clip, alone and with their text tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from open_clip.transform import PreprocessCfg, image_transform_v2

from featstore.encoders.base import IMAGE_KINDS, TEXT_KINDS, EncoderOptions
from featstore.encoders.golden import golden_images
from featstore.encoders.open_clip_model import OpenClipPair, open_pair
from featstore.encoders.open_clip_text import OpenClipTextEncoder
from featstore.encoders.preprocessing import Preprocessing
from featstore.encoders.runtime import (
    DeviceCopies,
    HostCopy,
    TorchImageEncoder,
)
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
        self._weights.of = [*visual.parameters(), *visual.buffers()]
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
