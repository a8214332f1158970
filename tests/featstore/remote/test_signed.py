"""Signed stores behind an address: a server that shows an earlier or another state is found out."""

from __future__ import annotations

import shutil

import pytest

from featstore import copy_sets, open_store
from featstore.errors import SignatureError
from featstore.share import make_tag
from tests.damage import relog
from tests.featstore.remote.conftest import make_store
from tests.featstore.remote.proxy import Answer, proxy
from tests.featstore.remote.static import static_server
from tests.featstore.remote.test_buckets import extend

pytest.importorskip("cryptography", reason="needs cryptography, of the extra `sign`")

from featstore.share import sign_store
from featstore.store.log import make_key

IMAGES = "birds/image/toy"


@pytest.fixture
def secret(tmp_path):
    make_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


def test_a_server_that_goes_back_is_found_out(tmp_path, secret):
    """Every file of the earlier state is whole, and signed by the key."""
    root = make_store(tmp_path / "now")
    make_tag(root, "v1")
    key = sign_store(root, secret).public_key
    before = shutil.copytree(root, tmp_path / "before")
    extend(root, 30)
    assert sign_store(root, secret).counter == 2

    def older(path: str, number: int, answer: Answer) -> Answer | None:
        file = before / path.lstrip("/")
        return Answer(200, {}, file.read_bytes()) if file.is_file() else Answer(404, {}, b"")

    with static_server(root) as upstream, proxy(upstream) as state:
        store = open_store(state.url, key=key)
        assert len(store.view(IMAGES)) == 1029
        assert len(open_store(state.url, key=key, revision="v1").view(IMAGES)) == 999
        state.harm = older
        with pytest.raises(SignatureError, match="number 2 was seen here before"):
            open_store(state.url, key=key)
        bare = tmp_path / "bare"
        copy_sets(root, bare)
        relog(bare, signature={})
        state.harm = lambda path, number, answer: (
            Answer(200, {}, (bare / "log.json").read_bytes()) if "log.json" in path else None
        )
        with pytest.raises(SignatureError, match="is not signed"):
            open_store(state.url, key=key)
        assert len(open_store(state.url).view(IMAGES)) == 1029
        state.harm, state.down = None, True
        # Reading goes on without the server, but only with a signature that was fetched.
        with pytest.warns(UserWarning, match="cannot be reached"), pytest.raises(SignatureError):
            open_store(state.url, key=key)


def test_a_bucket_is_signed_where_it_lies_or_with_all_that_is_pushed(
    bucket, store_folder, secret, tmp_path
):
    own = shutil.copytree(store_folder, tmp_path / "own")
    key = sign_store(own, secret).public_key
    copy_sets(own, bucket.address)
    assert len(open_store(bucket.address, key=key, at_least=1).view(IMAGES)) == 999
    extend(own, 30)
    copy_sets(own, bucket.address)
    with pytest.raises(SignatureError, match="is not what its owner signed as number 1"):
        open_store(bucket.address, key=key)
    assert sign_store(bucket.address, secret).counter == 2
    assert len(open_store(bucket.address, key=key, at_least=2).view(IMAGES)) == 1029
    copy_sets(bucket.address, tmp_path / "pulled", key=key, at_least=2)
    assert len(open_store(tmp_path / "pulled", key=key, at_least=2).view(IMAGES)) == 1029
