"""For every test: hypothesis asserts no times, and tests side by side share the cores."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

#: With all faults, properties are tried as often as hypothesis does by itself.
EXAMPLES = 100 if os.environ.get("HEADSTOCK_FAULTS") == "all" else 40
settings.register_profile("headstock", deadline=None, max_examples=EXAMPLES)
settings.load_profile("headstock")

#: Processes that run tests side by side, pytest-xdist's.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

if WORKERS > 1:
    # Before anything loads a BLAS: threads of two workers on two cores spin against one another.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // WORKERS)))

#: What no test has changed.
ENVIRONMENT = dict(os.environ)


def _fsync(file: int | Any) -> None:
    """Look whether a file is open, and wait for no disk: no test pulls the plug on this process.

    What is synced before what is seen in the children of tests/faults, which are processes of
    their own: this reaches none that is started.
    """
    os.fstat(file if isinstance(file, int) else file.fileno())


os.fsync = _fsync


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, those that need Ray next, and then folder by folder.

    So no process ends with a slow test while the others wait, and what is made once a process (a
    store and its results, children that have imported all, a cluster) is made in one, not in each.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    ray = {item.path for item in items if "ray_cluster" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda one: (one.path not in slow, one.path not in ray, str(one.path.parent)))


@pytest.fixture(autouse=True)
def _registers_nothing_that_stays() -> Iterator[None]:
    """Fail a test that leaves its own method to those after it, in whatever order they run."""
    before = _registered()
    yield
    left = sorted(_registered() - before)
    assert not left, f"registered and not forgotten (see the fixture no_plugins): {left}"


def _registered() -> set[str]:
    """Return what the registries loaded so far hold beside Headstock's own."""
    plugins = sys.modules.get("featstore.plugins")
    found = set()
    for where in plugins.KINDS.values() if plugins else ():
        module, _, name = where.partition(":")
        registry = getattr(sys.modules.get(module), name, None)
        if registry is not None:
            found |= {
                f"{registry.kind} {name}" for name in {*registry._things} - {*registry.built_in}
            }
    return found


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Path]:
    """Make a folder by its name in one of the processes that run tests; all of them read it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if WORKERS > 1 else base

    def made(name: str, make: Callable[[Path], Any]) -> Path:
        folder, done = base / name, base / f"{name}.done"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test registers and loads."""
    from bench.metrics.summary import OWN_METRICS
    from featstore import plugins

    monkeypatch.setenv(plugins.ENVIRONMENT, "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_loaded", set())
    for kind in plugins.KINDS:
        registry = plugins.registry_of(kind)
        monkeypatch.setattr(registry, "_things", dict(registry._names()))
    metrics = dict(OWN_METRICS)
    yield
    OWN_METRICS.clear()
    OWN_METRICS.update(metrics)
    for name in [name for name in sys.modules if name.startswith("headstock_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of `multiprocessing` start without their imports; see `tests.forked`."""
    from tests.forked import fork_from_one

    fork_from_one(monkeypatch, ENVIRONMENT)


@pytest.fixture
def torch_threads() -> Iterator[int]:
    """Three threads in torch, whatever the machine has: for tests that look how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Ray of two cores for all tests that need one: it takes seconds to start.

    It has room for little: nothing large goes through it. Its workers have a cache of their own.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("ray-cache")))
        # So that a worker's single thread is its own doing, whatever the tests run with.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "2")
        ray.init(
            "local", num_cpus=2, object_store_memory=80_000_000, include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
        )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def moto() -> Iterator[tuple[str, int]]:
    """Host and port of moto's S3, one server for all tests; each makes buckets of its own."""
    from tests.featstore.remote.buckets import moto_server

    with moto_server() as place:
        yield place
