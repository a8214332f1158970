"""From an address to the files behind it."""

from __future__ import annotations

from featstore.objects.address import Address
from featstore.objects.base import Objects


def open_objects(address: Address) -> Objects:
    """Return the files behind an address. Nothing is asked of the server yet.

    Raises
    ------
    RemoteStoreError
        If the library for this scheme is not installed, or refuses the address.
    """
    if address.scheme == "hf":
        from featstore.objects.hub import HubObjects

        return HubObjects(address)
    if address.scheme in ("http", "https"):
        from featstore.objects.web import WebObjects

        return WebObjects(address)
    from featstore.objects.bucket import BucketObjects

    return BucketObjects(address)
