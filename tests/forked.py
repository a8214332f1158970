"""Processes of `multiprocessing` that need not import torch and more again: one that has is forked.

Each is a process of its own, with the environment of whoever starts it and all that pickling does
on the way. What a start itself finds or leaves out, tests/test_current_folder.py looks at.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest

#: Imported once; nothing is called, so no thread is lost by the forks.
LOADED = ["torch", "timm", "torchvision.transforms.v2", "bench", "bench.execution", "fitters",
          "featstore.extraction.engines", "featstore.encoders.timm"]  # fmt: skip


class _Process(ForkServerProcess):
    def __reduce__(self) -> Any:
        return _restored, (dict(os.environ), bytes(ForkingPickler.dumps(self.__dict__)))


def _restored(environment: dict[str, str], state: bytes) -> _Process:
    os.environ.clear()
    os.environ.update(environment)  # before what is unpickled in it
    process = _Process.__new__(_Process)
    process.__dict__.update(pickle.loads(state))
    return process


class _Context(ForkServerContext):
    Process = _Process


def fork_from_one(patch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Let every process that would be spawned be forked so, from one with this environment."""
    context = _Context()
    context.set_forkserver_preload(LOADED)
    # What is read where a library is imported does not depend on the test that comes first.
    with patch.context() as outside:
        for name in {*os.environ} - {*environment}:
            outside.delenv(name)
        for name, value in environment.items():
            outside.setenv(name, value)
        ensure_running()
    usual = multiprocessing.get_context
    patch.setattr(
        multiprocessing, "get_context",
        lambda method=None: context if method == "spawn" else usual(method),
    )  # fmt: skip
