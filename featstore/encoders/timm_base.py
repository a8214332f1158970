"""What every encoder of a timm model shares: preparing pictures and running the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from torch import nn

from featstore.encoders.base import IMAGE_KINDS
from featstore.encoders.device_copies import DeviceCopies
from featstore.encoders.precision import checked_precision, computing
from featstore.encoders.timm_model import preprocessing
from featstore.encoders.torch_runtime import checked_device, pinned_threads
from featstore.errors import EncoderError
from featstore.fingerprint import weights_sha256
from featstore.images import to_rgb

if TYPE_CHECKING:
    from PIL import Image


class TimmImages:
    """A timm model that pictures can be run through, without saying what is taken out of it.

    Parameters
    ----------
    name : str
        ``timm:tf_efficientnet_lite0``.
    model : torch.nn.Module
        Built by timm, with its weights; it is put into evaluation mode.
    weights : dict, optional
        Where the weights came from; recorded in `facts`.
    device : str
    batch_size : int, optional
        32 by default.
    threads : int, optional
        Threads of torch while encoding; the process's own number by default.
    precision : {"float32", "bfloat16", "float16"}
        Of the forward pass. No part of the space.
    compile : bool
        Compile ``forward_features``, where nearly all the time goes. No part of the space.

    Raises
    ------
    EncoderError
        If the model takes no RGB pictures, or device, precision or compiling do not go.
    """

    kinds = IMAGE_KINDS

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        weights: dict[str, str] | None = None,
        device: str = "cpu",
        batch_size: int | None = None,
        threads: int | None = None,
        precision: str = "float32",
        compile: bool = False,  # noqa: A002 -- torch's word for it
    ) -> None:
        self.name = name
        self.batch_size = batch_size or 32
        self._device = checked_device(device)
        self.precision = checked_precision(precision, self._device)
        self._threads = threads
        transform, self._transform = preprocessing(model)
        self._input_size = tuple(transform["input_size"])
        if self._input_size[0] != 3:
            msg = f"{name} takes {self._input_size[0]} channels; only models of RGB are served."
            raise EncoderError(msg)
        config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        self.space: dict[str, Any] = {
            "family": "timm",
            # The architecture alone: what a tag names, weights and preprocessing, is below.
            "name": config.get("architecture") or name.partition(":")[2].partition(".")[0],
            "weights_sha256": weights_sha256(model.state_dict()),
            "preprocessing": transform,
        }
        self._memory_format = (
            torch.channels_last
            if self._device.type == "cuda" and is_convnet(model)
            else torch.contiguous_format
        )
        self.facts: dict[str, Any] = {
            "weights": weights or {"source": "object"},
            "parameters": sum(p.numel() for p in model.parameters()),
            "num_classes": int(getattr(model, "num_classes", 0) or 0),
            "tag": config.get("tag") or None,
            "versions": {"timm": timm.__version__, "torch": torch.__version__},
            "compute": {
                "precision": precision,
                "autocast": precision != "float32",
                "tf32": False,
                "memory_format": str(self._memory_format).removeprefix("torch."),
                "compiled": compile,
            },
        }
        self._copies = DeviceCopies(name, self._input_size, self._device, self._memory_format)
        #: Whether several threads should encode, each the next batch: see `DeviceCopies`.
        self.overlaps = self._device.type == "cuda"
        self._model = model.eval().to(self._device)
        if self._memory_format is torch.channels_last:
            self._model = self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled: Any = None
        if compile:
            if not hasattr(model, "forward_features"):
                msg = f"{name} has no forward_features to compile. Leave compile out."
                raise EncoderError(msg)
            features: Any = model.forward_features
            self._compiled = torch.compile(features)

    def prepare(self, item: Image.Image) -> np.ndarray:
        """Return a picture as the model takes it: (3, h, w) float32, by timm's own transform."""
        image = item if item.mode == "RGB" else to_rgb(item)
        return np.asarray(self._transform(image), dtype=np.float32)

    @contextmanager
    def _running(self, *, exact: bool) -> Iterator[nn.Module]:
        """Yield the model, ready to run: in plain float32 if `exact`, else as asked for.

        One thread at a time; what it hooks and launches is not mixed with another's.
        """
        precision = "float32" if exact else self.precision
        swapped = self._compiled is not None and not exact
        with (
            self._copies.turn(),
            torch.inference_mode(),
            pinned_threads(self._threads),
            computing(precision, self._device),
        ):
            if not swapped:
                yield self._model
                return
            # Hooks on what comes after stay outside of the compiled graph, which ignores them.
            self._model.forward_features = self._compiled
            try:
                yield self._model
            finally:
                del self._model.forward_features


def is_convnet(model: nn.Module) -> bool:
    """Return whether `model` convolves more than once: transformers only cut patches so."""
    spatial = (
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size > (1, 1)
    )
    return sum(1 for _ in spatial) > 1
