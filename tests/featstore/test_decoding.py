"""Decoding processes: whatever one image does to its decoder, the others are what Pillow says."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featstore.decoding import Decoded, DecodePool, Feed, Ring, Run, Settings, WorkerProcess
from featstore.errors import DecoderStartError
from featstore.images import FORMATS, Geometry, ImageError, decode_image
from featstore.sources.reader import ByteReader
from tests.featstore.nasty_images import NASTY, encoded, noise

HERE = "tests.featstore.test_decoding"

#: Decodes, unless the file says what to do instead.
DECODER = f"{HERE}:decode_or_misbehave"


def file_of(number: int, size=(32, 24)) -> bytes:
    """A picture that is told from every other by its colour."""
    return encoded(Image.new("RGB", size, (number, 255 - number, 7)))


def decode_or_misbehave(data, **options):
    """What the worker runs here: the real decoder, but for images that say what to do."""
    if data == b"segfault":
        ctypes.string_at(0)
    if data == b"exit":
        os._exit(3)
    if data == b"hang":
        ctypes.PyDLL(None).sleep(600)  # C code that does not return, and lets no thread run
    if data == b"print":
        print("this goes to nobody", flush=True)
        os.write(1, b"nor this")
        return decode_image(file_of(9), **options)
    if data == b"bug":
        raise KeyError("a bug\nin the decoder")
    if data == b"memory":
        raise MemoryError
    return decode_image(data, **options)


SMALL, WIDE = Geometry((6,), (4, 4), "BICUBIC"), Geometry((5, 9), (5, 7), "BILINEAR")
BAD = {
    b"segfault": r"the decoder crashed \(SIGSEGV\)",
    b"exit": r"the decoder crashed \(exit status 3\)",
    b"hang": r"the decoder took longer than 2 s",
    b"memory": "not enough memory",
}


#: Seconds that a picture may take: enough for a good one on a machine that is busy.
LIMIT = 2.0


def png(number: int) -> bytes:
    return encoded(Image.fromarray(noise(8, 11, seed=number)))


class Names:
    """A reader that other processes can have: the name of an item says what its file is."""

    def read(self, item: Mapping[str, Any]) -> bytes:
        name = str(item["name"])
        if name == "missing":
            msg = "No such item."
            raise OSError(msg)
        if name.startswith("slow"):
            time.sleep(LIMIT + 0.5)
            assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
            name = name.removeprefix("slow")
        return png(int(name)) if name.isdecimal() else name.encode()


class SlowToImport(Geometry):
    """A geometry whose first picture in a process takes longer than the pool's limit."""

    @functools.cache  # noqa: B019 -- of one geometry
    def start(self) -> None:
        time.sleep(LIMIT + 0.5)

    def data(self, image: Image.Image) -> bytes:
        self.start()
        return super().data(image)


class Kept(Names):
    """A reader that cannot leave its process, as of an address, and notes that it did not."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0

    def read(self, item: Mapping[str, Any]) -> bytes:
        with self.lock:
            self.count += 1
        return super().read(item)


@contextmanager
def having(feed: Feed, **options: Any) -> Iterator[tuple[DecodePool, Ring]]:
    """A pool of one process, and its ring."""
    with DecodePool(1, **{"timeout": LIMIT, "decoder": DECODER, **options}) as pool:
        ring = Ring(pool.memory, 3, 8, [SMALL.shape, WIDE.shape])
        pool.take_runs(feed, ring)
        yield pool, ring


@pytest.fixture
def both():
    with having(Feed(Names(), (SMALL, WIDE))) as made:
        yield made


def run_of(ring: Ring, names: list[str]) -> Run:
    return Run(ring.take(), ("name",), [(name,) for name in names])


def check(ring: Ring, run: Run, decoded: Decoded) -> None:
    small, wide = ring.rows(run.slot, len(run.items))
    for place, (name,) in enumerate(run.items):
        if name.isdecimal():
            image = decode_image(png(int(name)))
            np.testing.assert_array_equal(small[place], SMALL.pixels(image))
            np.testing.assert_array_equal(wide[place], WIDE.pixels(image))
            assert place not in decoded.failures


@pytest.mark.parametrize(
    ("bad", "place"), [(b"segfault", 3), (b"exit", 0), (b"exit", 6), (b"hang", 4), (b"memory", 3)]
)
def test_a_bad_picture_costs_itself_and_no_other(both, bad, place):
    pool, ring = both
    names = [str(number) for number in range(7)]
    names[place] = bad.decode()
    run = run_of(ring, names)
    decoded = pool.submit_run(run).result(timeout=60)
    check(ring, run, decoded)
    assert list(decoded.failures) == [place]
    assert re.search(BAD[bad], decoded.failures[place])


def test_several_bad_pictures_and_the_runs_after_them(both):
    pool, ring = both
    runs = [
        run_of(ring, ["exit", "1", "missing", "segfault", "2", "exit"]),
        run_of(ring, ["3", "4"]),
        run_of(ring, ["no picture"]),
    ]
    futures = [pool.submit_run(run) for run in runs]
    found = [future.result(timeout=60) for future in futures]
    for run, decoded in zip(runs, found, strict=True):
        check(ring, run, decoded)
    assert [sorted(decoded.failures) for decoded in found] == [[0, 2, 3, 5], [], [0]]
    assert found[0].failures[2] == "No such item."


def test_a_stall_of_the_storage_costs_no_picture(both):
    """Of an image that is read slowly and hangs, the time in its decoder counts."""
    pool, ring = both
    run = Run(ring.take(), ("name",), [("slow1",), ("2",), ("hang",)])
    decoded = pool.submit_run(run).result(timeout=60)
    named = [(name.removeprefix("slow"),) for (name,) in run.items]
    check(ring, replace(run, items=named), decoded)
    assert list(decoded.failures) == [2]
    assert re.search(BAD[b"hang"], decoded.failures[2])


def test_a_reader_that_cannot_travel_reads_here():
    reader = Kept()
    with having(Feed(reader, (SMALL, WIDE))) as (pool, ring):
        run = run_of(ring, ["1", "missing", "exit", "2"])
        decoded = pool.submit_run(run).result(timeout=60)
    check(ring, run, decoded)
    assert sorted(decoded.failures) == [1, 2]
    assert reader.count == 4  # of what is done again nothing is read again


def test_what_a_geometry_imports_is_no_picture_s_time(monkeypatch):
    feed = Feed(Names(), (SMALL, SlowToImport((5, 9), (5, 7), "BILINEAR")))
    with having(feed) as (pool, ring):
        run = run_of(ring, ["1", "2"])
        check(ring, run, pool.submit_run(run).result(timeout=60))
    # But where it never starts, the job ends.
    monkeypatch.setattr("featstore.decoding.START_TIMEOUT", 1.5)
    with (
        having(feed) as (pool, ring),
        pytest.raises(DecoderStartError, match=r"took longer than 1\.5 s"),
    ):
        pool.submit_run(run_of(ring, ["1"])).result(timeout=60)


def test_files_are_read_and_their_hashes_compared_in_the_process(tmp_path):
    from featstore.identity import sha256_hex

    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    digests = [sha256_hex(png(number)) for number in (0, 9, 2)]
    items = [(f"{number}.png", digest) for number, digest in enumerate(digests)]
    feed = Feed(ByteReader(tmp_path), (SMALL, WIDE))
    with having(feed) as (pool, ring):
        run = Run(ring.take(), ("uri", "content_sha256"), [*items, ("gone.png", None)])
        decoded = pool.submit_run(run).result(timeout=60)
    assert sorted(decoded.failures) == [1, 3]
    assert "content hash changed" in decoded.failures[1]
    assert "No such file" in decoded.failures[3]


def test_the_process_runs_one_thread(both):
    pool, ring = both
    pool.submit_run(run_of(ring, ["1", "2"])).result(timeout=60)
    (process,) = pool._processes
    assert process._process is not None
    child = Path("/proc") / str(process._process.pid)
    assert len([*(child / "task").iterdir()]) == 1
    environment = (child / "environ").read_bytes().split(b"\0")
    assert {b"OMP_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1"} <= set(environment)


def test_closing_ends_a_run_at_once_and_is_final():
    with having(Feed(Names(), (SMALL, WIDE)), timeout=60) as (pool, ring):
        hanging, waiting = (pool.submit_run(run_of(ring, names)) for names in (["hang"], ["1"]))
        while (process := pool._processes[0]._process) is None:
            time.sleep(0.01)  # it is closed long before the time limit
    for future in (hanging, waiting):
        with pytest.raises(CancelledError):
            future.result(timeout=1)
    assert process.returncode is not None
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(b"")


# ---- Pictures that come back whole --------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    with DecodePool(2, timeout=LIMIT, decoder=DECODER) as made:
        yield made


@pytest.mark.parametrize(
    ("bad", "reason"), [(b"hang", BAD[b"hang"]), (b"bug", r"KeyError: 'a bug\\nin the decoder'")]
)
def test_a_bad_image_costs_itself_and_no_other(whole, bad, reason):
    futures = [whole.submit(data) for data in (file_of(1), bad, file_of(2), bad, file_of(3))]
    for number in (3, 1):
        with pytest.raises(ImageError, match=reason) as caught:
            futures.pop(number).result(timeout=60)
        assert "\n" not in str(caught.value)
    for number, future in enumerate(futures, 1):
        assert future.result(timeout=60).getpixel((31, 23)) == (number, 255 - number, 7)


def test_what_a_decoder_prints_does_not_mix_with_pictures(whole):
    futures = [whole.submit(data) for data in (b"print", file_of(1), b"print", file_of(2))]
    assert [f.result(timeout=60).getpixel((0, 0))[0] for f in futures] == [9, 1, 9, 2]


def test_a_decoder_that_cannot_be_imported_is_an_error_of_the_job_not_of_the_image():
    match = r"did not start: it crashed \(exit status 1\)"
    with (
        DecodePool(1, decoder="no.such.module:decode") as pool,
        pytest.raises(RuntimeError, match=match),
    ):
        pool.submit(file_of(1)).result(timeout=60)


def test_a_worker_without_its_pool_ends():
    """The pool's end of the pipe is closed, as when the job is killed."""
    worker = WorkerProcess(Settings("featstore.images:decode_image", {"max_pixels": 100}, 5))
    worker._start()
    process = worker._process
    assert process is not None
    worker._pipe.close()
    assert process.wait(timeout=60) == 0
    worker.close()


def test_an_interpreter_that_cannot_be_run_is_no_fault_of_the_image(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with DecodePool(1) as pool, pytest.raises(DecoderStartError, match="-s timeout=0"):
        pool.submit(b"").result()


# ---- Pictures that harm decoders, and pictures that a GPU decodes --------------------------------


@pytest.fixture(scope="module")
def pools():
    with DecodePool(2) as usual, DecodePool(1, formats=["TIFF"]) as tiff:
        yield {None: usual, ("TIFF",): tiff}


@pytest.mark.parametrize("name", NASTY)
def test_each_nasty_file_has_its_outcome(name, pools):
    nasty = NASTY[name]
    future = pools[nasty.formats].submit(nasty.data)
    if nasty.reason is not None:
        with pytest.raises(ImageError, match=nasty.reason) as here:
            decode_image(nasty.data, formats=nasty.formats or FORMATS)
        with pytest.raises(ImageError) as there:
            future.result(timeout=60)
        assert str(here.value) == str(there.value)
        assert not re.search(r"\n|0x[0-9a-f]{6}", str(here.value))
        return
    image = decode_image(nasty.data, formats=nasty.formats or FORMATS)
    assert (image.mode, image.size) == ("RGB", nasty.size)
    for place, colour in nasty.pixels.items():
        assert np.abs(np.subtract(image.getpixel(place), colour)).max() <= nasty.within, place
    other = future.result(timeout=60)
    np.testing.assert_array_equal(np.asarray(other), np.asarray(image))
    assert other.info == {}
