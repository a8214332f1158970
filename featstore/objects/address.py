"""Addresses of stores: which are remote, and what they may say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from featstore.errors import AddressError

#: Schemes of remote stores, and what each is.
SCHEMES = {
    "s3": "an S3 bucket",
    "gs": "a Google Cloud Storage bucket",
    "az": "an Azure Blob container",
    "https": "a web server",
    "http": "a web server on this machine",
    "hf": "a dataset of the Hugging Face hub",
}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Address:
    """Where a remote store lies.

    Attributes
    ----------
    scheme, host, path : str
        Of the URL; `host` is the bucket of a bucket's address. `path` has no slash at its ends.
    url : str
        The whole address without credentials, which it may not have, and without a final slash.
    """

    scheme: str
    host: str
    path: str
    url: str


def parse_address(text: str | Path) -> Address | Path:
    """Return what `text` addresses: a folder of this machine, or a remote store.

    Raises
    ------
    AddressError
        If the scheme is unknown, the address holds credentials or a query, or leaves its root.
        Credentials come from the environment, never from an address: addresses are logged.
    """
    found = _SCHEME.match(text) if isinstance(text, str) else None
    if found is None:
        return Path(text)
    assert isinstance(text, str)
    scheme = found[1].lower()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        msg = f"The {scheme} address of the store is malformed: {err}."
        raise AddressError(msg) from err
    if scheme == "file":
        if host not in ("", "localhost"):
            msg = f"file://{host}/… names another machine. Take its path where it is mounted."
            raise AddressError(msg)
        return Path(unquote(parts.path))
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        msg = f"No store can be opened at {scheme}://. Known are {known}, file:// and paths."
        raise AddressError(msg)
    if "@" in parts.netloc:
        msg = f"The {scheme} address holds credentials. Leave them out: they are read from the "
        msg += "environment (see docs/sharing.md), and addresses are logged."
        raise AddressError(msg)
    if parts.query or parts.fragment:
        msg = f"The address {scheme}://{host}{parts.path} has a query or fragment. Leave it out."
        raise AddressError(msg)
    if not host:
        msg = f"The address {text} names no {'bucket' if scheme in ('s3', 'gs', 'az') else 'host'}."
        raise AddressError(msg)
    if scheme == "http" and host not in _LOOPBACK:
        msg = (
            f"http://{host} is read in the clear by everyone between. Use https://; http:// is for "
            "servers on this machine."
        )
        raise AddressError(msg)
    path = parts.path.strip("/")
    if any(step in ("", ".", "..") for step in unquote(path).split("/")) and path:
        msg = f"The address {text} has an empty, '.' or '..' step in its path."
        raise AddressError(msg)
    bracketed = f"[{host}]" if ":" in host else host
    place = bracketed if port is None else f"{bracketed}:{port}"
    return Address(scheme, place, path, f"{scheme}://{place}/{path}".rstrip("/"))
