"""The types of what `headstock` takes and returns, for annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import lazily

if TYPE_CHECKING:
    from bench.bridge import Bridge
    from bench.derive import Derived
    from bench.evaluation import RunSettings
    from bench.runs import Run, Source
    from bench.statistics import Estimate as Interval
    from featstore.errors import FeatstoreError as HeadstockError
    from featstore.extraction.options import ExtractResult as Extracted
    from featstore.extraction.options import Progress
    from featstore.manifest import Kind, Manifest
    from featstore.matrices import Rows
    from featstore.store.pairs import EmbeddingsView as View
    from featstore.store.pairs import PairedView
    from featstore.store.store import FeatureStore as Store
    from fitters.adapter import Adapter
    from fitters.methods import Method
    from fitters.pairs import Prototypes
    from fitters.settings import FitConfig, FitSettings

__all__ = [
    "Adapter",
    "Bridge",
    "Derived",
    "Extracted",
    "FitConfig",
    "FitSettings",
    "HeadstockError",
    "Interval",
    "Kind",
    "Manifest",
    "Method",
    "PairedView",
    "Progress",
    "Prototypes",
    "Rows",
    "Run",
    "RunSettings",
    "Source",
    "Store",
    "View",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "bench.bridge": "Bridge",
        "bench.derive": "Derived",
        "bench.evaluation": "RunSettings",
        "bench.runs": "Run Source",
        "bench.statistics": "Interval=Estimate",
        "featstore.errors": "HeadstockError=FeatstoreError",
        "featstore.extraction.options": "Extracted=ExtractResult Progress",
        "featstore.manifest": "Kind Manifest",
        "featstore.matrices": "Rows",
        "featstore.store.pairs": "PairedView View=EmbeddingsView",
        "featstore.store.store": "Store=FeatureStore",
        "fitters.adapter": "Adapter",
        "fitters.methods": "Method",
        "fitters.pairs": "Prototypes",
        "fitters.settings": "FitConfig FitSettings",
    },
)
