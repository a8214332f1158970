"""Small files below a folder or in a tar: texts, JSON documents, pictures told apart by colour."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def picture(number: int, fmt: str = "PNG") -> bytes:
    """Return the file of a small picture, one of 256."""
    from PIL import Image  # in no minimal environment

    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number % 256, 255 - number % 256, 7)).save(buffer, format=fmt)
    return buffer.getvalue()


def write(root: Path, files: dict[str, Any]) -> Path:
    """Write texts, bytes, JSON documents (dict or list) and pictures (int) below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            content = picture(content, "PNG" if name.endswith(".png") else "JPEG")
        elif isinstance(content, dict | list):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def write_tar(path: Path, members: Iterable[Any], *, fmt: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar of (name, bytes) or TarInfo members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=fmt) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
