"""Image encoders of timm, and their heads: rows, bias, and the names of the classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from featstore.encoders.base import DEFAULT_OPTIONS, EncoderOptions, Head, golden_inputs
from featstore.encoders.runtime import HostCopy, checked_device, checked_precision
from featstore.encoders.timm_model import (
    LAYER,
    POOLS,
    TimmImages,
    build_timm,
    check_pool_name,
    check_timm_name,
    find_layer,
    last_linear,
    layer_arrays,
    make_pool,
)
from featstore.encoders.weights import PACKAGES, parse_weights
from featstore.errors import EncoderError


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
        if pool.startswith(LAYER):
            find_layer(model, pool, name)
        super().__init__(name, model, options, weights=weights)
        #: What prepares and runs batches: encoders that share it take the same prepared pictures.
        self.trunk = object()
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
        return id(self.trunk), self.precision

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
        pixels = self._copies.to_device(batch, self._pixels_in(exact=exact))
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
            return layer_arrays(self._layer)

    def _forward(
        self, batch: Sequence[np.ndarray], *, exact: bool
    ) -> tuple[HostCopy, torch.Tensor]:
        """Return the (b, d) input of the model's head, on its way, and the (b, c) output."""
        caught: list[torch.Tensor] = []

        def catch(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            caught.append(inputs[0])

        pixels = self._copies.to_device(batch, self._pixels_in(exact=exact))
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


#: Label sets of image heads, with their number of classes: no two of them share a count.
LABEL_SETS: dict[str, int] = {
    "imagenet1k": 1_000,
    "imagenet12k": 11_821,
    "imagenet21k_goog": 21_843,
    "imagenet21k_miil": 11_221,
    "imagenet21k_miil_w21": 10_450,
    "imagenet22k": 21_841,
    "imagenet22k_ms": 21_842,
    "inat21": 10_000,
}

#: What a part of timm's tags says of the classes; the count tells apart what one name covers.
_DATASETS: dict[str, tuple[str, ...]] = {
    "in1k": ("imagenet1k",),
    "in12k": ("imagenet12k",),
    "in21k": ("imagenet21k_goog", "imagenet21k_miil", "imagenet21k_miil_w21"),
    "in22k": ("imagenet22k", "imagenet22k_ms"),
    "inat21": ("inat21",),
}

#: Checkpoints with outputs that are no known classes, by tag or by how the tag begins: known to
#: be unknown. Image-text models project onto a shared space there.
NO_LABEL_SET: dict[str, str] = {
    "fb_inw21k": "19,168 classes of ImageNet's winter 2021 release, whose order timm does not ship",
    "bamboo": "115,217 classes of the Bamboo data set, whose names timm does not ship",
    "fb_dino": "outputs of a model that was trained without labels",
}


def label_set_of_tag(tag: str, classes: int) -> str | None:
    """Return the label set that a checkpoint was last trained on.

    Parameters
    ----------
    tag : str
        Of a timm checkpoint: ``augreg_in21k``, ``fb_in22k_ft_in1k``. The last data set counts.
    classes : int
        Number of rows of its head.

    Returns
    -------
    str or None
        None if the tag names no data set whose label set has that many classes.

    Examples
    --------
    >>> label_set_of_tag("fb_in22k_ft_in1k_384", 1000)
    'imagenet1k'
    >>> label_set_of_tag("miil_in21k", 11_221)
    'imagenet21k_miil'
    """
    last = next((part for part in reversed(tag.split("_")) if part in _DATASETS), None)
    named = _DATASETS.get(last or "", ())
    return next((name for name in named if LABEL_SETS[name] == classes), None)


#: Basis of a label set that is only a guess: it has to be checked against class names.
GUESSED = "number of classes"


def read_head(
    name: str,
    *,
    weights: str | Path | None = None,
    label_set: str | None = None,
    device: str = "cpu",
    pool: str | None = None,
) -> Head:
    """Return the head of ``timm:<model>``: weight, bias, label set and the space it lives in.

    That ``W f + b`` equals the model's logits is checked on the golden pictures first.

    Parameters
    ----------
    name : str
        As for ``open_encoder``; the head's `space` is that encoder's `space`.
    weights : str, Path or None
        As for ``open_encoder``.
    label_set : str, optional
        Which classes the rows are. By default as the weights package says, by the tag of the
        checkpoint, or by their number; ``facts["label_set_basis"]`` says which of these.
    device : str
        Where the check is computed.
    pool : str, optional
        Only to say that a pool has no head.

    Raises
    ------
    UnknownEncoderError
        If there is no such encoder.
    EncoderError
        If it has no head, its rows do not make its logits, or the number of its classes is that
        of no known label set.
    """
    from featstore.encoders.registry import check_name, open_encoder

    if check_name(name) != "timm":
        raise EncoderError(f"{name} has no classification head: heads belong to timm models.")
    if pool is not None:
        raise EncoderError(
            f"The head of {name} does not live in the space of pool {pool!r}: its rows are "
            "prototypes only among the inputs of the head. Leave the pool out."
        )
    encoder: TimmEncoder = open_encoder(name, weights=weights, device=device)  # type: ignore[assignment]
    head = head_of(encoder, label_set=label_set)
    encoder.check_head([encoder.prepare(item) for item in golden_inputs(encoder.kinds)])
    return head


def head_of(encoder: TimmEncoder, *, label_set: str | None = None) -> Head:
    """Return the head of an encoder that is open already; parameters as for `read_head`.

    Raises
    ------
    EncoderError
        If the number of its classes is that of no known label set.
    """
    weight, bias = encoder.head_arrays()
    chosen, basis = _label_set(encoder, len(weight), label_set)
    return Head(
        name=encoder.name,
        weight=weight,
        bias=np.zeros(len(weight), np.float32) if bias is None else bias,
        label_set=chosen,
        space=encoder.space,
        facts={**encoder.facts, "has_bias": bias is not None, "label_set_basis": basis},
    )


def _label_set(encoder: TimmEncoder, classes: int, requested: str | None) -> tuple[str, str]:
    """Return the label set of a head, and what that is based on."""
    if requested is not None:
        return requested, "asked for"
    package = PACKAGES.get(encoder.facts["weights"].get("package", ""))
    if package is not None and package.label_set is not None:
        return package.label_set, "weights package"
    # A tag is knowledge of the published weights, or of what the user named with it.
    tag = encoder.facts["tag"] or ""
    tagged = "." in encoder.name or encoder.facts["weights"]["source"] == "hub"
    if tagged and (known := label_set_of_tag(tag, classes)):
        return known, "tag of the checkpoint"
    reason = NO_LABEL_SET.get(tag) if tagged else None
    # No two known sets have as many: a guess, not knowledge.
    guess = next((name for name, count in LABEL_SETS.items() if count == classes), None)
    if guess is None or reason:
        counts = ", ".join(f"{count:,} ({name})" for name, count in LABEL_SETS.items())
        why = reason or f"the number of no known label set. Known: {counts}"
        raise EncoderError(
            f"The head of {encoder.name} has {classes:,} classes, {why}. Say which classes its "
            "rows are with -s label_set= (API: label_set=), or list them in a file in "
            "place of MANIFEST (API: label_file=)."
        )
    return guess, GUESSED
