"""obstore follows a bucket's redirects, and cannot be told not to: what then holds.

obstore's client has no option for it (`ClientConfig`). So another server may be asked for the
bytes: without the credentials, and whatever it answers is compared with what the commit states.
"""

from __future__ import annotations

import numpy as np
import pytest

from featstore import FeatstoreError, copy_sets, open_store
from tests.featstore.remote.proxy import Answer, proxy
from tests.featstore.remote.static import static_server
from tests.featstore.remote.test_hostile_servers import flipped, zeros

IMAGES = "birds/image/toy"

PARTS = ["embedding/c/", "revisions/", "items-"]


def _redirecting(part: str, to: str) -> object:
    """Send whoever asks for a path with `part` to another server, which has the store's files."""

    def harm(path: str, number: int, answer: Answer) -> Answer | None:
        if part not in path:
            return None
        return Answer(307, {"Location": f"{to}/{path.split('/store/')[1]}"}, b"")

    return harm


def test_a_redirected_bucket_yields_no_wrong_row(bucket, store_folder, tmp_path, monkeypatch):
    copy_sets(store_folder, bucket.address)
    local = open_store(store_folder).view(IMAGES)
    refused = 0
    with static_server(store_folder) as upstream, proxy(upstream) as other:
        for number, (part, change) in enumerate(
            (part, change) for part in PARTS for change in (None, flipped, zeros)
        ):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(number)))
            other.harm = None if change is None else lambda *a, change=change: change(a[2])
            bucket.harm = _redirecting(part, other.url)  # type: ignore[assignment]
            other.requests.clear()
            try:
                view = open_store(bucket.address).view(IMAGES)
                rows, items = view.numpy(), view.items
            except FeatstoreError:
                refused += 1
                assert change is not None, part
            else:
                np.testing.assert_array_equal(rows, local.numpy())
                assert items.equals(local.items)
            assert other.requests, "obstore no longer follows redirects: say so in the documents"
            bucket.harm = other.harm = None  # and nothing wrong was kept
            again = open_store(bucket.address).view(IMAGES)
            np.testing.assert_array_equal(again.numpy(), local.numpy())
            assert again.items.equals(local.items)
        assert refused == 2 * len(PARTS)
        assert other.signed == 0


def test_a_redirect_to_a_file_is_an_error(bucket, store_folder):
    copy_sets(store_folder, bucket.address)
    bucket.harm = _redirecting("embedding/c/", f"file://{store_folder}")  # type: ignore[assignment]
    with pytest.raises(FeatstoreError):
        open_store(bucket.address).view(IMAGES).numpy()
