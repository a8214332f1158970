"""Read files by native parsers of others in a process of its own, with limited memory.

HDF5, FAISS and Lance promise nothing of files that were made to harm: a crash, or endless memory,
then ends that process and not this one. Open only what you trust.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from featstore.errors import ManifestError, listed, needs_extra
from featstore.parallel import ONE_THREAD, start_python

#: Address space of the process beside twice what the file may unpack to.
_SPARE = 2**30

#: Reads an array, or the only matrix, of a file that may unpack to so many bytes, with what stands
#: beside it: name -> array; and the names of those that are the bits of bfloat16.
Reader = Callable[[str, "str | None", int], tuple[dict[str, Any], Collection[str]]]


def tensors_apart(
    form: str, source: Path, array: str | None, allowed: int
) -> tuple[dict[str, np.ndarray], set[str]]:
    """Return the arrays of a file by name, and which are the bits of bfloat16.

    Parameters
    ----------
    form : str
        ``h5``, ``faiss`` or ``lance``.
    source : Path
    array : str, optional
        By default ``embedding``, or the only matrix.
    allowed : int
        Bytes that the arrays may have.

    Raises
    ------
    ManifestError
        If the file holds no such array, more bytes, or cannot be read.
    MissingPackageError
        If its library is not installed.
    """
    module, _ = READERS[form]
    with needs_extra(f"Reading {source.name}"):
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    call = "from featstore.interop.apart import main; main()"
    asked = json.dumps([form, str(source), array, allowed])
    with start_python(
        call, asked, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, **ONE_THREAD},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            found = _received(process.stdout, allowed)
        finally:
            process.kill()
    if found is None:
        raise ManifestError(
            f"{source} cannot be read: its reader ended with {process.returncode}. The file is "
            "damaged, or asks for more memory than a file of its size may have."
        )
    return found


def _received(stream: IO[bytes], allowed: int) -> tuple[dict[str, np.ndarray], set[str]] | None:
    """Return what the process sends, or None if it does not send all of it."""
    head = stream.readline(2**20)
    if not head.endswith(b"\n"):
        return None
    said = json.loads(head)
    if "error" in said:
        raise ManifestError(said["error"])
    tensors = {}
    for name, dtype, shape in said["tensors"]:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        small = size <= allowed and np.dtype(dtype).kind in "fiu"
        data = stream.read(size) if small else b""
        if len(data) != size:
            return None  # not what `main` sends, or not all of it
        tensors[name] = np.frombuffer(data, dtype).reshape(shape)
    return tensors, set(said["bits"])


def _read_h5(
    source: str, array: str | None, allowed: int
) -> tuple[dict[str, Any], Collection[str]]:
    import h5py

    with h5py.File(source, "r") as file:
        # External links and virtual sources lead to other files: only plain datasets count.
        tensors = {
            name: file[name]
            for name in file
            if isinstance(file.get(name, getlink=True), h5py.HardLink)
            and isinstance(file[name], h5py.Dataset)
            and not file[name].is_virtual
            and file[name].external is None
        }
        here = {array or only_matrix(tensors, source), "bias", "items_parquet"} & set(tensors)
        for name in here:
            check_dataset(tensors[name], f"{source}: {name}", allowed)
        bits = {name for name in here if _is_bfloat16(tensors[name])}
        return {name: tensors[name][()] for name in here}, bits


def _is_bfloat16(dataset: Any) -> bool:
    """Return whether an HDF5 dataset says that its numbers are the bits of bfloat16."""
    said = dataset.attrs.get("featstore_dtype") if dataset.dtype == np.uint16 else None
    return isinstance(said, str) and said == "bfloat16"


def _read_faiss(source: str, array: str | None, _: int) -> tuple[dict[str, Any], Collection[str]]:
    import faiss

    whole = index = faiss.read_index(source)
    ids = {}
    if isinstance(whole, faiss.IndexIDMap):  # IndexIDMap2 is one
        ids = {"ids": faiss.vector_to_array(whole.id_map)}
        index = faiss.downcast_index(whole.index)  # which is freed with the whole
    if not isinstance(index, faiss.IndexFlat):
        raise ManifestError(
            f"{source} is a {type(index).__name__}, which keeps no rows as they were: only a flat "
            "index does."
        )
    return {array or "embedding": index.reconstruct_n(0, index.ntotal), **ids}, ()


def _read_lance(source: str, array: str | None, _: int) -> tuple[dict[str, Any], Collection[str]]:
    import lance
    import pyarrow.parquet

    dataset = lance.dataset(source)
    names = [own.name for own in dataset.schema
             if own.name == array or not pyarrow.types.is_nested(own.type)]  # fmt: skip
    table = io.BytesIO()
    pyarrow.parquet.write_table(dataset.to_table(columns=names), table)
    return {"table": np.frombuffer(table.getvalue(), np.uint8)}, ()


#: Form -> the module that it needs, and what reads it.
READERS: Mapping[str, tuple[str, Reader]] = {
    "h5": ("h5py", _read_h5), "faiss": ("faiss", _read_faiss), "lance": ("lance", _read_lance),
}  # fmt: skip


def only_matrix(tensors: Mapping[str, Any], source: Path | str) -> str:
    """Return the name of ``embedding``, or of the only matrix.

    Raises
    ------
    ManifestError
        If there are several, or none.
    """
    if "embedding" in tensors:
        return "embedding"
    matrices = [name for name, data in tensors.items() if data.ndim == 2]
    if len(matrices) != 1:
        raise ManifestError(
            f"{source} holds {len(matrices)} matrices ({listed(sorted(matrices))}); say which "
            "with --array."
        )
    return matrices[0]


def check_dataset(dataset: Any, where: str, allowed: int) -> None:
    """Raise ManifestError for a dataset that no row is read of, before any of it is."""
    if dataset.shape is None or dataset.dtype.kind not in "fiu":
        raise ManifestError(f"{where} holds {dataset.dtype} values; rows are a matrix of numbers.")
    if dataset.nbytes > allowed:
        # What is not stored is filled with one value: a few bytes may claim any shape.
        raise ManifestError(
            f"{where} has shape {dataset.shape}: {dataset.nbytes:,} bytes, more than the "
            f"{allowed:,} that a file of this size may unpack to. It was not read."
        )


def main() -> None:
    """Read what the arguments say, and send it: a line of JSON, then the arrays as they are."""
    form, source, array, allowed = json.loads(sys.argv[1])
    module, reader = READERS[form]
    __import__(module)
    _limit_memory(2 * allowed + _SPARE)
    try:
        tensors, bits = reader(source, array, allowed)
        whole = {name: np.ascontiguousarray(data) for name, data in tensors.items()}
        listing = [(name, data.dtype.str, data.shape) for name, data in whole.items()]
        said: dict[str, Any] = {"tensors": listing, "bits": [*bits]}
    except Exception as err:  # these libraries raise anything on a header that lies
        reason = " ".join(str(err).split())[:200].rstrip(".") or type(err).__name__
        known = isinstance(err, ManifestError)
        text = str(err) if known else f"{source} cannot be read as embeddings: {reason}."
        said, whole = {"error": text}, {}
    out = sys.stdout.buffer
    out.write(json.dumps(said).encode() + b"\n")
    for data in whole.values():
        out.write(data.reshape(-1).view(np.uint8).data)
    out.flush()


def _limit_memory(more: int) -> None:
    """Take no more address space than so many bytes beside what is taken, where that is known."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
