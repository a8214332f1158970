"""Decoding processes: whatever one image does to its decoder, the others are decoded."""

import ctypes
import io
import os
import signal
import time
from concurrent.futures import CancelledError

import pytest
from PIL import Image

from featstore.decoding.pool import DecodePool, WorkerProcess
from featstore.errors import DecoderStartError
from featstore.images import ImageError, decode_image

HERE = "tests.featstore.decoding.test_pool"


def file_of(number: int, size=(32, 24)) -> bytes:
    """A picture that is told from every other by its colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number, 255 - number, 7)).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_or_misbehave(data, **options):
    """What the worker runs here: the real decoder, but for images that say what to do."""
    if data == b"segfault":
        ctypes.string_at(0)
    if data == b"exit":
        os._exit(3)
    if data == b"hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))  # as C code that never returns
        while True:
            time.sleep(60)
    if data == b"print":
        print("this goes to nobody", flush=True)
        os.write(1, b"nor this")
        return decode_image(file_of(9), **options)
    if data == b"bug":
        raise KeyError("a bug\nin the decoder")
    if data == b"memory":
        raise MemoryError
    return decode_image(data, **options)


@pytest.fixture(scope="module")
def pool():
    with DecodePool(2, timeout=2.0, decoder=f"{HERE}:decode_or_misbehave") as made:
        yield made


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"segfault", r"Cannot decode the image: the decoder crashed \(SIGSEGV\)\."),
        (b"hang", r"Cannot decode the image: the decoder took longer than 2 s\."),
        (b"bug", r"KeyError: 'a bug\\nin the decoder'"),
    ],
)
def test_a_bad_image_costs_itself_and_no_other(pool, bad, reason):
    files = [file_of(number) for number in range(12)]
    futures = [pool.submit(data) for data in (*files[:4], bad, *files[4:8], bad, *files[8:])]
    for number in (4, 9):
        with pytest.raises(ImageError, match=reason) as caught:
            futures.pop(number - (number == 9)).result(timeout=60)
        assert "\n" not in str(caught.value)
    for number, future in enumerate(futures):
        assert future.result(timeout=60).getpixel((31, 23)) == (number, 255 - number, 7)


def test_what_a_decoder_prints_does_not_mix_with_pictures(pool):
    futures = [pool.submit(data) for data in (b"print", file_of(1), b"print", file_of(2))]
    assert [f.result(timeout=60).getpixel((0, 0))[0] for f in futures] == [9, 1, 9, 2]


def test_closing_cancels_what_waits_ends_the_processes_and_is_final():
    pool = DecodePool(1, timeout=0.5, decoder=f"{HERE}:decode_or_misbehave")
    assert pool.submit(file_of(1)).result(timeout=60)
    process = pool._processes[0]._process
    futures = [pool.submit(b"hang"), *[pool.submit(file_of(2)) for _ in range(5)]]
    while not futures[0].running():
        time.sleep(0.01)
    pool.close()
    pool.close()
    with pytest.raises(ImageError, match="longer than"):
        futures[0].result()
    for future in futures[1:]:
        with pytest.raises(CancelledError):
            future.result()
    assert process.returncode is not None
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(b"")


def test_a_decoder_that_cannot_be_imported_is_an_error_of_the_job_not_of_the_image():
    match = r"did not start: it crashed \(exit status 1\)"
    with (
        DecodePool(1, decoder="no.such.module:decode") as pool,
        pytest.raises(RuntimeError, match=match),
    ):
        pool.submit(file_of(1)).result(timeout=60)


def test_a_worker_without_its_pool_ends():
    """The pool's end of the pipe is closed, as when the job is killed."""
    worker = WorkerProcess("featstore.images:decode_image", {"max_pixels": 100}, 5)
    process = worker._running()
    worker._pipe.close()
    assert process.wait(timeout=60) == 0
    worker.close()


def test_an_interpreter_that_cannot_be_run_is_no_fault_of_the_image(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with DecodePool(1) as pool, pytest.raises(DecoderStartError, match="-s timeout=0"):
        pool.submit(b"").result()
