"""Addresses: where stores lie, in a folder of this machine or behind a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from urllib.parse import unquote, urlsplit

from featstore.durable import local_folder
from featstore.errors import AddressError, did_you_mean
from featstore.plugins import Registry


def _as_place(name: str, thing: Any) -> Any:
    if not callable(thing):
        raise TypeError(f"{name} is {thing!r}, not a class of featstore.remote.Objects")
    return thing


PLACES: Registry[Any] = Registry(
    "place",
    {
        "s3": "featstore.remote.servers:BucketObjects",
        "gs": "featstore.remote.servers:BucketObjects",
        "az": "featstore.remote.servers:BucketObjects",
        "https": "featstore.remote.servers:WebObjects",
        "http": "featstore.remote.servers:WebObjects",
        "hf": "featstore.remote.servers:HubObjects",
    },
    accept=_as_place,
)
"""Where stores lie beside folders: scheme of the address -> a class.

A place of one's own (``register("place", SCHEME)``, an entry point of ``headstock.places``) is a
`featstore.remote.Objects`, made of an `Address`.
"""

_FOLDER = "featstore.remote:FolderObjects"

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

    def __str__(self) -> str:
        return self.url

    def resolve(self) -> Address:
        """Return the address itself, which is never relative, as `Path.resolve` may be asked."""
        return self


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
    if scheme == "file":
        return local_folder(text)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise AddressError(f"The {scheme} address of the store is malformed: {err}.") from err
    if scheme not in PLACES:
        known = ", ".join(f"{name}://" for name in PLACES)
        raise AddressError(
            f"No store can be opened at {scheme}://. Known are {known}, file:// and paths."
            f"{did_you_mean(scheme, PLACES)}"
        )
    if "@" in parts.netloc:
        msg = f"The {scheme} address holds credentials. Leave them out: they are read from the "
        msg += "environment (see docs/ref/addresses.md), and addresses are logged."
        raise AddressError(msg)
    if parts.query or parts.fragment:
        raise AddressError(
            f"The address {scheme}://{host}{parts.path} has a query or fragment. Leave it out."
        )
    _check_host(scheme, host, text)
    path = parts.path.strip("/")
    if any(step in ("", ".", "..") for step in unquote(path).split("/")) and path:
        raise AddressError(f"The address {text} has an empty, '.' or '..' step in its path.")
    bracketed = f"[{host}]" if ":" in host else host
    place = bracketed if port is None else f"{bracketed}:{port}"
    return Address(scheme, place, path, f"{scheme}://{place}/{path}".rstrip("/"))


def _check_host(scheme: str, host: str, text: str) -> None:
    """Raise AddressError if an address names no host, or one that is read in the clear."""
    if not host:
        raise AddressError(
            f"The address {text} names no {'bucket' if scheme in ('s3', 'gs', 'az') else 'host'}."
        )
    if scheme == "http" and host not in _LOOPBACK:
        raise AddressError(
            f"http://{host} is read in the clear by everyone between. Use https://; http:// is for "
            "servers on this machine."
        )


def open_address(address: Address | Path) -> Any:
    """Return the files behind an address: a `featstore.remote.Objects` of its scheme.

    Nothing is asked of a server yet.

    Raises
    ------
    RemoteStoreError
        If the library for this scheme is not installed, or refuses the address.
    """
    made = _FOLDER if isinstance(address, Path) else PLACES[address.scheme]
    if isinstance(made, str):
        made = resolve_name(made)
    return made(address)
