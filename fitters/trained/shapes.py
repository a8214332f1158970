"""The arrays of every architecture, in letters: a saved aligner is checked without torch."""

from __future__ import annotations

Shapes = dict[str, tuple[str, ...]]

#: k: columns in, d: columns out, h: hidden width. PyTorch's convention: weight is (out, in).
HEADS: dict[str, Shapes] = {
    "linear": {"project.weight": ("d", "k"), "project.bias": ("d",)},
    "paper": {
        "up.weight": ("h", "k"),
        "up.bias": ("h",),
        "down.weight": ("d", "h"),
        "down.bias": ("d",),
        "norm.weight": ("d",),
        "norm.bias": ("d",),
    },
    "residual": {
        "project.weight": ("d", "k"),
        "down.weight": ("h", "k"),
        "up.weight": ("d", "h"),
        "gate": ("1",),
    },
    "sail": {
        "norm.weight": ("k",),
        "norm.bias": ("k",),
        "gate.weight": ("h", "k"),
        "gate.bias": ("h",),
        "value.weight": ("h", "k"),
        "value.bias": ("h",),
        "project.weight": ("d", "h"),
        "project.bias": ("d",),
    },
    "freeze_align": {
        "project.weight": ("d", "k"),
        "project.bias": ("d",),
        "mix.weight": ("d", "d"),
        "mix.bias": ("d",),
        "norm.weight": ("d",),
        "norm.bias": ("d",),
    },
    "freeze_align_image": {
        "project.weight": ("d", "k"),
        "project.bias": ("d",),
        "up.weight": ("d", "k"),
        "up.bias": ("d",),
        "down.weight": ("d", "d"),
        "down.bias": ("d",),
    },
    "autoencoder": {
        "encode.0.weight": ("h", "k"),
        "encode.0.bias": ("h",),
        "decode.0.weight": ("k", "h"),
        "decode.0.bias": ("k",),
    },
}
"""By the architecture's name; `architectures` builds modules with exactly these parameters."""

ARCHITECTURES = ("linear", "paper", "residual", "sail", "freeze_align")
"""What a user may ask for."""


def head_name(architecture: str, side: str) -> str:
    """Return the key of `HEADS`: freeze_align's two sides differ."""
    return "freeze_align_image" if (architecture, side) == ("freeze_align", "x") else architecture


def attribute(part: str, parameter: str) -> str:
    """Return the estimator's attribute that holds a parameter of a part."""
    return f"{part}_{parameter.replace('.', '_')}_"


def array_letters(
    part: str, name: str, *, k: str, d: str, h: str, bias: bool = True
) -> dict[str, tuple[str, ...]]:
    """Return attribute → shape, with the letters of one part put in."""
    letters = {"k": k, "d": d, "h": h, "1": "1"}
    return {
        attribute(part, parameter): tuple(letters[letter] for letter in shape)
        for parameter, shape in HEADS[name].items()
        if bias or parameter != "project.bias"
    }
