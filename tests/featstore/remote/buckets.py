"""moto's S3 server in a process of its own, and the environment that leads to it.

As a script this file is that process: it prints its port.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.store import S3Store


@contextmanager
def moto_server() -> Iterator[tuple[str, int]]:
    """Run moto until the block ends; it also ends when this process does."""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield "127.0.0.1", int(child.stdout.readline())
    finally:
        child.stdin.close()
        child.wait(30)
        child.stdout.close()


def environment(endpoint: str) -> dict[str, str]:
    """Return the variables that a user of a bucket sets."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def make_bucket(endpoint: str, name: str) -> None:
    """Make a bucket."""
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        pass


def plain_store(endpoint: str, bucket: str) -> S3Store:
    """Return obstore's own handle on a bucket."""
    return S3Store(
        bucket, endpoint=endpoint, access_key_id="test", secret_access_key="not-a-secret",
        region="us-east-1", client_options={"allow_http": True},
    )  # fmt: skip


def serve_moto() -> None:
    """Serve on 127.0.0.1 until standard input ends."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    serve_moto()
