"""Engines: who runs the blocks of an extraction; every one of them leaves the same store.

The store shares the blocks of a set among writers that each take every world-size-th block (a
part), and a last writer gathers what they have left behind and publishes. So an engine is only
a way to run parts somewhere and, when they are done, the whole job once more.
"""

from __future__ import annotations

from featstore.extraction.engines.devices import extract_on_devices
from featstore.extraction.engines.ranks import extract_rank, local_device, rank_of
from featstore.extraction.engines.ray_engine import extract_on_ray

__all__ = ["extract_on_devices", "extract_on_ray", "extract_rank", "local_device", "rank_of"]
