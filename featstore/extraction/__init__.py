"""Extraction: from items and a frozen encoder to a finished set of the store."""

from __future__ import annotations

from featstore.extraction.events import BlockDone, ExtractResult
from featstore.extraction.heads import extract_head
from featstore.extraction.job import extract

__all__ = ["BlockDone", "ExtractResult", "extract", "extract_head"]
