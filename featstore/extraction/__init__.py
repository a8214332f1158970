"""Extraction: from items and a frozen encoder to a finished set of the store."""

from __future__ import annotations

from featstore.extraction.heads import extract_head
from featstore.extraction.job import extract, extract_many
from featstore.extraction.options import EncoderSpec, ExtractConfig, HeadConfig
from featstore.extraction.progress import BlockDone, ExtractResult, Progress

__all__ = [
    "BlockDone",
    "EncoderSpec",
    "ExtractConfig",
    "ExtractResult",
    "HeadConfig",
    "Progress",
    "extract",
    "extract_head",
    "extract_many",
]
