"""Encoders: models that map images or texts to vectors, opened by name.

Importing this package loads no torch; an encoder's libraries are loaded when it is opened.
"""

from __future__ import annotations

from featstore.encoders.base import IMAGE_KINDS, TEXT_KINDS, Encoder, Head
from featstore.encoders.class_head import head_of, read_head
from featstore.encoders.golden import GoldenCosine, golden_cosine, golden_inputs, golden_vectors
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.encoders.registry import FAMILIES, check_name, open_encoder

__all__ = [
    "FAMILIES",
    "IMAGE_KINDS",
    "TEXT_KINDS",
    "Encoder",
    "GoldenCosine",
    "Head",
    "ObjectEncoder",
    "check_name",
    "golden_cosine",
    "golden_inputs",
    "golden_vectors",
    "head_of",
    "open_encoder",
    "read_head",
]
