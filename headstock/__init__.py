"""Headstock by one name: ``import headstock as hs``.

Names do the work: open a store or write one from arrays, extract, fit an alignment, evaluate
methods beside their controls, register a thing of one's own. What belongs to them is in
`headstock.types`, the methods by name and scorers for scikit-learn in `fitters`. Names are looked
up when they are first used: importing this loads neither torch, nor NumPy, nor plotting.

The packages have names that a script of yours may have too. They are imported here from the folder
that this file is installed in, so that a ``bench.py`` in the working folder does no harm, in this
process or in its workers.
"""

import os
import sys

# ``python -m headstock`` put the working folder first. It is no code, unless this file lies in it.
_IS_PROGRAM = sys.argv[0] == "-m" and sys.orig_argv[-len(sys.argv)].endswith("headstock")
if _IS_PROGRAM and not sys.flags.safe_path and not __file__.startswith(sys.path[0] + os.sep):
    del sys.path[0]

from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.bridge import bridge
    from bench.derive import derive
    from bench.evaluated import Results
    from bench.evaluation import evaluate
    from bench.statistics import compare
    from featstore.arrays import write
    from featstore.encoders.registry import encode
    from featstore.extraction.job import extract
    from featstore.plugins import register
    from featstore.store.store import open_store
    from fitters.alignment import Alignment, load
    from fitters.jobs import fit
    from fitters.pairs import Pairs
    from headstock import types

    __version__: str

__all__ = [
    "Alignment",
    "Pairs",
    "Results",
    "__version__",
    "bridge",
    "compare",
    "derive",
    "encode",
    "evaluate",
    "extract",
    "fit",
    "load",
    "open_store",
    "register",
    "types",
    "write",
]


def import_siblings() -> None:
    """Import the packages of this distribution from its own folder, whatever `sys.path` has first.

    Raises
    ------
    ImportError
        If a module of one of their names is imported already, and is another's.
    """
    here = Path(__file__).resolve().parents[1]
    for name in ("data_manifests", "featstore", "fitters", "bench"):
        if name not in sys.modules:
            spec = PathFinder.find_spec(name, [str(here)])
            assert spec is not None
            assert spec.loader is not None
            sys.modules[name] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or Path(file).resolve().parents[1] != here:
            raise ImportError(
                f"A module {name!r} that is not Headstock's is imported already ({file}). Import "
                "headstock before it, or rename it: one process has one module of a name."
            )


import_siblings()


_named, __dir__ = import_module("featstore.errors").lazily(
    __name__,
    {
        "bench.bridge": "bridge",
        "bench.derive": "derive",
        "bench.evaluated": "Results",
        "bench.evaluation": "evaluate",
        "bench.statistics": "compare",
        "featstore": "__version__",
        "featstore.arrays": "write",
        "featstore.encoders.registry": "encode",
        "featstore.extraction.job": "extract",
        "featstore.plugins": "register",
        "featstore.store.store": "open_store",
        "fitters.alignment": "Alignment load",
        "fitters.jobs": "fit",
        "fitters.pairs": "Pairs",
    },
)


if not TYPE_CHECKING:  # or a type checker would take any name for one of them

    def __getattr__(name: str) -> Any:
        return import_module("headstock.types") if name == "types" else _named(name)
