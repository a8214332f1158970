"""Dataset repositories of the Hugging Face hub, through huggingface_hub's file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from featstore.errors import RemoteStoreError, needs_extra
from featstore.objects.address import Address
from featstore.objects.base import Objects, TransientError

_PIECE = 8 * 2**20


class HubObjects(Objects):
    """Files below ``hf://datasets/OWNER/NAME[@REVISION][/FOLDER]``; a token as the hub's own."""

    def __init__(self, address: Address) -> None:
        super().__init__(address.url)
        if address.host != "datasets" or address.path.count("/") < 1:
            msg = f"{address.url} is no dataset of the hub: hf://datasets/OWNER/NAME."
            raise RemoteStoreError(msg)
        with needs_extra(address.url):
            from huggingface_hub import HfFileSystem
        # A hub of one's own is named as for all of huggingface_hub.
        self._fs: Any = HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT") or None)
        self._root = f"datasets/{address.path}"

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size of the files below `prefix`."""
        root = f"{self._root}/{prefix}".rstrip("/")
        for path, facts in self._fs.find(root, detail=True).items():
            yield path.removeprefix(f"{self._root}/"), int(facts["size"] or 0)

    def _read(self, name: str, limit: int) -> tuple[bytes, str]:
        try:
            size = int(self._fs.info(f"{self._root}/{name}")["size"] or 0)
            if size > limit:
                raise self._too_large(name, limit)
            data = bytes(self._fs.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            raise
        except OSError as err:
            raise TransientError(str(err)[:200]) from err
        if len(data) != size:
            msg = f"{len(data):,} of {size:,} bytes came"
            raise TransientError(msg)
        return data, ""

    def _stream(
        self, name: str, start: int, stop: int, size: int | None
    ) -> Iterator[bytes | memoryview]:
        del size
        for first in range(start, stop, _PIECE):
            last = min(first + _PIECE, stop)
            try:
                yield bytes(self._fs.cat_file(f"{self._root}/{name}", start=first, end=last))
            except FileNotFoundError:
                raise
            except OSError as err:
                raise TransientError(str(err)[:200]) from err
