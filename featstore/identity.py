"""Identity of sets: canonical JSON, set and space ids, and fingerprints of what a store holds.

An id is the sha256 of what it identifies, so that two people who extract the same thing
get the same id without talking to each other, and any change of a keyed field changes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featstore.errors import needs_extra

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
    return _CANONICAL.encode(value).encode("utf-8")


#: Made once: making an encoder takes longer than a small document.
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def sha256_hex(data: bytes | memoryview) -> str:
    """Return the sha256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _blake3() -> Any:
    with needs_extra("A store whose blocks are hashed by blake3"):
        from blake3 import blake3
    return blake3()


SHA256 = "sha256"

#: Hashes that the blocks of a store may have, each of 64 hexadecimal digits: name -> what begins
#: one. Ids and small files have sha256 always.
HASHES: dict[str, Callable[[], Any]] = {SHA256: hashlib.sha256, "blake3": _blake3}


def hash_hex(name: str, data: bytes | memoryview) -> str:
    """Return the hash of `data` by one of `HASHES` as 64 hexadecimal digits.

    Raises
    ------
    MissingPackageError
        If the package of this hash is not installed.
    """
    digest = HASHES[name]()
    digest.update(data)
    return str(digest.hexdigest())


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return `document` with ``digest``, the sha256 of the canonical JSON of all else in it."""
    kept = {name: value for name, value in document.items() if name != "digest"}
    return {**kept, "digest": sha256_hex(canonical_json(kept))}


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


def weights_sha256(state: Mapping[str, Any]) -> str:
    """Return the hash of a model's tensors.

    The tensors are taken in the order of their names, each as the canonical JSON of
    ``[name, dtype, shape]``, a newline, and its little-endian bytes in C order. The order of
    the mapping, the device and the memory layout change nothing; a renamed tensor, another
    dtype, shape or a single bit does.

    Parameters
    ----------
    state : mapping of str to array or torch.Tensor
        For instance the state dict of a loaded model.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(state):
        dtype, shape, data = _plain(state[name])
        digest.update(canonical_json([name, dtype, shape]))
        digest.update(b"\n")
        digest.update(data)
    return digest.hexdigest()


def files_sha256(files: Mapping[str, Path]) -> str:
    """Return the hash of files by name and content; where they lie changes nothing.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    import hashlib

    contents = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    return hashlib.sha256(canonical_json(contents)).hexdigest()


def _plain(tensor: Any) -> tuple[str, list[int], memoryview]:
    """Return the name of the dtype, the shape and the bytes of an array or a torch tensor."""
    import numpy as np

    shape = [int(n) for n in tensor.shape]
    if hasattr(tensor, "detach"):
        import torch  # a tensor is here, so torch is loaded already

        dtype = str(tensor.dtype).removeprefix("torch.")
        # As bytes, because NumPy has no name for bfloat16 and the 8-bit floats.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        raw: np.ndarray = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    else:
        array = np.ascontiguousarray(tensor)
        dtype = array.dtype.name
        raw = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
    return dtype, shape, raw.data
