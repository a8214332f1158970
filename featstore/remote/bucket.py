"""Buckets of S3, Google Cloud Storage and Azure, through obstore."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from featstore.address import Address
from featstore.errors import RemoteStoreError, needs_extra
from featstore.remote.objects import Answer, Objects, Pace, TransientError, check_name, one_line

#: Bytes of one entry of a listing, about.
_ENTRY = 200

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class BucketObjects(Objects):
    """Files of a bucket.

    Credentials, region and endpoint are those of the environment: AWS_*, GOOGLE_*, AZURE_*, or the
    machine's own role.
    """

    what = "a bucket"
    can_write = whole_first = True

    def __init__(self, address: Address) -> None:
        super().__init__(address.url)
        with needs_extra(address.url):
            from obstore import exceptions
            from obstore.store import from_url
        self._errors = exceptions
        # A missing file is raised as Python's own error.
        self._caught = (exceptions.BaseError, OSError)
        options: Any = {
            "connect_timeout": timedelta(seconds=10),
            "read_timeout": timedelta(seconds=self.limits.patience),
            "timeout": timedelta(seconds=self.limits.deadline),
        }
        if address.scheme == "s3" and _endpoint_is_here():
            options["allow_http"] = True
        retry: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}
        try:
            self._store: Any = from_url(address.url, client_options=options, retry_config=retry)
            # A page of a list is kept until it is whole, however long: few seconds bound it.
            options["timeout"] = options["read_timeout"]
            self._lists: Any = from_url(address.url, client_options=options, retry_config=retry)
        except exceptions.BaseError as err:
            raise RemoteStoreError(f"{address.url} cannot be opened: {_said(err)}.") from err

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size of the files below `prefix`; too many are a CorruptStoreError."""
        pages = self._pace(prefix or "its list of files").over(
            self._lists.list(prefix or None), unit=_ENTRY
        )
        left = self.limits.most_names
        try:
            for page in pages:
                left -= len(page)
                if left < 0:
                    raise self._too_many()
                for entry in page:
                    yield str(entry["path"]), int(entry["size"])
        except RemoteStoreError:
            raise
        except self._caught as err:
            raise self._failed(prefix or "its list of files", err) from err

    def put(self, name: str, data: bytes | Path | IO[bytes]) -> None:
        """Write a file, in parts if it is large; it appears whole."""
        self._put(name, data, mode="overwrite")

    def create(self, name: str, data: bytes | Path | IO[bytes]) -> bool:
        """Write a file only if there is none."""
        return self._put(name, data, mode="create", use_multipart=False)

    def replace(self, name: str, data: bytes, tag: str) -> bool:
        """Write a file only if its tag is still this one."""
        e_tag, _, version = tag.partition("\n")
        known = {"e_tag": e_tag} | ({"version": version} if version else {})
        return self._put(name, data, mode=known, use_multipart=False)

    def delete(self, name: str) -> None:
        """Remove a file."""
        try:
            self._store.delete(check_name(name))
        except (self._errors.NotFoundError, FileNotFoundError):
            return
        except self._caught as err:
            raise self._failed(name, err) from err

    def _put(self, name: str, data: bytes | Path | IO[bytes], **options: Any) -> bool:
        check_name(name)
        try:
            self._store.put(name, data, **options)
        except self._caught as err:
            # By its type, never by its words, which hold the file's name. What has no condition
            # was not put, whatever the answer.
            unmet = (self._errors.AlreadyExistsError, self._errors.PreconditionError)
            if options["mode"] != "overwrite" and isinstance(err, unmet):
                return False
            raise self._failed(name, err) from err
        return True

    @contextmanager
    def _get(self, name: str, span: tuple[int, int] | None, pace: Pace) -> Iterator[Answer]:
        options = {} if span is None else {"options": {"range": span}}
        try:
            answer = pace.wait(lambda: self._store.get(name, **options))
            if span not in (None, tuple(answer.range)):
                raise TransientError(f"bytes {answer.range} came instead of {span}")
            facts, pieces = answer.meta, _pieces(answer)
            yield Answer(int(facts["size"]), _tag(facts), span is not None, pieces)
        except RemoteStoreError:
            raise
        except self._caught as err:
            raise self._reading(name, err) from err

    def _reading(self, name: str, err: Exception) -> Exception:
        """Return what an error of a read becomes: final, absent, or worth another attempt."""
        if isinstance(err, self._errors.NotFoundError | FileNotFoundError):
            return FileNotFoundError(f"{self.address}/{name}")
        final = (
            self._errors.PermissionDeniedError,
            self._errors.UnauthenticatedError,
            PermissionError,
        )
        return self._failed(name, err) if isinstance(err, final) else TransientError(_said(err))

    def _failed(self, name: str, err: Exception) -> RemoteStoreError:
        return RemoteStoreError(
            f"{self.address}: {name} was refused or failed: {_said(err)}. Check the address, and "
            "the credentials, region and endpoint in the environment (docs/ref/addresses.md)."
        )


def _pieces(answer: Any) -> Iterator[memoryview]:
    """Yield the bytes of an answer as they come, so that a slow one is noticed."""
    for piece in answer.stream(min_chunk_size=1):
        yield memoryview(piece).cast("B")


def _endpoint_is_here() -> bool:
    """Tell whether the environment's S3 endpoint is a server of this machine, without TLS."""
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    parts = urlsplit(endpoint)
    return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")


def _said(err: Exception) -> str:
    return one_line(str(err).split("\n\nDebug source:")[0])


def _tag(facts: Mapping[str, Any]) -> str:
    """Return what a file is known by: its ETag, and its version, which Google's store goes by."""
    return "\n".join(filter(None, (facts.get("e_tag") or "", facts.get("version"))))
