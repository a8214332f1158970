"""What a process imports: the help of a command click, a face nothing before it is used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.programs import Programs
from tests.typed import commands

OURS = {"headstock", "featstore", "fitters", "bench", "data_manifests"}

#: Path of a command -> what shows its help.
HELPS = {
    path: f"import sys; sys.argv = {[*path, '--help']}; import headstock.__main__ as h; h.main()"
    for path, _ in commands()
}

#: Libraries that take a second or more to load, or that only one extra brings.
HEAVY = {"torch", "torchvision", "timm", "transformers", "sentence_transformers", "open_clip",
         "ray", "zarr", "h5py", "matplotlib", "jinja2", "datasets", "jaxtyping",
         "beartype"}  # fmt: skip
NUMERIC = {"numpy", "scipy", "sklearn", "polars", "pandas", "pyarrow", "safetensors"}
FACES = ("headstock", "featstore", "featstore.store", "fitters", "bench", "bench.cli")

#: What is done -> what may not be loaded by it.
LOADS = {
    f"import {', '.join(FACES)}": HEAVY | NUMERIC,
    "from featstore import *; from featstore.store import *": HEAVY,
    # scikit-learn imports pandas wherever that is installed.
    "from fitters import *": HEAVY | {"polars", "featstore.store"},
    "import headstock, numpy as n; headstock.fit('ridge', n.eye(9, 4) + 1, n.eye(9, 3) + 1)": (
        HEAVY | {"bench.errors", "bench.runs"}
    ),
    "import fitters.settings; from fitters.methods import METHODS; METHODS.known()": (
        HEAVY | NUMERIC | {"importlib.metadata"}
    ),
    "import featstore.encoders.registry, featstore.images, featstore.identity\n"
    "try: featstore.encoders.registry.check_name('tim:resnet50')\n"
    "except featstore.errors.UnknownEncoderError: pass": HEAVY | {"PIL", "safetensors"},
    "from tempfile import mkdtemp; from featstore.testing import toy_manifest, toy_store; "
    "toy_store(mkdtemp() + '/store'); toy_manifest(mkdtemp() + '/made', 2)": {"torch"},
    "from data_manifests.registry import BUILDERS; "
    "BUILDERS['imagenet1k'].plan().make(None, None)": {"torch", "timm", "featstore"},
}


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    """Programs in processes that have imported nothing but click."""
    with Programs("click") as found:
        yield found


@pytest.mark.parametrize("path", HELPS, ids=" ".join)
def test_a_help_imports_click_and_no_other_library(
    path: tuple[str, ...], programs: Programs
) -> None:
    assert len(HELPS) > 30
    ended = programs.run(HELPS[path])
    assert ended.code == 0, ended.said
    assert ended.said.startswith(f"Usage: {' '.join(path)}")
    loaded = set(ended.modules)
    foreign = {name.partition(".")[0] for name in loaded} - OURS - sys.stdlib_module_names
    assert not foreign - {"click"}
    # What looks through every installed package, and what starts processes.
    assert not loaded & {"importlib.metadata", "multiprocessing", "concurrent.futures", "asyncio"}


@pytest.mark.parametrize("code", LOADS, ids=lambda code: code[:50])
def test_what_is_imported_or_done_loads_no_more_than_it_needs(
    code: str, programs: Programs
) -> None:
    for package, needs in (("PIL", "toy_manifest"), ("timm", "imagenet1k")):
        if needs in code:
            pytest.importorskip(package)
    ended = programs.run(code)
    assert ended.code == 0, ended.said
    assert {*ended.modules} & LOADS[code] == set()


@pytest.mark.parametrize("face", FACES[:-1])
def test_every_public_name_is_there(face: str) -> None:
    module = import_module(face)
    assert dir(module) == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing
