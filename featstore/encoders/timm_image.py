"""Image encoder: the input of a timm model's last linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from torch import nn

from featstore.encoders.base import IMAGE_KINDS
from featstore.encoders.timm_model import (
    build_timm,
    check_timm_name,
    last_linear,
    layer_arrays,
    layer_inputs,
    preprocessing,
)
from featstore.encoders.torch_runtime import checked_device, pinned_threads
from featstore.encoders.weights import parse_weights
from featstore.errors import EncoderError
from featstore.fingerprint import weights_sha256
from featstore.images import to_rgb

if TYPE_CHECKING:
    from PIL import Image

#: max |W f + b - logits| that `check_head` allows, as a share of max |logits|.
HEAD_TOLERANCE = 1e-4


class TimmEncoder:
    """A timm model up to its last linear layer.

    The embedding f is the input of that layer, caught by a hook: with its weight W and bias b,
    ``W f + b`` are the model's logits, whatever the model does before (`check_head`).

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

    Raises
    ------
    EncoderError
        If the model has no head that these features could be checked against.
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
    ) -> None:
        self.name = name
        self.batch_size = batch_size or 32
        self._device = checked_device(device)
        self._threads = threads
        self._layer_name, self._layer = last_linear(model, name)
        facts, self._transform = preprocessing(model)
        self._input_size = tuple(facts["input_size"])
        if self._input_size[0] != 3:
            msg = f"{name} takes {self._input_size[0]} channels; only models of RGB are served."
            raise EncoderError(msg)
        self.dim = layer_inputs(self._layer)
        config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        self.space: dict[str, Any] = {
            "family": "timm",
            # The architecture alone: what a tag names, weights and preprocessing, is below.
            "name": config.get("architecture") or name.partition(":")[2].partition(".")[0],
            "weights_sha256": weights_sha256(model.state_dict()),
            "preprocessing": facts,
            "layer": "input of classifier",
        }
        self.facts: dict[str, Any] = {
            "weights": weights or {"source": "object"},
            "parameters": sum(p.numel() for p in model.parameters()),
            "num_classes": int(model.num_classes),  # type: ignore[arg-type]
            "classifier": self._layer_name,
            "tag": config.get("tag") or None,
            "versions": {"timm": timm.__version__, "torch": torch.__version__},
        }
        self._model = model.eval().to(self._device)

    def prepare(self, item: Image.Image) -> np.ndarray:
        """Return a picture as the model takes it: (3, h, w) float32, by timm's own transform."""
        image = item if item.mode == "RGB" else to_rgb(item)
        return np.asarray(self._transform(image), dtype=np.float32)

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Return the (b, d) float32 features of prepared pictures.

        The same batch gives the same bits on a CPU with the same number of threads.

        Raises
        ------
        EncoderError
            If a picture was not prepared for this model, or the head pools after its classifier.
        """
        return self._forward(batch)[0]

    def check_head(self, batch: Sequence[np.ndarray]) -> float:
        """Check on prepared pictures that ``W f + b`` equals the model's logits.

        Returns
        -------
        float
            max |W f + b - logits| / max |logits|, at most 1e-4.

        Raises
        ------
        EncoderError
            If they differ by more, or there is nothing to compare.
        """
        features, logits = self._forward(batch)
        weight, bias = self.head_arrays()
        # In float64, so that what is seen is the model's error and not ours.
        made = features.astype(np.float64) @ weight.T.astype(np.float64)
        made += 0.0 if bias is None else bias
        scale = float(np.abs(logits).max(initial=0.0))
        if made.shape != logits.shape or scale == 0.0:
            msg = (
                f"The head of {self.name} cannot be checked: the model gave logits of shape "
                f"{logits.shape} for a head of shape {weight.shape}, the largest being "
                f"{scale:g}. Use trained weights and at least one picture."
            )
            raise EncoderError(msg)
        error = float(np.abs(made - logits).max()) / scale
        if not error <= HEAD_TOLERANCE:
            msg = (
                f"{self.name}: W f + b differs from the model's logits by {error:.2g} of their "
                f"maximum (allowed {HEAD_TOLERANCE:g}), so the rows of '{self._layer_name}' are "
                "not prototypes in the space of these features. Use another model."
            )
            raise EncoderError(msg)
        return error

    def head_arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the head's (c, d) weight and (c,) bias as float32; None if it has no bias."""
        return layer_arrays(self._layer)

    def _forward(self, batch: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the (b, d) input and the (b, c) output of the model's head."""
        if not batch:
            classes = self.facts["num_classes"]
            return np.empty((0, self.dim), np.float32), np.empty((0, classes), np.float32)
        for array in batch:
            if np.shape(array) != self._input_size:
                msg = (
                    f"{self.name} takes prepared pictures of shape {self._input_size}, got one of "
                    f"shape {np.shape(array)}. Pass what its prepare() returns."
                )
                raise EncoderError(msg)
        caught: list[torch.Tensor] = []

        def catch(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            caught.append(inputs[0])

        hook = self._layer.register_forward_pre_hook(catch)
        try:
            with torch.inference_mode(), pinned_threads(self._threads):
                stacked = np.ascontiguousarray(np.stack(batch), dtype=np.float32)
                logits = self._model(torch.from_numpy(stacked).to(self._device))
        finally:
            hook.remove()
        shapes = [tuple(tensor.shape) for tensor in caught]
        if len(caught) != 1 or caught[0].numel() != len(batch) * self.dim:
            msg = (
                f"{self.name} runs its classifier on inputs of shapes {shapes}, expected one of "
                f"({len(batch)}, {self.dim}): it pools after the classifier, so an image has no "
                "single feature vector. Use another model."
            )
            raise EncoderError(msg)
        features = caught[0].reshape(len(batch), self.dim)
        return features.float().cpu().numpy().copy(), logits.float().cpu().numpy()


def open_timm(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    threads: int | None = None,
) -> TimmEncoder:
    """Build the encoder ``timm:<model>`` with weights from a package, a file or the hub.

    Raises
    ------
    UnknownEncoderError
        If timm has no such model.
    EncoderError
        If the weights do not come or do not fit, or the model has no usable head.
    """
    model_name = name.partition(":")[2]
    check_timm_name(model_name)
    source = parse_weights(weights, encoder=name)
    checked_device(device)
    model = build_timm(model_name, source)
    facts = source.facts()
    if source.kind == "hub":
        facts["repository"] = str(getattr(model, "pretrained_cfg", {}).get("hf_hub_id", ""))
    return TimmEncoder(
        name,
        model,
        weights=facts,
        device=device,
        batch_size=batch_size,
        threads=threads,
    )
