"""Peers: what other formats and readers need for the same rows.

Peers are slow, so both sides read a part: the first PART rows in order, and GATHERED random ones
of them. zarr-python, tensorstore and zarrs read the very array that we read; the others are given
the same rows in their own format. All are warm, and each is asked in the fastest way that its
documentation names. What a peer returns is compared with ours before it is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tests.perf.engine import Figure, compare, not_measured
from tests.perf.sample import BLOCK, DIM, Sample

PART = 25 * BLOCK
GATHERED = 512


class Peer(NamedTuple):
    """A reader of the first PART rows.

    ``run(start, stop, buffer)`` fills the buffer with consecutive rows; ``gather(rows)`` returns
    rows in the order asked for.
    """

    run: Callable[[int, int, np.ndarray], object]
    gather: Callable[[np.ndarray], np.ndarray]


def figures(sample: Sample) -> Iterator[Figure]:
    """Yield two lines a peer; a peer that cannot be had says why."""
    yield batches_figure(sample)
    rows = sample.plain()[:PART].copy()
    for name, open_peer in PEERS.items():
        names = f"store.scan/{name}", f"store.gather/{name}"
        try:
            peer = open_peer(sample, rows)
            yield scan_figure(names[0], sample, peer, rows)
            yield gather_figure(names[1], sample, peer, rows)
        except Exception as err:  # whatever a peer raises, the others are still measured
            why = f"not measured: {type(err).__name__}: {str(err)[:100]}"
            yield from (not_measured(line, why) for line in names)


def batches_figure(sample: Sample) -> Figure:
    """Compare an epoch of shuffled batches with annbatch, or with what it does.

    annbatch reads runs of rows that lie at random places, some of them together, and shuffles
    their rows in memory: an approximate shuffle of few reads, where ours is an exact one. It needs
    Python 3.12; before that zarr-python does the same here. Runs are as long as the blocks, and
    eight are shuffled together.
    """
    import zarr

    view, array, together = sample.view(), zarr.open_array(str(sample.array), mode="r"), 8

    def ours() -> None:
        for _ in view.batches(BLOCK, shuffle=np.random.default_rng(0)):
            pass

    def plain() -> None:
        rng = np.random.default_rng(0)
        starts = rng.permutation(np.arange(0, len(view), BLOCK)).tolist()
        for first in range(0, len(starts), together):
            runs = starts[first : first + together]
            rows = np.concatenate([array[start : start + BLOCK] for start in runs])
            order = rng.permutation(len(rows))
            for start in range(0, len(rows), BLOCK):
                _ = rows[order[start : start + BLOCK]]

    try:
        from annbatch import Loader
    except ImportError:
        against = "zarr-python, shuffled in windows as annbatch does, which needs Python 3.12"
        return compare("store.batches/chunks", ours, plain, against=against, pairs=6)

    def annbatch() -> None:
        loader = Loader(
            chunk_size=BLOCK, preload_nchunks=together, batch_size=BLOCK, shuffle=True,
            rng=np.random.default_rng(0), preload_to_gpu=False,
        )  # fmt: skip
        for _ in loader.add_dataset(array):
            pass

    return compare("store.batches/chunks", ours, annbatch, against="annbatch", pairs=6)


def scan_figure(name: str, sample: Sample, peer: Peer, rows: np.ndarray) -> Figure:
    """Compare reading PART rows in order."""
    view = sample.view().take(np.arange(PART))
    buffer = np.empty((BLOCK, DIM), np.float16)

    def ours() -> None:
        for _ in view.batches(BLOCK, reuse=True):
            pass

    def theirs() -> None:
        for start in range(0, PART, BLOCK):
            peer.run(start, start + BLOCK, buffer)

    theirs()
    np.testing.assert_array_equal(buffer, rows[-BLOCK:])
    return compare(name, ours, theirs, against=f"first {PART:,} rows, {BLOCK:,} at a time")


def gather_figure(name: str, sample: Sample, peer: Peer, rows: np.ndarray) -> Figure:
    """Compare reading GATHERED random ones of PART rows."""
    view = sample.view()
    chosen = np.random.default_rng(0).permutation(PART)[:GATHERED]
    np.testing.assert_array_equal(peer.gather(chosen), rows[chosen])
    return compare(
        name,
        lambda: view.source.read(chosen),
        lambda: peer.gather(chosen),
        against=f"{GATHERED} random rows of the first {PART:,}",
    )


def _hdf5(sample: Sample, rows: np.ndarray, chunks: tuple[int, int] | None) -> Peer:
    import h5py

    path = sample.root / f"{'chunked' if chunks else 'contiguous'}.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=rows, chunks=chunks)
    array = h5py.File(path, "r")["x"]

    def gather(chosen: np.ndarray) -> np.ndarray:
        order = np.argsort(chosen)  # it takes ascending rows only
        out = np.empty((len(chosen), DIM), np.float16)
        out[order] = array[chosen[order]]
        return out

    return Peer(lambda a, b, out: array.read_direct(out, np.s_[a:b]), gather)


def _zarr(sample: Sample, pipeline: str | None = None) -> Peer:
    import zarr

    if pipeline is None:
        array: Any = zarr.open_array(str(sample.array), mode="r")
    else:
        # An array takes the pipeline that is configured when it is opened.
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            array = zarr.open_array(str(sample.array), mode="r")
    return Peer(
        lambda a, b, out: np.copyto(out, array[a:b]), lambda chosen: array.oindex[chosen, :]
    )


def _zarr_python(sample: Sample, _: np.ndarray) -> Peer:
    return _zarr(sample)


def _zarrs(sample: Sample, _: np.ndarray) -> Peer:
    import zarrs

    return _zarr(sample, f"{zarrs.__name__}.ZarrsCodecPipeline")


def _tensorstore(sample: Sample, _: np.ndarray) -> Peer:
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{sample.array}/"}}
    array = tensorstore.open(spec, read=True).result()
    return Peer(
        lambda a, b, out: np.copyto(out, array[a:b].read().result()),
        lambda chosen: array[chosen].read().result(),
    )


def _lance(sample: Sample, rows: np.ndarray) -> Peer:
    import lance
    import pyarrow as pa

    path = str(sample.root / "rows.lance")
    dataset = lance.write_dataset(_arrow(rows, pa), path)

    def values(column: Any) -> np.ndarray:
        flat = column.combine_chunks().flatten()
        return flat.to_numpy(zero_copy_only=False).reshape(-1, DIM)

    def run(start: int, stop: int, out: np.ndarray) -> None:
        table = dataset.to_table(offset=start, limit=stop - start)
        np.copyto(out, values(table["x"]))

    return Peer(run, lambda chosen: values(dataset.take(chosen)["x"]))


def _hf_datasets(sample: Sample, rows: np.ndarray) -> Peer:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HOME", str(sample.root / "hf"))
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    path = str(sample.root / "rows.hf")
    datasets.Dataset(_arrow(rows, pa)).save_to_disk(path)
    dataset = datasets.load_from_disk(path).with_format("numpy")
    return Peer(
        lambda a, b, out: np.copyto(out, dataset[a:b]["x"]), lambda chosen: dataset[chosen]["x"]
    )


def _arrow(rows: np.ndarray, pa: Any) -> Any:
    values = pa.array(rows.reshape(-1))
    return pa.table({"x": pa.FixedSizeListArray.from_arrays(values, DIM)})


PEERS: dict[str, Callable[[Sample, np.ndarray], Peer]] = {
    "h5py-contiguous": lambda sample, rows: _hdf5(sample, rows, None),
    "h5py-chunked": lambda sample, rows: _hdf5(sample, rows, (BLOCK, DIM)),
    "zarr-python": _zarr_python,
    "tensorstore": _tensorstore,
    "zarrs": _zarrs,
    "lance": _lance,
    "hf-datasets": _hf_datasets,
}
