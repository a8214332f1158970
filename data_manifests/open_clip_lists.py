"""open_clip's own lists: its 80 and 7 templates, and its curated names of ImageNet-1k.

They are taken from the installed package and never copied. Only its file of lists is run (it
imports nothing): importing open_clip would load torch.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

from data_manifests.package_lists import package_file
from data_manifests.plan import BuildError

_FILE = "zero_shot_metadata.py"


def openai_templates() -> list[str]:
    """Return CLIP's 80 templates for ImageNet, with ``{}`` for the name.

    Raises
    ------
    BuildError
        If open_clip is not installed, or has no such list.
    """
    return _templates("OPENAI_IMAGENET_TEMPLATES")


def simple_templates() -> list[str]:
    """Return the seven templates that CLIP's authors chose of them; see `openai_templates`."""
    return _templates("SIMPLE_IMAGENET_TEMPLATES")


def imagenet_names() -> list[str]:
    """Return open_clip's names of the 1,000 classes, in the order of heads.

    Raises
    ------
    BuildError
        If open_clip is not installed, or has no such list.
    """
    return [str(name) for name in _list("IMAGENET_CLASSNAMES")]


def _templates(name: str) -> list[str]:
    return [str(make("{}")) for make in _list(name)]


def _list(name: str) -> tuple[Any, ...]:
    held = getattr(_module(), name, None)
    if not isinstance(held, tuple | list) or not held:
        msg = f"The installed open_clip has no {name}. Install open_clip_torch 3 or later."
        raise BuildError(msg)
    return tuple(held)


def _module() -> ModuleType:
    file = package_file("open_clip", _FILE, install="'headstock[extract]'")
    spec = importlib.util.spec_from_file_location("headstock_open_clip_lists", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
