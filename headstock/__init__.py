"""Headstock by one name: ``import headstock as hs``.

The names of the three packages that most scripts need: open a store or write one from arrays, fit
an alignment, score it beside its controls, register a method of one's own. Everything else is in
`featstore`, `fitters` and `bench`. Names are looked up when they are first used: importing this
loads neither torch, nor NumPy, nor plotting.

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
    from bench.evaluated import Results
    from bench.evaluation import evaluate, fit
    from bench.runs import Run
    from featstore.arrays import write
    from featstore.errors import FeatstoreError
    from featstore.extraction.job import extract
    from featstore.plugins import register
    from featstore.store.pairs import EmbeddingsView, PairedView
    from featstore.store.store import FeatureStore, open_store
    from fitters.alignment import Alignment
    from fitters.methods import METHODS
    from fitters.pairs import Pairs
    from fitters.saved import read_alignment, save_alignment
    from fitters.select.ranking import scoring
    from fitters.settings import FitConfig

    __version__: str

_HOME = {
    "Alignment": "fitters.alignment",
    "EmbeddingsView": "featstore.store.pairs",
    "FeatstoreError": "featstore.errors",
    "FeatureStore": "featstore.store.store",
    "FitConfig": "fitters.settings",
    "METHODS": "fitters.methods",
    "PairedView": "featstore.store.pairs",
    "Pairs": "fitters.pairs",
    "Results": "bench.evaluated",
    "Run": "bench.runs",
    "__version__": "featstore",
    "evaluate": "bench.evaluation",
    "extract": "featstore.extraction.job",
    "fit": "bench.evaluation",
    "open_store": "featstore.store.store",
    "register": "featstore.plugins",
    "read_alignment": "fitters.saved",
    "save_alignment": "fitters.saved",
    "scoring": "fitters.select.ranking",
    "write": "featstore.arrays",
}

__all__ = [
    "METHODS",
    "Alignment",
    "EmbeddingsView",
    "FeatstoreError",
    "FeatureStore",
    "FitConfig",
    "PairedView",
    "Pairs",
    "Results",
    "Run",
    "__version__",
    "evaluate",
    "extract",
    "fit",
    "open_store",
    "read_alignment",
    "register",
    "save_alignment",
    "scoring",
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


if not TYPE_CHECKING:  # or a type checker would take any name for one of them

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'headstock' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
