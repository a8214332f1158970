"""Small datasets in every shape that is read, with pictures told apart by their colour."""

from __future__ import annotations

import io
import tarfile

import pytest
from PIL import Image


def picture(number: int, fmt: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (number, 255 - number, 7)).save(buffer, format=fmt)
    return buffer.getvalue()


def write(root, files: dict[str, bytes | str]):
    """Write files below a folder and return it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def write_tar(path, members, *, fmt=tarfile.PAX_FORMAT):
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


@pytest.fixture
def make(tmp_path):
    """Make the manifest of a location in a new folder."""
    from featstore.sources.making import make_manifest

    count = iter(range(99))

    def call(source, location, *, name="zoo", **options):
        out = tmp_path / f"made{next(count)}"
        return make_manifest(source, location, out, name=name, options=options)

    return call
