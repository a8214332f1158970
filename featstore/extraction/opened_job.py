"""A job whose items, encoders and options are there and fit."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from featstore.extraction.options import Options
from featstore.extraction.targets import Target
from featstore.images import FORMATS, WITH_TIFF
from featstore.manifest import Manifest


@dataclass(frozen=True)
class Job:
    """Items, encoders and options, opened and checked; nothing is written yet."""

    source: Manifest
    dataset: str
    kind: str
    items: pl.DataFrame = field(repr=False)
    store: Path
    options: Options
    targets: list[Target]
    threads: int | None

    @property
    def workers(self) -> int:
        """Threads, or processes, that decode."""
        return self.options.workers or os.cpu_count() or 1

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats of images that are decoded, by Pillow's names."""
        return WITH_TIFF if self.options.tiff else FORMATS

    @property
    def thumbnails(self) -> bool:
        """Whether pictures are kept."""
        return self.options.thumbnails and self.kind == "image"

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, as the provenance records it."""
        return {
            "dataset": self.dataset,
            "kind": self.kind,
            "encoders": [target.choice.as_dict() for target in self.targets],
            **self.options.as_dict(),
        }
