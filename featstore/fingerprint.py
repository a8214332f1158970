"""Hashes of what a space is made of: the tensors of a model and the files of a tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featstore.keys import canonical_json


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
    contents = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    return hashlib.sha256(canonical_json(contents)).hexdigest()


def _plain(tensor: Any) -> tuple[str, list[int], memoryview]:
    """Return the name of the dtype, the shape and the bytes of an array or a torch tensor."""
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
