"""Small files below a folder: texts, JSON documents, pictures told apart by colour."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image


def picture(number: int, fmt: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number % 256, 255 - number % 256, 7)).save(buffer, format=fmt)
    return buffer.getvalue()


def write(root: Path, files: dict) -> Path:
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
