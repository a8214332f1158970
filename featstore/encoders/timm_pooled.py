"""Image encoder: another layer of a timm model, pooled to one vector a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from featstore.encoders.timm_base import TimmImages
from featstore.encoders.timm_pools import (
    LAYER,
    POOLS,
    check_pool_name,
    find_layer,
    make_pool,
)
from featstore.errors import EncoderError


class PooledTimmEncoder(TimmImages):
    """A timm model up to a layer of the user's choice.

    No head belongs to these vectors: each pool is a space of its own.

    Parameters
    ----------
    name, model, **options
        As for `TimmImages`.
    pool : str
        ``cls``: the class token of ``forward_features``, that is after the model's last
        normalisation, if it has one before its pooling. ``patch_mean``: the mean of the patch
        tokens or map positions there. ``cls+patch_mean``: both, in this order.
        ``layer:<module>``: the output of that module; tokens (without those before the patches,
        where the sequence has them) and map positions are averaged.

    Raises
    ------
    EncoderError
        If the model has no such layer or token.
    """

    def __init__(self, name: str, model: nn.Module, *, pool: str, **options: Any) -> None:
        check_pool_name(pool, name)
        self.pool = pool
        self._layer = find_layer(model, pool, name) if pool.startswith(LAYER) else None
        if self._layer is not None and options.get("compile"):
            msg = f"{name} with pool {pool!r} cannot be compiled: the graph would hide the layer."
            raise EncoderError(msg)
        super().__init__(name, model, **options)
        if self._layer is None and not hasattr(model, "forward_features"):
            msg = f"{name} has no forward_features, so only {LAYER}<name> can be asked of it."
            raise EncoderError(msg)
        blank = [np.zeros(self._input_size, np.float32)]
        output = self._output(blank, exact=True)
        tokens = output
        if self._layer is not None and hasattr(model, "forward_features"):
            pixels = self._copies.to_device(blank)
            with self._running(exact=True):
                tokens = model.forward_features(pixels)  # type: ignore[operator]
        length = tokens.shape[1] if isinstance(tokens, torch.Tensor) and tokens.ndim == 3 else None
        try:
            self._pool = make_pool(pool, model, output, tokens=length, input_size=self._input_size)
        except EncoderError as err:
            msg = f"{name} cannot be pooled by {pool!r}: {err}."
            raise EncoderError(msg) from err
        with torch.inference_mode():
            self.dim = int(self._pool.reduce(output).shape[1])
        self.space["layer"] = self._pool.rule

    def encode(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Return the (b, d) float32 vectors of prepared pictures, in the encoder's precision.

        Raises
        ------
        EncoderError
            If a picture was not prepared for this model.
        """
        return self._vectors(batch, exact=False)

    def encode_float32(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Return what `encode` would, computed in float32 and not compiled."""
        return self._vectors(batch, exact=True)

    def _vectors(self, batch: Sequence[np.ndarray], *, exact: bool) -> np.ndarray:
        if not batch:
            return np.empty((0, self.dim), np.float32)
        with torch.inference_mode():
            # Averaged in float32, whatever the layer was computed in.
            vectors = self._pool.reduce(self._output(batch, exact=exact).float())
        if vectors.shape != (len(batch), self.dim):
            msg = (
                f"{self.name} gave vectors of shape {tuple(vectors.shape)} for {len(batch)} "
                f"pictures by pool {self.pool!r}; expected ({len(batch)}, {self.dim})."
            )
            raise EncoderError(msg)
        return vectors.cpu().numpy().copy()

    def _output(self, batch: Sequence[np.ndarray], *, exact: bool) -> Any:
        """Return what the layer, or ``forward_features``, gives."""
        pixels = self._copies.to_device(batch)
        if self._layer is None:
            with self._running(exact=exact) as model:
                return model.forward_features(pixels)  # type: ignore[operator]
        caught: list[Any] = []

        def catch(_layer: nn.Module, _inputs: Any, output: Any) -> None:
            caught.append(output)

        with self._running(exact=exact) as model:
            hook = self._layer.register_forward_hook(catch)
            try:
                model(pixels)
            finally:
                hook.remove()
        if len(caught) != 1:
            msg = (
                f"{self.name} runs {self.pool.removeprefix(LAYER)} {len(caught)} times a picture, "
                f"so it has no single output. Name another layer, or one of {', '.join(POOLS)}."
            )
            raise EncoderError(msg)
        return caught[0]
