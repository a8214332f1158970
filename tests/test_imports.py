"""What a process imports: the help of a command click, a face nothing before it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import pytest

from tests.typed import commands

OURS = {"headstock", "featstore", "fitters", "bench", "data_manifests"}

#: Says how each of some programs ends, what it says, and the modules that it imports. Each has a
#: process of its own, which has imported nothing but click.
_RUNNER = """
import contextlib, io, json, os, sys
import click
there = set(sys.modules)
for program in json.load(sys.stdin):
    if not (pid := os.fork()):
        out, code = io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                exec(program, {})
            except SystemExit as end:
                code = end.code
            except Exception as err:
                code = repr(err)
        modules = sorted(set(sys.modules) - there)
        print(json.dumps({"code": code, "text": out.getvalue(), "modules": modules}), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""

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
def ran() -> dict[str, dict]:
    programs = [*HELPS.values(), *LOADS]
    done = subprocess.run(
        [sys.executable, "-c", _RUNNER], input=json.dumps(programs), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return dict(zip(programs, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("path", HELPS, ids=" ".join)
def test_a_help_imports_click_and_no_other_library(
    path: tuple[str, ...], ran: dict[str, dict]
) -> None:
    assert len(HELPS) > 30
    found = ran[HELPS[path]]
    assert found["code"] == 0, found["text"]
    assert found["text"].startswith(f"Usage: {' '.join(path)}")
    loaded = set(found["modules"])
    foreign = {name.partition(".")[0] for name in loaded} - OURS - sys.stdlib_module_names
    assert not foreign - {"click"}
    # What looks through every installed package, and what starts processes.
    assert not loaded & {"importlib.metadata", "multiprocessing", "concurrent.futures", "asyncio"}


@pytest.mark.parametrize("code", LOADS, ids=lambda code: code[:50])
def test_what_is_imported_or_done_loads_no_more_than_it_needs(
    code: str, ran: dict[str, dict]
) -> None:
    assert ran[code]["code"] == 0, ran[code]["code"]
    assert {*ran[code]["modules"]} & LOADS[code] == set()


@pytest.mark.parametrize("face", FACES[:-1])
def test_every_public_name_is_there(face: str) -> None:
    module = import_module(face)
    assert dir(module) == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing
