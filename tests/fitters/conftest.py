"""Fixtures; and the solvers' jaxtyping annotations, made executable for the whole run."""

import inspect
import sys

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from hypothesis import HealthCheck, settings

import fitters.alignment  # noqa: F401   with everything that imports a solver by name
from fitters import Pairs, solvers
from tests.fitters.toy_store import write_toy_store

settings.register_profile(
    "fitters", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fitters")


def _check_shapes_of_solvers():
    """Replace every solver by one that checks its shapes, wherever it was imported."""
    solvers.Float = jaxtyping.Float
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("fitters.")]
    for name, function in inspect.getmembers(solvers, inspect.isfunction):
        if function.__module__ != solvers.__name__:
            continue
        checked = jaxtyping.jaxtyped(typechecker=beartype)(function)
        for module in modules:
            if getattr(module, name, None) is function:
                setattr(module, name, checked)


_check_shapes_of_solvers()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep moments of a test to the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture(scope="session")
def store_path(tmp_path_factory):
    """The toy store; tests only read it, and change a copy."""
    root = tmp_path_factory.mktemp("toy") / "store"
    write_toy_store(root)
    return root


@pytest.fixture
def rng():
    return np.random.default_rng(20_260_521)


@pytest.fixture
def make_world(rng):
    """Return a maker of a small world where images, texts, head and names belong together."""

    def make(n_classes=60, n_images=48, p=24, q=12, noise=0.2):
        truth = rng.standard_normal((q, p))
        texts = rng.standard_normal((n_classes, q))
        head = texts @ truth + noise * rng.standard_normal((n_classes, p))
        captions = rng.standard_normal((n_images, q))
        images = captions @ truth + noise * rng.standard_normal((n_images, p))
        # Images live in a cone of their own, as real ones do.
        images += 6 * rng.standard_normal(p)
        names = np.array([f"class {i:03}" for i in range(n_classes)])
        ids = np.array([f"image {i:03}" for i in range(n_images)])
        return (
            Pairs(head.astype(np.float32), texts.astype(np.float32), names),
            Pairs(images.astype(np.float32), captions.astype(np.float32), ids),
        )

    return make
