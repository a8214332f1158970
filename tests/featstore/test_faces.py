"""The public faces: what they export is there, and costs nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import featstore
import featstore.store

FACES = {"featstore": featstore, "featstore.store": featstore.store}


def modules_after(code):
    probe = f"{code}\nimport sys\nprint(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", FACES)
def test_importing_a_face_loads_nothing_heavy(name):
    assert not modules_after(f"import {name}") & {"numpy", "polars", "zarr", "torch", "click"}


@pytest.mark.parametrize("name", FACES)
def test_no_name_of_a_face_imports_torch(name):
    names = ", ".join(FACES[name].__all__)
    loaded = modules_after(f"from {name} import {names}")
    assert not loaded & {"torch", "timm", "transformers", "open_clip", "zarr", "h5py", "ray"}


@pytest.mark.parametrize("face", FACES.values(), ids=FACES)
def test_every_public_name_is_there(face):
    for name in face.__all__:
        assert getattr(face, name) is not None
    assert dir(face) == sorted(face.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = face.nothing
