"""Pools: what else of a timm model can be the vector of a picture, besides its head's input.

A pool is found on one blank picture, where the shapes of tokens and maps are seen, and is from
then on a fixed rule, named in the space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from featstore.errors import EncoderError, did_you_mean

POOLS = ("cls", "patch_mean", "cls+patch_mean")
LAYER = "layer:"


@dataclass(frozen=True)
class Pool:
    """Maps the output of one module, or of ``forward_features``, to one vector a picture."""

    rule: str
    """What is taken, in words; part of the space."""
    reduce: Callable[[torch.Tensor], torch.Tensor]
    """(b, …) -> (b, d)."""


def check_pool_name(pool: str, encoder: str) -> None:
    """Refuse a pool that no model has.

    Raises
    ------
    EncoderError
        Naming those that exist.
    """
    if pool in POOLS or (pool.startswith(LAYER) and pool != LAYER):
        return
    msg = (
        f"No pool named {pool!r} for {encoder}. Pools: {', '.join(POOLS)}, {LAYER}<name of a "
        f"module>; without one it is the input of the head.{did_you_mean(pool, POOLS)}"
    )
    raise EncoderError(msg)


def find_layer(model: nn.Module, pool: str, encoder: str) -> nn.Module:
    """Return the module that ``layer:<name>`` names.

    Raises
    ------
    EncoderError
        With the closest name that exists.
    """
    name = pool.removeprefix(LAYER)
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        msg = (
            f"{encoder} has no module named {name!r}; its parts are "
            f"{', '.join(child for child, _ in model.named_children())}."
            f"{did_you_mean(name, modules)}"
        )
        raise EncoderError(msg)
    return modules[name]


def make_pool(
    pool: str, model: nn.Module, output: Any, *, tokens: int | None, input_size: tuple[int, ...]
) -> Pool:
    """Return the rule for outputs of the shape of `output`.

    Parameters
    ----------
    pool : str
    model : torch.nn.Module
    output : torch.Tensor
        What a blank picture gives: of ``forward_features``, or of the named module.
    tokens : int or None
        Length of the sequence that ``forward_features`` gives, if it gives one.
    input_size : tuple
        (3, h, w) of the pictures.

    Raises
    ------
    EncoderError
        If there is no such thing in that output.
    """
    layer = pool.removeprefix(LAYER) if pool.startswith(LAYER) else "forward_features"
    source = f"output of {layer}"
    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4) or len(output) != 1:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        msg = f"the {source} is {shape}, which is neither a vector, nor tokens, nor a map a picture"
        raise EncoderError(msg)
    prefix = prefix_tokens(model)
    if output.ndim != 3 and pool.startswith("cls"):
        msg = "it has no class token: its features are no sequence of tokens"
        raise EncoderError(msg)
    if output.ndim == 2:
        if pool == "patch_mean":
            msg = "its features have no patches: they are one vector a picture"
            raise EncoderError(msg)
        return Pool(source, lambda out: out)
    if output.ndim == 4:
        axes = _spatial_axes(model, tuple(output.shape), input_size)
        layout = "NHWC" if axes == (1, 2) else "NCHW"
        return Pool(f"{source}, mean over positions ({layout})", lambda out: out.mean(axes))
    if pool.startswith("cls") and (prefix == 0 or getattr(model, "cls_token", None) is None):
        msg = "it has no class token: use patch_mean, or leave the pool out"
        raise EncoderError(msg)
    # A layer before the class token is put in front, or after it is taken off, has none to skip.
    skip = prefix if output.shape[1] == tokens else 0
    if output.shape[1] <= skip and pool != "cls":
        msg = f"its {output.shape[1]} tokens are all prefix tokens: it has no patches to average"
        raise EncoderError(msg)
    mean = f"mean of tokens {skip} and up"
    if pool == "cls":
        return Pool(f"{source}, token 0 (class)", lambda out: out[:, 0])
    if pool == "cls+patch_mean":
        return Pool(
            f"{source}, token 0 (class) then {mean}",
            lambda out: torch.cat([out[:, 0], out[:, skip:].mean(1)], dim=1),
        )
    return Pool(f"{source}, {mean}", lambda out: out[:, skip:].mean(1))


def prefix_tokens(model: nn.Module) -> int:
    """Return how many tokens (class, distillation, registers) stand before the patches."""
    known = getattr(model, "num_prefix_tokens", None)
    if isinstance(known, int):
        return known
    return int(getattr(model, "cls_token", None) is not None)


def _spatial_axes(
    model: nn.Module, shape: tuple[int, ...], input_size: tuple[int, ...]
) -> tuple[int, int]:
    """Return the axes of height and width: those in the proportion of the picture.

    Where both pairs are, the model says how it lays out its features (Swin: NHWC).

    Raises
    ------
    EncoderError
        If neither pair is.
    """
    height, width = input_size[1:]
    fits = [axes for axes in ((2, 3), (1, 2)) if shape[axes[0]] * width == shape[axes[1]] * height]
    if not fits:
        msg = f"no two axes of a map of shape {shape} are height and width of a {height}×{width}"
        raise EncoderError(msg)
    last = "NHWC" in str(getattr(model, "output_fmt", "NCHW"))
    return fits[-1] if last else fits[0]
