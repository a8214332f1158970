"""Identity: the ids of spaces, sets and revisions, from canonical JSON.

An id is the sha256 of what it identifies, so that two people who extract the same thing
get the same id without talking to each other, and any change of a keyed field changes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

#: Characters of an id that a directory name carries.
SHORT = 8


def canonical_json(value: Any) -> bytes:
    """Return the one byte string that stands for `value`.

    Keys sorted, no white space, UTF-8, no NaN or Infinity; tuples become lists.

    Raises
    ------
    TypeError
        If `value` holds something that JSON does not know.
    ValueError
        If `value` holds NaN or Infinity.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8")


def sha256_hex(data: bytes | memoryview) -> str:
    """Return the sha256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def space_id(space: Mapping[str, Any]) -> str:
    """Return the id of an embedding space from its keyed facts.

    Parameters
    ----------
    space : mapping
        Everything that changes what a coordinate means: family and name, hash of the
        weights, preprocessing, tokenizer, pooling. Nothing that does not: no batch size,
        device or date.
    """
    return sha256_hex(canonical_json({"space": dict(space)}))


def set_id(space: str, *, dataset: str, kind: str, precision: str, dtype: str) -> str:
    """Return the id of a feature set: a space, a dataset and kind, and how it is stored."""
    return sha256_hex(
        canonical_json(
            {
                "space_id": space,
                "dataset": dataset,
                "kind": kind,
                "precision": precision,
                "dtype": dtype,
            }
        )
    )


def encoder_slug(name: str) -> str:
    """Return an encoder's name as it stands in a directory name.

    ``family:name`` becomes ``family.name``; whatever is not a letter, digit, ``.``, ``_``
    or ``-`` becomes ``-``, so that a name is one path component on every system.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name.replace(":", ".")).strip(".-")
    return slug[:80] or "encoder"


def encoder_directory(name: str, set_identity: str) -> str:
    """Return the readable directory name of a set: the encoder, then 8 digits of the set_id."""
    return f"{encoder_slug(name)}-{set_identity[:SHORT]}"
