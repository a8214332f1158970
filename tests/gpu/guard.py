"""The half of a fake card in C++: compiled where a test first needs it, and refused elsewhere."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from packaging.specifiers import SpecifierSet

#: The versions of torch whose internals these are: each was run, none is guessed.
TORCH = ">=2.13,<2.14"

_SOURCE = Path(__file__).with_name("guard.cpp")
_BUILT = Path(__file__).parents[2] / "build" / "fake_card"


class CannotBuildError(Exception):
    """This machine or this torch cannot have fake cards; the message says why."""


def load_guard() -> ctypes.CDLL:
    """Compile guard.cpp, once a version of torch, and load it.

    Raises
    ------
    CannotBuildError
        If torch is of another version, has CUDA, or there is no compiler.
    """
    version = torch.__version__.partition("+")[0]
    if torch.version.cuda is not None or version not in SpecifierSet(TORCH):
        raise CannotBuildError(
            f"fake cards are for torch {TORCH} without CUDA; this is {torch.__version__}"
        )
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or platform.system() != "Linux":
        raise CannotBuildError("fake cards need Linux and g++ or clang++")
    built = _BUILT / f"guard-{torch.__version__}.so"
    if not built.exists() or built.stat().st_mtime < _SOURCE.stat().st_mtime:
        home = Path(torch.__file__).parent
        _BUILT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_BUILT) as folder:
            made = Path(folder) / built.name
            done = subprocess.run(
                [compiler, "-shared", "-fPIC", "-std=c++20", f"-I{home / 'include'}",
                 f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
                 str(_SOURCE), "-o", str(made), f"-L{home / 'lib'}", "-lc10"],
                capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise CannotBuildError(f"guard.cpp does not compile: {done.stderr[-500:]}")
            made.replace(built)
    return ctypes.CDLL(str(built))
