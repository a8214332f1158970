"""Files of rows from a stranger: refused in a sentence, with little memory, nothing else read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ROWS = np.full((2, 2), 7, np.float32)

#: Imports a list of files, each with an address space of its own, and says how each ended.
_RUNNER = """
import json, os, resource, signal, sys, traceback
from headstock.__main__ import cli
from featstore import interop as files  # before the limit of memory counts
from featstore.command_line import run_command
import h5py, safetensors
for source, items, store in json.load(sys.stdin):
    said = os.open("said", os.O_CREAT | os.O_TRUNC | os.O_RDWR)
    pid = os.fork()
    if pid == 0:
        os.dup2(said, 1), os.dup2(said, 2)
        signal.alarm(60)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
        code = 70
        try:
            code = run_command(cli, "headstock", ["import", source, "--store", store,
            *items,
                "--dataset", "d", "--kind", "image", "--encoder", "x:y"])
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    status = os.waitpid(pid, 0)[1]
    text = os.pread(said, 10000, 0).decode()
    print(json.dumps({"code": os.waitstatus_to_exitcode(status), "said": text}), flush=True)
"""


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 2), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "embedding", (2, 2))
    file.create_virtual_dataset("embedding", layout)


def _dataset(*args: Any, **options: Any) -> Callable[[h5py.File], Any]:
    return lambda file: file.create_dataset("embedding", *args, **options)


def _held(**values: Any) -> Callable[[h5py.File], None]:
    def fill(file: h5py.File) -> None:
        for name, value in values.items():
            file[name] = value

    return fill


def _loop(file: h5py.File) -> None:
    file["embedding"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/embedding")


def _many(file: h5py.File) -> None:
    for number in range(1000):
        file[f"m{number}"] = ROWS


def _marks(file: h5py.File) -> None:
    marks = file.create_dataset("embedding", (2, 2), "u2").attrs
    marks.create("featstore_dtype", ["bfloat16"] * 1000, dtype=h5py.string_dtype())


def _bomb(file: h5py.File) -> None:
    shape = (1000, 60_000)
    file.create_dataset("embedding", data=np.ones(shape, "f4"), chunks=shape, compression="gzip")


#: What an HDF5 file holds -> what is said.
HDF5: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "external link": (_held(embedding=h5py.ExternalLink("secret.h5", "embedding")), "0 matrices"),
    "loop of links": (_loop, "0 matrices"),
    "virtual": (_virtual, "0 matrices"),
    "other file": (_dataset((2, 2), "f4", external=[("secret.h5", 0, 16)]), "0 matrices"),
    "a type": (_held(embedding=np.dtype("f4")), "0 matrices"),
    "endless": (_dataset((10**9, 1000), "f4"), "4,000,000,000,000 bytes, more than the"),
    "endless chunks": (
        _dataset((10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip"),
        "more than the",
    ),
    "bomb": (_bomb, "(1000, 60000): 240,000,000 bytes, more than the"),
    "endless bias": (
        lambda file: (_held(embedding=ROWS)(file), file.create_dataset("bias", (10**11,), "f4")),
        "bias has shape (100000000000,)",
    ),
    "compound": (_dataset((2, 2), [("a", "f4")]), "holds [('a', '<f4')] values"),
    "lists": (_dataset((2, 2), h5py.vlen_dtype("f4")), "holds object values"),
    "references": (_dataset((2, 2), h5py.ref_dtype), "holds object values"),
    "nothing": (_held(embedding=h5py.Empty("f4")), "rows are a matrix"),
    "no columns": (_dataset((2, 0), "f4"), "rows are a matrix"),
    "marks": (_marks, "rows are a matrix"),
    "many": (_many, "'m0', 'm1', 'm10', 'm100', 'm101' and 995 more"),
}


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(-(len(header) + 11) % 64 + len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def _shape(text: str, dtype: str = "'<f4'") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {text}}}"


def _safetensors(data: bytes = b"", n: int | None = None, **tensors: Any) -> bytes:
    header = json.dumps(tensors).encode()
    return (len(header) if n is None else n).to_bytes(8, "little") + header + data


def _tensor(shape: list[int], first: int, last: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [first, last]}


#: Name of a file -> its bytes, and what is said.
OTHERS: dict[str, tuple[bytes, str]] = {
    "endless.npy": (_npy(_shape("(1000000000, 1000)")), "cannot be read as embeddings"),
    "negative.npy": (_npy(_shape("(-1, 4)"), bytes(64)), "cannot be read as embeddings"),
    "overflow.npy": (_npy(_shape("(4294967296, 4294967296)")), "cannot be read as embeddings"),
    "hollow.npy": (_npy(_shape("(1099511627776, 0)")), "rows are a matrix"),
    "pickle.npy": (_npy(_shape("(2, 2)", "'|O'"), b"\x80\x04]."), "Python objects in dtype."),
    "code.npy": (_npy(_shape("(2, 2)", "__import__('os').mkdir('ran')")), "malformed node"),
    "deep.npy": (_npy("(" * 900 + ")" * 900), "cannot be read as embeddings"),
    "cut.h5": (b"\x89HDF\r\n\x1a\n" + bytes(500), "cannot be read as embeddings"),
    "endless.safetensors": (
        _safetensors(bytes(16), embedding=_tensor([10**9, 1000], 0, 16)),
        "cannot be read as embeddings",
    ),
    "header.safetensors": (_safetensors(n=2**62), "cannot be read as embeddings"),
    "hollow.safetensors": (
        _safetensors(embedding=_tensor([2**50, 0], 0, 0)), "rows are a matrix",
    ),
    "overlap.safetensors": (
        _safetensors(bytes(16), a=_tensor([2, 2], 0, 16), b=_tensor([2, 2], 0, 16)),
        "cannot be read as embeddings",
    ),
}  # fmt: skip


def _missing_filter(path: Path) -> None:
    """Write rows behind a filter that nobody has: gzip's, under another number."""
    with h5py.File(path, "w") as file:
        file.create_dataset("embedding", data=ROWS, chunks=(2, 2), compression="gzip")
    data = path.read_bytes()
    at = data.index(b"deflate\0") - 8
    path.write_bytes(data[:at] + (32_099).to_bytes(2, "little") + data[at + 2 :])


def test_every_file_is_answered_with_a_sentence(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["embedding"] = ROWS
    (tmp_path / "items.csv").write_text("item_id\na\nb\n")
    expected: dict[str, str] = {}
    for number, (fill, said) in enumerate(HDF5.values()):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            fill(file)
        expected[f"{number}.h5"] = said
    for name, (data, said) in OTHERS.items():
        (tmp_path / name).write_bytes(data)
        expected[name] = said
    _missing_filter(tmp_path / "filter.h5")
    expected["filter.h5"] = "cannot be read as embeddings"
    for name in ("pipe.npy", "pipe.h5"):
        os.mkfifo(tmp_path / name)
        expected[name] = "is no regular file. It was not opened"
    for name, what in (("linked", "leads out of the root"), ("piped", "not a regular file")):
        (tmp_path / name / "img_emb").mkdir(parents=True)
        expected[name] = what
    np.save(tmp_path / "outside.npy", ROWS)
    (tmp_path / "linked/img_emb/img_emb_0.npy").symlink_to(tmp_path / "outside.npy")
    os.mkfifo(tmp_path / "piped/img_emb/img_emb_0.npy")
    expected["secret.h5"] = "Imported d/image/x.y-"  # what is right, is imported
    requests = [
        (name, [] if "." not in name else ["--items", "items.csv"], f"stores/{name}")
        for name in expected
    ]
    done = subprocess.run(
        [sys.executable, "-c", _RUNNER], input=json.dumps(requests), capture_output=True,
        text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert not (tmp_path / "ran").exists()
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["secret.h5"]
    for (name, said), line in zip(expected.items(), done.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        assert answer["code"] == (0 if name == "secret.h5" else 1), f"{name}: {answer}"
        assert said in answer["said"], f"{name}: {answer}"
        assert "Traceback" not in answer["said"], f"{name}: {answer}"
        assert len(answer["said"]) < 700, name
