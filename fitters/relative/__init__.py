"""Aligners that describe an image by its relation to known classes or pairs."""

from __future__ import annotations

from fitters.relative.asif import ASIFAligner
from fitters.relative.conse import ConSEAligner

__all__ = ["ASIFAligner", "ConSEAligner"]
