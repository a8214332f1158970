"""Image encoders of timm: models made, loaded, and run up to a layer.

A pool is found on one blank picture, where the shapes of tokens and maps are seen, and is from
then on a fixed rule, named in the space.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from featstore.encoders.base import DEFAULT_OPTIONS, EncoderOptions
from featstore.encoders.runtime import (
    DeviceCopies,
    HostCopy,
    Preprocessing,
    TorchImageEncoder,
    checked_device,
    checked_precision,
)
from featstore.encoders.weights import (
    PACKAGES,
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
from featstore.identity import weights_sha256
from featstore.images import DECODE_RULE


def check_timm_name(model_name: str) -> None:
    """Refuse a name that timm does not know, with or without tag (``resnet50.a1_in1k``).

    Raises
    ------
    UnknownEncoderError
        With the closest name that exists.
    """
    architecture, _, tag = model_name.partition(".")
    if not timm.is_model(architecture):
        where, by = f"in timm {timm.__version__} ('timm:{model_name}')", "timm.list_models()"
        raise UnknownEncoderError(
            unknown_name("model", architecture, timm.list_models(), where=where, listed_by=by)
        )
    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in known:
        where = f"of the model {architecture!r} in timm {timm.__version__} ('timm:{model_name}')"
        by = f"timm.list_pretrained('{architecture}.*')"
        raise UnknownEncoderError(unknown_name("tag", tag, known, where=where, listed_by=by))


def build_timm(model_name: str, source: WeightsSource, *, headless: bool = False) -> nn.Module:
    """Build a timm model and fill it from `source`, strictly.

    A checkpoint without head is refused before anything is downloaded, unless `headless`. A
    file whose head has a number of classes of its own makes a model with that number.

    Raises
    ------
    EncoderError
        If the weights do not come, or do not fit.
    """
    encoder = f"timm:{model_name}"
    config = timm.get_pretrained_cfg(model_name)
    if config is not None and config.num_classes == 0 and not headless:
        raise _headless(encoder)
    if source.kind == "hub":
        return _from_hub(model_name, encoder)
    if source.path is None or source.kind == "folder":
        raise EncoderError(
            f"{encoder} needs a file of weights, got a folder. Give the .safetensors or .pth file."
        )
    model: nn.Module = timm.create_model(model_name, pretrained=False)
    state = read_state_dict(source.path)
    entry = PACKAGES[source.package] if source.package else None
    names = list(model.state_dict())
    if entry is not None and entry.by_position and len(names) == len(state):
        state = dict(zip(names, state.values(), strict=True))
    classes = _other_classes(model, state, encoder)
    if classes is not None:
        model = timm.create_model(model_name, pretrained=False, num_classes=classes)
    load_strictly(model, state, what=encoder, source=source.package or f"'{source.path.name}'")
    return model


def _other_classes(model: nn.Module, state: Mapping[str, Any], encoder: str) -> int | None:
    """Return the classes of a state whose head has another number of them, or None.

    That is what fine-tuning on classes of one's own leaves. A number that a published checkpoint
    of the architecture has is left to be refused: its tag has to be named.
    """
    try:
        layer, head = last_linear(model, encoder)
    except EncoderError:
        return None  # no head, or more than one
    found: tuple[int, ...] = getattr(state.get(f"{layer}.weight"), "shape", ())
    if found[1:] != head.weight.shape[1:]:
        return None
    # Classes of a published checkpoint: its tag says how its pictures are prepared, too.
    architecture = encoder.partition(":")[2].partition(".")[0]
    published = {
        timm.get_pretrained_cfg(name).num_classes
        for name in timm.list_pretrained(f"{architecture}.*")
    }
    return None if found[0] in {0, len(head.weight), *published} else int(found[0])


def _from_hub(model_name: str, encoder: str) -> nn.Module:
    registered = timm.get_pretrained_cfg(model_name)
    config: Mapping[str, Any] = registered.to_dict() if registered else {}
    repo = config.get("hf_hub_id")
    if not repo and not config.get("url"):
        raise hub_error(encoder, "timm knows no pretrained weights of it.")
    cached = repo and any(
        cached_file(repo, name) for name in ("model.safetensors", "pytorch_model.bin")
    )
    if repo and not cached and (reason := hub_unreachable()):
        raise hub_error(encoder, reason)
    try:
        model: nn.Module = timm.create_model(model_name, pretrained=True)
    except Exception as err:  # network, disk and format errors of four libraries
        raise hub_error(encoder, one_line(err)) from err
    return model


def last_linear(model: nn.Module, encoder: str) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the name and the module of the layer that makes the logits.

    Found through ``get_classifier()``: a linear layer, a 1×1 convolution, or the last of either
    in a head of several layers (CAFormer's is an MLP, whose input is not what `pre_logits` says).

    Raises
    ------
    EncoderError
        If there is no such layer, or two whose outputs are averaged.
    """
    classes = int(getattr(model, "num_classes", 0) or 0)
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    parts = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
    modules = [part for part in parts if isinstance(part, nn.Module)]
    if classes == 0 or not modules or all(isinstance(part, nn.Identity) for part in modules):
        raise _headless(encoder)
    if len(modules) > 1:
        raise EncoderError(
            f"{encoder} averages the logits of {len(modules)} heads (distillation), so no single "
            "row is the prototype of a class. Use the model without 'distilled' in its name."
        )
    layers = [layer for layer in modules[0].modules() if _outputs(layer) == classes]
    if not layers:
        raise EncoderError(
            f"{encoder} has a head of kind {type(modules[0]).__name__} without a linear layer of "
            f"{classes:,} outputs. Its features have no class prototypes."
        )
    layer = layers[-1]
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    name = next(name for name, module in model.named_modules() if module is layer)
    return name, layer


def _headless(encoder: str) -> EncoderError:
    return EncoderError(
        f"{encoder} has no classification head (num_classes is 0), so there are no "
        "prototypes, and its features cannot be checked. Use a checkpoint that was trained on "
        "classes (its tag ends in in1k, in12k, in21k or in22k and does not start with orig or "
        "mim), or extract another layer (`headstock extract … -s pool=`, API: pool=)."
    )


def _outputs(layer: nn.Module) -> int | None:
    dense = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return int(layer.weight.shape[0]) if dense or isinstance(layer, nn.Linear) else None  # type: ignore[index]


def preprocessing(model: nn.Module) -> tuple[dict[str, Any], Any]:
    """Return the keyed facts of a model's evaluation transform, and the transform.

    The transform maps an RGB picture (PIL) to a float32 tensor (3, h, w).
    """
    config = resolve_model_data_config(model)
    transform = create_transform(**config, is_training=False)
    facts: dict[str, Any] = {
        "input_size": [int(n) for n in config["input_size"]],
        "resize": _resize(transform, config),
        "crop_pct": float(config["crop_pct"]),
        "crop_mode": str(config["crop_mode"]),
        "interpolation": str(config["interpolation"]),
        "mean": [float(v) for v in config["mean"]],
        "std": [float(v) for v in config["std"]],
        "decode": dict(DECODE_RULE),
    }
    return facts, transform


def _resize(transform: Any, config: Mapping[str, Any]) -> list[int]:
    """Return the size that the first step resizes to: one side, or height and width."""
    size = getattr(transform.transforms[0], "size", None)
    if size is None:
        return [math.floor(side / config["crop_pct"]) for side in config["input_size"][1:]]
    return [int(size)] if isinstance(size, int) else [int(side) for side in size]


class TimmImages(TorchImageEncoder):
    """A timm model that pictures can be run through, without saying what is taken out of it.

    Parameters
    ----------
    name : str
        ``timm:tf_efficientnet_lite0``.
    model : torch.nn.Module
        Built by timm, with its weights; it is put into evaluation mode.
    options : EncoderOptions
        How it is computed.
    weights : dict, optional
        Where the weights came from; recorded in `facts`.

    Raises
    ------
    EncoderError
        If the model takes no RGB pictures, or device or precision do not go.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        options: EncoderOptions = DEFAULT_OPTIONS,
        *,
        weights: dict[str, str] | None = None,
    ) -> None:
        super().__init__(name, options)
        transform, steps = preprocessing(model)
        self._input_size = tuple(transform["input_size"])
        if self._input_size[0] != 3:
            raise EncoderError(
                f"{name} takes {self._input_size[0]} channels; only models of RGB are served."
            )
        self.preprocessing = Preprocessing(steps, self._input_size)
        config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        self.space = {
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
        self.facts = {
            "weights": weights or {"source": "object"},
            "parameters": sum(p.numel() for p in model.parameters()),
            "num_classes": int(getattr(model, "num_classes", 0) or 0),
            "tag": config.get("tag") or None,
            "versions": {"timm": timm.__version__, "torch": torch.__version__},
            "compute": {
                **self.facts["compute"],
                "memory_format": str(self._memory_format).removeprefix("torch."),
            },
        }
        self._copies = DeviceCopies(name, self.preprocessing, self._device, self._memory_format)
        self._model = model.eval().to(self._device)
        if self._memory_format is torch.channels_last:
            self._model = self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]


def is_convnet(model: nn.Module) -> bool:
    """Return whether `model` convolves more than once: transformers only cut patches so."""
    spatial = (
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size > (1, 1)
    )
    return sum(1 for _ in spatial) > 1


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
    known = [*POOLS, f"{LAYER}<name of a module>"]
    raise EncoderError(
        unknown_name("pool", pool, known, where=f"for {encoder}")
        + " Without a pool, the embedding is the input of the head."
    )


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
        parts = "layers: " + ", ".join(_layer_names(model))
        known = [module for module in modules if module]
        raise EncoderError(
            unknown_name("module", name, known, where=f"in {encoder}", listed_by=parts)
        )
    return modules[name]


def _layer_names(model: nn.Module) -> Iterator[str]:
    """Yield the parts of a model; of a part that is a list its first and its last."""
    for name, child in model.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)) and len(child) > 1:
            yield f"{name}.0 to {name}.{len(child) - 1}"
        else:
            yield name


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
        raise EncoderError(
            f"the {source} is {shape}, which is neither a vector, nor tokens, nor a map a picture"
        )
    # Tokens (class, distillation, registers) that stand before the patches.
    own = int(getattr(model, "cls_token", None) is not None)
    prefix = int(getattr(model, "num_prefix_tokens", own))
    if output.ndim != 3 and pool.startswith("cls"):
        raise EncoderError("it has no class token: its features are no sequence of tokens")
    if output.ndim == 2:
        if pool == "patch_mean":
            raise EncoderError("its features have no patches: they are one vector a picture")
        return Pool(source, lambda out: out)
    if output.ndim == 4:
        axes = _spatial_axes(model, tuple(output.shape), input_size)
        layout = "NHWC" if axes == (1, 2) else "NCHW"
        return Pool(f"{source}, mean over positions ({layout})", lambda out: out.mean(axes))
    if pool.startswith("cls") and (prefix == 0 or getattr(model, "cls_token", None) is None):
        raise EncoderError("it has no class token: use patch_mean, or leave the pool out")
    # A layer before the class token is put in front, or after it is taken off, has none to skip.
    skip = prefix if output.shape[1] == tokens else 0
    if output.shape[1] <= skip and pool != "cls":
        raise EncoderError(
            f"its {output.shape[1]} tokens are all prefix tokens: it has no patches to average"
        )
    mean = f"mean of tokens {skip} and up"
    if pool == "cls":
        return Pool(f"{source}, token 0 (class)", lambda out: out[:, 0])
    if pool == "cls+patch_mean":
        return Pool(
            f"{source}, token 0 (class) then {mean}",
            lambda out: torch.cat([out[:, 0], out[:, skip:].mean(1)], dim=1),
        )
    return Pool(f"{source}, {mean}", lambda out: out[:, skip:].mean(1))


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
        raise EncoderError(
            f"no two axes of a map of shape {shape} are height and width of a {height}×{width}"
        )
    return fits[-1] if "NHWC" in str(getattr(model, "output_fmt", "NCHW")) else fits[0]


class PooledTimmEncoder(TimmImages):
    """A timm model up to a layer of the user's choice.

    No head belongs to these vectors: each pool is a space of its own.

    Parameters
    ----------
    name, model, options, weights
        As for `TimmImages`, with a pool: ``cls``: the class token of ``forward_features``, that
        is after the model's last normalisation, if it has one before its pooling.
        ``patch_mean``: the mean of the patch tokens or map positions there. ``cls+patch_mean``:
        both, in this order.
        ``layer:<module>``: the output of that module; tokens (without those before the patches,
        where the sequence has them) and map positions are averaged.

    Raises
    ------
    EncoderError
        If the model has no such layer or token.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        options: EncoderOptions,
        *,
        weights: dict[str, str] | None = None,
    ) -> None:
        pool = str(options.pool)
        check_pool_name(pool, name)
        super().__init__(name, model, options, weights=weights)
        self._choose(pool)

    def beside(self, pool: str) -> PooledTimmEncoder:
        """Return the encoder of another layer of the same model, which shares its passes.

        Raises
        ------
        EncoderError
            If the model has no such layer.
        """
        other = copy.copy(self)
        other.space, other.facts = copy.deepcopy(self.space), copy.deepcopy(self.facts)
        other._choose(pool)
        return other

    def _choose(self, pool: str) -> None:
        """Take this pool, by what it gives of one blank picture."""
        name, model = self.name, self._model
        self.pool = pool
        self._layer = find_layer(model, pool, name) if pool.startswith(LAYER) else None
        if self._layer is None and not hasattr(model, "forward_features"):
            raise EncoderError(
                f"{name} has no forward_features, so only {LAYER}<name> can be asked of it."
            )
        pixels = self._copies.to_device([np.zeros(self._input_size, np.float32)])
        with self._running(exact=True):
            (output,) = self._outputs([self], pixels)
            tokens = output
            if self._layer is not None and hasattr(model, "forward_features"):
                tokens = model.forward_features(pixels)  # type: ignore[operator]
        length = tokens.shape[1] if isinstance(tokens, torch.Tensor) and tokens.ndim == 3 else None
        try:
            self._pool = make_pool(pool, model, output, tokens=length, input_size=self._input_size)
        except EncoderError as err:
            raise EncoderError(f"{name} cannot be pooled by {pool!r}: {err}.") from err
        with torch.inference_mode():
            self.dim = int(self._pool.reduce(output).shape[1])
        self.space["layer"] = self._pool.rule

    @property
    def pass_key(self) -> tuple[object, ...]:
        """What encoders must share to be served by one pass: the model, and how it computes."""
        return id(self._model), self.precision

    def _computed(self, batch: Sequence[np.ndarray], *, exact: bool) -> np.ndarray:
        return self.encode_layers([self], batch, exact=exact)

    def encode_layers(
        self,
        encoders: Sequence[PooledTimmEncoder],
        batch: Sequence[np.ndarray],
        *,
        exact: bool = False,
    ) -> np.ndarray:
        """Return the float32 vectors of several encoders of this model, by one pass, side by side.

        Raises
        ------
        EncoderError
            If a layer is not run once a picture, or gives another shape than of a blank one.
        """
        found = []
        pixels = self._copies.to_device(batch)
        # Reduced and sent to the host within the turn: the next batch is not queued before it.
        with self._running(exact=exact):
            outputs = self._outputs(encoders, pixels)
            for encoder, output in zip(encoders, outputs, strict=True):
                # Averaged in float32, whatever the layer was computed in.
                with torch.autocast(self._device.type, enabled=False):
                    vectors = encoder._pool.reduce(output.float())
                if vectors.shape != (len(batch), encoder.dim):
                    raise EncoderError(
                        f"{self.name} gave vectors of shape {tuple(vectors.shape)} for "
                        f"{len(batch)} pictures by pool {encoder.pool!r}; expected "
                        f"({len(batch)}, {encoder.dim})."
                    )
                found.append(HostCopy(vectors))
        return np.hstack([vectors.numpy() for vectors in found])

    def _outputs(self, encoders: Sequence[PooledTimmEncoder], pixels: torch.Tensor) -> list[Any]:
        """Return what the layer of each encoder, or ``forward_features``, gives."""
        model: Any = self._model
        layers = [encoder._layer for encoder in encoders if encoder._layer is not None]
        if not layers:
            return [model.forward_features(pixels)]
        caught: list[list[Any]] = [[] for _ in layers]

        def catch(own: list[Any], _layer: nn.Module, _inputs: Any, output: Any) -> None:
            own.append(output)

        hooks = [
            layer.register_forward_hook(partial(catch, own))
            for layer, own in zip(layers, caught, strict=True)
        ]
        try:
            model(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        for encoder, own in zip(encoders, caught, strict=True):
            if len(own) != 1:
                raise EncoderError(
                    f"{self.name} runs {encoder.pool.removeprefix(LAYER)} {len(own)} times a "
                    "picture, so it has no single output. Name another layer, or one of "
                    f"{', '.join(POOLS)}."
                )
        return [own[0] for own in caught]


#: max |W f + b - logits| that `check_head` allows, as a share of max |logits|.
HEAD_TOLERANCE = 1e-4


class TimmEncoder(TimmImages):
    """A timm model up to its last linear layer.

    The embedding f is the input of that layer, caught by a hook: with its weight W and bias b,
    ``W f + b`` are the model's logits, whatever the model does before (`check_head`).

    Parameters
    ----------
    name, model, options, weights
        As for `TimmImages`.

    Raises
    ------
    EncoderError
        If the model has no head that these features could be checked against.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        options: EncoderOptions = DEFAULT_OPTIONS,
        *,
        weights: dict[str, str] | None = None,
    ) -> None:
        self._layer_name, self._layer = last_linear(model, name)
        super().__init__(name, model, options, weights=weights)
        self.dim = int(self._layer.weight.shape[1])
        self.space["layer"] = "input of classifier"
        self.facts["classifier"] = self._layer_name

    def _computed(self, batch: Sequence[np.ndarray], *, exact: bool) -> np.ndarray:
        return self._forward(batch, exact=exact)[0].numpy()

    def check_head(self, batch: Sequence[np.ndarray]) -> float:
        """Check on prepared pictures that ``W f + b`` equals the model's logits, in float32.

        What is asked is where the model's head is: rounding to fewer bits would only blur it.

        Returns
        -------
        float
            max |W f + b - logits| / max |logits|, at most 1e-4.

        Raises
        ------
        EncoderError
            If they differ by more, or there is nothing to compare.
        """
        caught, output = self._forward(batch, exact=True)
        features, logits = caught.numpy(), HostCopy(output).numpy()
        weight, bias = self.head_arrays()
        # In float64, so that what is seen is the model's error and not ours.
        made = features.astype(np.float64) @ weight.T.astype(np.float64)
        made += 0.0 if bias is None else bias
        scale = float(np.abs(logits).max(initial=0.0))
        if made.shape != logits.shape or scale == 0.0:
            raise EncoderError(
                f"The head of {self.name} cannot be checked: the model gave logits of shape "
                f"{logits.shape} for a head of shape {weight.shape}, the largest being "
                f"{scale:g}. Use trained weights."
            )
        error = float(np.abs(made - logits).max()) / scale
        if not error <= HEAD_TOLERANCE:
            raise EncoderError(
                f"{self.name}: W f + b differs from the model's logits by {error:.2g} of their "
                f"maximum (allowed {HEAD_TOLERANCE:g}), so the rows of '{self._layer_name}' are "
                "not prototypes in the space of these features. Use another model."
            )
        return error

    def head_arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the head's (c, d) weight and (c,) bias as float32; None if it has no bias."""
        with self._running(exact=True):
            weight, bias = (
                None if one is None else one.detach().cpu().float().numpy().copy()
                for one in (self._layer.weight, self._layer.bias)
            )
        assert weight is not None
        return weight.reshape(len(weight), -1), bias

    def _forward(
        self, batch: Sequence[np.ndarray], *, exact: bool
    ) -> tuple[HostCopy, torch.Tensor]:
        """Return the (b, d) input of the model's head, on its way, and the (b, c) output."""
        caught: list[torch.Tensor] = []

        def catch(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            caught.append(inputs[0])

        pixels = self._copies.to_device(batch)
        with self._running(exact=exact):
            hook = self._layer.register_forward_pre_hook(catch)
            try:
                logits = self._model(pixels)
            finally:
                hook.remove()
            shapes = [tuple(tensor.shape) for tensor in caught]
            if len(caught) != 1 or caught[0].numel() != len(batch) * self.dim:
                raise EncoderError(
                    f"{self.name} runs its classifier on inputs of shapes {shapes}, expected one "
                    f"of ({len(batch)}, {self.dim}): it pools after the classifier, so an image "
                    "has no single feature vector. Use another model."
                )
            features = HostCopy(caught[0].reshape(len(batch), self.dim))
        return features, logits


def open_timm(name: str, options: EncoderOptions) -> TimmEncoder | PooledTimmEncoder:
    """Build the encoder ``timm:<model>`` with weights from a package, a file or the hub.

    Without a pool it is the input of the model's last linear layer (`TimmEncoder`); with one,
    the model needs no head (`PooledTimmEncoder`).

    Raises
    ------
    UnknownEncoderError
        If timm has no such model.
    EncoderError
        If the weights do not come or do not fit, the model has no usable head, or no such pool.
    """
    model_name = name.partition(":")[2]
    check_timm_name(model_name)
    source = parse_weights(options.weights, encoder=name)
    checked_precision(options.precision, checked_device(options.device))
    if options.pool is not None:
        check_pool_name(options.pool, name)
    model = build_timm(model_name, source, headless=options.pool is not None)
    facts = source.facts()
    if source.kind == "hub":
        facts["repository"] = str(getattr(model, "pretrained_cfg", {}).get("hf_hub_id", ""))
    sort = TimmEncoder if options.pool is None else PooledTimmEncoder
    return sort(name, model, options, weights=facts)
