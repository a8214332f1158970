"""Hashes of weights and files, and durable writes: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore.durable import write_durably, write_output
from featstore.errors import StoreWriteError
from featstore.identity import files_sha256, weights_sha256

DTYPES = st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.uint8, np.bool_])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
STATES = st.dictionaries(st.text(min_size=1, max_size=6), ARRAYS, max_size=5)


def test_the_hash_is_that_of_the_documented_bytes():
    weight = np.array([[1.0, -2.0], [0.5, 3.0]], dtype="<f4")
    steps = np.array(7, dtype="<i8")
    expected = hashlib.sha256(
        b'["bn.steps","int64",[]]\n' + steps.tobytes()
        + b'["fc.weight","float32",[2,2]]\n' + weight.tobytes()
    ).hexdigest()  # fmt: skip
    assert weights_sha256({"fc.weight": weight, "bn.steps": steps}) == expected


@given(STATES)
def test_order_memory_layout_and_library_change_nothing(state):
    import torch

    reordered = {name: np.array(state[name], order="F") for name in reversed(list(state))}
    assert weights_sha256(reordered) == weights_sha256(state)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    assert weights_sha256(tensors) == weights_sha256(state)


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.zeros(4, np.float32), "c": np.ones(2, np.float32)},
        {"a": np.zeros((2, 2), np.float32), "b": np.ones(2, np.float32)},
        {"a": np.zeros(4, np.int32), "b": np.ones(2, np.float32)},
        {"a": np.array([0, 0, 0, -0.0], np.float32), "b": np.ones(2, np.float32)},
        {"a": np.zeros(4, np.float32), "b": np.nextafter(np.ones(2, np.float32), 2)},
        {"a": np.zeros(4, np.float32)},
        {"a": np.zeros(4, np.float32), "b": np.ones(2, np.float32), "c": np.zeros(0)},
    ],
    ids=["name", "shape", "dtype", "sign of zero", "last bit", "fewer", "an empty one more"],
)
def test_any_difference_changes_the_hash(other):
    state = {"a": np.zeros(4, np.float32), "b": np.ones(2, np.float32)}
    assert weights_sha256(other) != weights_sha256(state)


def test_tensors_that_numpy_does_not_know():
    import torch

    values = torch.tensor([1.0, 2.5, -3.0], dtype=torch.bfloat16)
    bits = values.view(torch.int16).numpy().tobytes()
    expected = hashlib.sha256(b'["a","bfloat16",[3]]\n' + bits).hexdigest()
    assert weights_sha256({"a": values}) == expected
    # Non-contiguous and requiring a gradient, as parameters are.
    wide = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
    assert weights_sha256({"a": wide}) == weights_sha256({"a": wide.detach().numpy().copy()})


def test_files_are_hashed_by_name_and_content(tmp_path):
    for number, (name, content) in enumerate([("vocab.txt", b"a\nb\n"), ("merges.txt", b"a\nc\n")]):
        file = tmp_path / str(number)
        file.write_bytes(content)
        text = json.dumps({name: hashlib.sha256(content).hexdigest()}, separators=(",", ":"))
        assert files_sha256({name: file}) == hashlib.sha256(text.encode()).hexdigest()


# ---- Durable writes: whole or not at all, and nothing beside them; writeback is only --------


#: Writes a file, and stops itself when half of it is written.
HALF = """
import os, signal, sys
from pathlib import Path
from featstore.durable import write_durably, write_output
from featstore.errors import StoreWriteError

def parts():
    yield b"a" * 100_000
    os.kill(os.getpid(), signal.SIGSTOP)
    yield b"b"

write_durably(Path(sys.argv[1]), parts())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sends signals of POSIX")
def test_what_a_writer_that_lives_has_begun_stays_its_own(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HALF, str(tmp_path / "x")])
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    write_durably(tmp_path / "x", [b"other"])
    assert (tmp_path / "x").read_bytes() == b"other"
    child.send_signal(signal.SIGCONT)
    assert child.wait(60) == 0
    assert (tmp_path / "x").read_bytes() == b"a" * 100_000 + b"b"
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208


@pytest.mark.skipif(sys.platform != "linux", reason="links and pipes of POSIX")
def test_a_link_or_a_pipe_in_the_way_is_neither_followed_nor_waited_for(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"not ours")
    staged = tmp_path / f".x.{'0' * 8}.staged"
    for plant in (lambda: staged.symlink_to(other), lambda: os.mkfifo(staged)):
        plant()
        write_durably(tmp_path / "x", [b"whole"])
        assert (tmp_path / "x").read_bytes() == b"whole"
        staged.unlink(missing_ok=True)
    assert other.read_bytes() == b"not ours"
    for plant in (lambda: staged.symlink_to(other), lambda: os.mkfifo(staged), staged.mkdir):
        plant()
        with pytest.raises(StoreWriteError, match="is no regular file"):
            write_output(staged, [b"a page"])
        assert not staged.is_file() or other.read_bytes() == b"not ours"
        staged.rmdir() if staged.is_dir() else staged.unlink()
