"""The small store of the store's own tests."""

from tests.featstore.store.conftest import images, rng, store_path

__all__ = ["images", "rng", "store_path"]
