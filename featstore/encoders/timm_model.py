"""timm models: built with real weights, and taken apart at their last linear layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import timm
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from featstore.encoders.hub import cached_file, hub_error, hub_unreachable
from featstore.encoders.weights import WeightsSource, load_strictly, one_line, read_state_dict
from featstore.errors import EncoderError, UnknownEncoderError, did_you_mean
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
        msg = (
            f"No encoder named 'timm:{model_name}': timm {timm.__version__} has no model "
            f"'{architecture}'.{did_you_mean(architecture, timm.list_models())}"
        )
        raise UnknownEncoderError(msg)
    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in known:
        msg = (
            f"No encoder named 'timm:{model_name}': timm {timm.__version__} knows these tags of "
            f"{architecture}: {', '.join(known) or 'none'}.{did_you_mean(tag, known)}"
        )
        raise UnknownEncoderError(msg)


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
        raise _headless(encoder, config.tag or "")
    if source.kind == "hub":
        return _from_hub(model_name, encoder)
    if source.path is None or source.kind == "folder":
        msg = (
            f"{encoder} needs a file of weights, got a folder. Give the .safetensors or .pth file."
        )
        raise EncoderError(msg)
    model: nn.Module = timm.create_model(model_name, pretrained=False)
    state = read_state_dict(source.path)
    entry = source.package_entry
    if entry is not None and entry.convert is not None:
        state = entry.convert(state, list(model.state_dict()))
    classes = _other_classes(model, state, encoder)
    if classes is not None:
        model = timm.create_model(model_name, pretrained=False, num_classes=classes)
    load_strictly(model, state, what=encoder, source=source.package or f"'{source.path.name}'")
    return model


def _other_classes(model: nn.Module, state: Mapping[str, Any], encoder: str) -> int | None:
    """Return the classes of a state that differs from the model in their number alone, or None.

    That is what fine-tuning on classes of one's own leaves. A number that a published checkpoint
    of the architecture has is left to be refused: its tag has to be named.
    """
    own = model.state_dict()
    if own.keys() != state.keys():
        return None
    differ = {name for name, tensor in own.items() if tensor.shape != state[name].shape}
    try:
        layer = last_linear(model, encoder)[0]
    except EncoderError:
        return None  # no head, or more than one
    weight = f"{layer}.weight"
    if weight not in differ or not differ <= {weight, f"{layer}.bias"}:
        return None
    found, expected = state[weight].shape, own[weight].shape
    # Classes of a published checkpoint: its tag says how its pictures are prepared, too.
    architecture = encoder.partition(":")[2].partition(".")[0]
    published = {
        timm.get_pretrained_cfg(name).num_classes
        for name in timm.list_pretrained(f"{architecture}.*")
    }
    own_classes = found[1:] == expected[1:] and found[0] not in {0, *published}
    return int(found[0]) if own_classes else None


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
        raise _headless(encoder, encoder.partition(".")[2])
    if len(modules) > 1:
        msg = (
            f"{encoder} averages the logits of {len(modules)} heads (distillation), so no single "
            "row is the prototype of a class. Use the model without 'distilled' in its name."
        )
        raise EncoderError(msg)
    layers = [layer for layer in modules[0].modules() if _outputs(layer) == classes]
    if not layers:
        msg = (
            f"{encoder} has a head of kind {type(modules[0]).__name__} without a linear layer of "
            f"{classes:,} outputs. Its features have no class prototypes."
        )
        raise EncoderError(msg)
    layer = layers[-1]
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    name = next(name for name, module in model.named_modules() if module is layer)
    return name, layer


#: Why a checkpoint without head has none, by how its tag begins.
_WHY_HEADLESS = {
    "orig_in21k": "the head that was published with it is not valid",
    "mim_": "it was trained to fill in masked patches, not on classes",
}


def _headless(encoder: str, tag: str) -> EncoderError:
    why = next((f": {why}" for start, why in _WHY_HEADLESS.items() if tag.startswith(start)), "")
    msg = (
        f"{encoder} has no classification head (num_classes is 0){why}, so there are no "
        "prototypes, and its features cannot be checked. Use a checkpoint that was trained on "
        "classes (its tag ends in in1k, in12k, in21k or in22k and does not start with orig or "
        "mim), or ask for another layer with --pool (API: pool=)."
    )
    return EncoderError(msg)


def _outputs(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        return layer.out_channels
    return None


def layer_inputs(layer: nn.Linear | nn.Conv2d) -> int:
    """Return the length d of the vectors that `layer` takes."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def layer_arrays(layer: nn.Linear | nn.Conv2d) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the (c, d) weight and the (c,) bias of `layer` as float32; None if it has none."""
    weight = layer.weight.detach().cpu().float().numpy()
    bias = None if layer.bias is None else layer.bias.detach().cpu().float().numpy().copy()
    return weight.reshape(len(weight), layer_inputs(layer)).copy(), bias


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
