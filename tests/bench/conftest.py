import io

import numpy as np
import pytest

from bench import read_results, run_all
from bench.report.page import build_page, write_report
from bench.report.parts import Words
from bench.suites.demo import create_smoke_store, smoke_runs
from featstore import open_store
from tests.bench.results_by_hand import write_study


@pytest.fixture
def rng():
    return np.random.default_rng(20_240_611)


@pytest.fixture(scope="session")
def smoke_store(once):
    """The synthetic store of the smoke suite."""
    return once("smoke-store", create_smoke_store)


@pytest.fixture(scope="session")
def store(smoke_store):
    """That store, opened; many files have another of this name."""
    return open_store(smoke_store)


@pytest.fixture(scope="session")
def runs(store):
    """The runs of the smoke suite, planned on that store."""
    return smoke_runs(store)


@pytest.fixture(scope="session")
def smoke_results(smoke_store, runs, once):
    """Results of the whole smoke suite; tests only read them."""
    return once("smoke-results", lambda root: run_all(runs, smoke_store, root))


@pytest.fixture(scope="session")
def smoke_page(smoke_results, smoke_store, once):
    """The report of these results, with its files beside it; tests only read them."""
    how = {"store": smoke_store}
    root = once("smoke-page", lambda root: write_report(smoke_results, out=root / "r.html", **how))
    return root / "r.html"


@pytest.fixture(scope="session")
def written_study(once):
    """`write_study` with its own shares, written once: 260 runs with their files; only read."""
    return once("study", lambda root: write_study(root, np.random.default_rng(20_240_611)))


NASTY = '<script>alert("1")</script><img src=x onerror=alert(2)>&amp;</style>'


@pytest.fixture(scope="session")
def nasty(smoke_results, smoke_store):
    """A page whose names and captions try to break out of the HTML."""
    from PIL import Image  # in no minimal environment

    class Everything(dict):
        def get(self, key, default=None):
            return NASTY

    corpus = open_store(smoke_store).view("smoke/image/synthetic").items
    classes = dict(zip(corpus["item_id"], corpus["class_id"], strict=True))
    rows = read_results(smoke_results)
    picture = io.BytesIO()  # that a browser can decode
    Image.frombytes("L", (2, 1), bytes((0, 255))).save(picture, "webp", lossless=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "bench.report.page.read_words",
            lambda *_: Words(Everything(), classes, dict.fromkeys(classes, picture.getvalue())),
        )
        return build_page(smoke_results, rows, open_store(smoke_store))
