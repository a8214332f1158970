"""URLs as items: listed from a file with the hash of what came, and read one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from featstore.address import Address
from featstore.durable import write_durably, write_error
from featstore.errors import AddressError, CorruptStoreError, ManifestError, RemoteStoreError
from featstore.identity import sha256_hex
from featstore.manifest.paths import file_sha256, is_url, uri_fault
from featstore.remote.web import WebObjects
from featstore.sources.arrow import parquet_table
from featstore.sources.roots import local_path
from featstore.sources.tables import (
    FORMS,
    Columns,
    Found,
    ItemCollector,
    Request,
    add_row,
    choose_columns,
)

#: Bytes of one image while URLs are listed, when many are held at once.
MAX_LISTED_BYTES = 32 * 2**20

#: Requests under way at once while URLs are listed.
AT_ONCE = 16

#: Columns that hold URLs, the first that exists is taken.
URL_COLUMNS = ("url", "URL", "image_url", "image", "path")

#: What the files of the images begin with that are decoded here.
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


class _Pages(WebObjects):
    """The files of all servers of one scheme; the name of one is its URL without the scheme.

    A redirect may lead to another server if it leads to https: what comes is bound by a hash.
    """

    def __init__(self, scheme: str) -> None:
        super().__init__(Address(scheme, "", "", f"{scheme}:/"))
        self.rule = self._check_url

    def _check_url(self, name: str) -> None:
        fault = uri_fault(f"{self.address}/{name}")
        if fault is not None:
            raise AddressError(f"The URL {f'{self.address}/{name}'!r} is not read: {fault}.")

    def _url(self, name: str) -> str:
        return f"{self.address}/{quote(name, safe=_AS_GIVEN)}"

    def _followed(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        far = urlsplit(target)[:2] != urlsplit(url)[:2]
        if uri_fault(target) is not None or (far and not target.startswith("https://")):
            raise RemoteStoreError(f"{url} redirects to {target[:200]!r}, which is not followed.")
        return target


#: Characters of a URL that mean something there, or are quoted already.
_AS_GIVEN = "!#$%&'()*+,/:;=?@[]~"


class UrlReader:
    """Reads whole files at URLs; several threads may."""

    def __init__(self) -> None:
        self._pages = cache(_Pages)

    def read(self, url: str, *, limit: int) -> bytes:
        """Return the bytes at a URL.

        Raises
        ------
        AddressError
            If it breaks a rule; see `featstore.manifest.paths.uri_fault`.
        RemoteStoreError, CorruptStoreError
            If nothing comes, or more than `limit` bytes.
        """
        scheme, _, name = url.partition("://")
        try:
            return self._pages(scheme).read(name.partition("#")[0], limit=limit)
        except FileNotFoundError as err:
            raise RemoteStoreError(f"{url} is not there.") from err


def read_urls(request: Request) -> Found:
    """List the images at the URLs of a text file (one a line), a CSV, TSV or Parquet file.

    Each is fetched once, for its content hash, which binds whoever reads the item later. One that
    cannot be fetched, or is no image, is left out and listed. With the option ``keep`` the files
    stay in that folder, by the hash of their URL, and are read from there; making the manifest
    again, also after it was interrupted, fetches what the folder lacks. The key is the id, else
    the URL.

    Raises
    ------
    ManifestError
        If the list or a kept file cannot be read, or not one image could be fetched.
    StoreWriteError
        If an image cannot be kept.
    """
    path = local_path(request.location)
    form = path.suffix.lower().removeprefix(".")
    if form not in _FORMS:
        raise ManifestError(f"{path} is no list of URLs: .{', .'.join(_FORMS)}.")
    keep = Path(request.options["keep"]).resolve() if "keep" in request.options else None
    items, left_out = ItemCollector(request.dataset), dict[str, str]()
    names, rows = _FORMS[form](path)
    columns = choose_columns(names, request, str(path), first=URL_COLUMNS)
    fetch = partial(_fetch, UrlReader(), keep)
    for where, row, url, came in _fetched(rows(columns.used()), columns, fetch):
        if isinstance(came, str):
            left_out[url or where] = came
            continue
        kept = {} if keep is None else {"url": url}
        add_row(items, row, columns, uri=came[0], key=url, where=where,
                content_sha256=came[1], **kept)  # fmt: skip
    if left_out and items.is_empty():
        first, why = next(iter(left_out.items()))
        raise ManifestError(
            f"None of the {len(left_out):,} URLs of {path} gave an image (first {first!r}: {why})"
        )
    return Found(keep or request.out, items.contents(), left_out)


#: What opens a list of URLs, by the end of its name.
_FORMS = {name: FORMS[name] for name in ("txt", "csv", "tsv")} | {"parquet": parquet_table}

#: Uri and content hash of an image, or why there is none.
Outcome = tuple[str, str] | str


def _fetched(
    rows: Iterator[tuple[str, dict[str, Any]]],
    columns: Columns,
    fetch: Callable[[str], Outcome],
) -> Iterator[tuple[str, dict[str, Any], str, Outcome]]:
    """Yield each row, in order, with its URL and what fetching that gave; a URL once."""
    done: dict[str, Outcome] = {}
    with ThreadPoolExecutor(AT_ONCE, "urls") as pool:
        while some := [*islice(rows, 16 * AT_ONCE)]:
            urls = [str(row.get(columns.image or "") or "").strip() for _, row in some]
            new = [url for url in dict.fromkeys(urls) if url not in done]
            done |= zip(new, pool.map(fetch, new), strict=True)
            for (where, row), url in zip(some, urls, strict=True):
                yield where, row, url, done[url]


def _fetch(reader: UrlReader, keep: Path | None, url: str) -> Outcome:
    """Return uri and content hash of the image at a URL, or as a text why there is none.

    The text instead of an error, whose traceback would hold what came.
    """
    if not is_url(url):
        return f"{url!r} is no URL of a whole file."
    name = sha256_hex(url.encode())
    uri = url if keep is None else f"{name[:2]}/{name}"
    if keep is not None and (keep / uri).is_file():
        return uri, file_sha256(keep / uri)
    try:
        data = reader.read(url, limit=MAX_LISTED_BYTES)
    except (AddressError, RemoteStoreError, CorruptStoreError) as err:
        return " ".join(str(err).split())
    if not data.startswith(_MAGIC):
        return f"{url} is no image that is read here: it begins {data[:16]!r}."
    if keep is not None:
        try:
            write_durably(keep / uri, [data])
        except OSError as err:
            raise write_error(keep / uri, err) from err
    return uri, sha256_hex(data)
