"""What is behind addresses: web servers, the hub of datasets, and buckets, through obstore."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from featstore.address import Address
from featstore.errors import (
    FeatstoreError,
    RemoteStoreError,
    UnreachableError,
    needs_extra,
)
from featstore.identity import sha256_hex
from featstore.remote import (
    LARGEST,
    QUERY,
    Answer,
    Objects,
    Pace,
    TransientError,
    check_name,
    one_line,
)

_PIECE = 2**20

#: Redirects that are followed, all within the same server; bytes that one may say and be read.
_REDIRECTS, _SHORT = 3, 2**14
_MOVED = (301, 302, 303, 307, 308)

#: Seconds to wait for a connection.
_CONNECT = 10.0

#: Statuses after which another attempt may be better.
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class WebObjects(Objects):
    """Files below an https address. The server need not list, nor know ranges.

    obstore's own reader of web servers follows redirects anywhere; this one must not.
    """

    def __init__(self, address: Address) -> None:
        super().__init__(address.url)
        with needs_extra(address.url):
            import urllib3
        self._errors = urllib3.exceptions
        # What a server sends is read as it is: nothing is unpacked, so nothing can swell.
        self._pool: Any = urllib3.PoolManager(
            maxsize=16, retries=False,
            timeout=urllib3.Timeout(connect=_CONNECT, read=self.patience),
        )  # fmt: skip

    @contextmanager
    def _get(self, name: str, span: tuple[int, int] | None, pace: Pace) -> Iterator[Answer]:
        asked = "" if span is None else f"bytes {span[0]}-{span[1] - 1}/"
        headers = {"Range": asked[:-1].replace(" ", "=")} if asked else {}
        with self._asked(name, headers, pace) as answer:
            ranged = answer.status == 206
            if asked and not ranged:
                self.has_ranges = False
            message = str(answer.headers.get("Content-Range", ""))
            if ranged and not message.startswith(asked):
                raise TransientError(f"the server answered with the range {message[:80]!r}")
            size = number_in(answer, "Content-Range" if ranged else "Content-Length")
            yield Answer(size, "", ranged, _pieces(answer, pace))

    def _url(self, name: str) -> str:
        return f"{self.address}/{quote(name)}"

    def _credentials(self, url: str) -> dict[str, str]:  # noqa: ARG002
        """Return the headers that a request to this URL, perhaps of a redirect, may carry."""
        return {}

    @contextmanager
    def _asked(self, name: str, headers: dict[str, str], pace: Pace) -> Iterator[Any]:
        """Give an answer of status 200 or 206, and close its connection unless all was read."""
        url, answer = self._url(name), None
        try:
            for _ in range(_REDIRECTS + 1):
                sent = {"Accept-Encoding": "identity", **self._credentials(url), **headers}
                answer = pace.wait(
                    functools.partial(
                        self._pool.request, "GET", url, headers=sent, preload_content=False,
                        redirect=False,
                    )
                )  # fmt: skip
                if answer.status not in _MOVED:
                    break
                url = self._followed(url, str(answer.headers.get("Location", "")))
                if 0 <= number_in(answer, "Content-Length") <= _SHORT:
                    pace.wait(answer.drain_conn)  # so that its connection can be used again
                answer.close()
            self._check(name, answer, asked_range="Range" in headers)
            yield answer
        except (RemoteStoreError, FileNotFoundError):
            raise
        except (self._errors.HTTPError, OSError) as err:
            if isinstance(err, self._errors.SSLError) or "CERTIFICATE" in str(err):
                raise RemoteStoreError(
                    f"{self.address} has no certificate that can be trusted: {str(err)[:200]}."
                ) from err
            raise TransientError(str(err)[:200]) from err
        finally:
            if answer is not None:
                answer.close()

    def _check(self, name: str, answer: Any, *, asked_range: bool) -> None:
        status = answer.status
        if status in (404, 410):
            raise FileNotFoundError(f"{self.address}/{name}")
        if status in AGAIN:
            again = TransientError(f"the server said {status}")
            again.after = max(0.0, number_in(answer, "Retry-After"))
            raise again
        if status != 200 and not (status == 206 and asked_range):
            raise RemoteStoreError(
                f"{self.address}/{name}: the server said {status}. Check the address."
            )
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise RemoteStoreError(
                f"{self.address}/{name} came compressed, which was not asked for. Not read."
            )

    def _followed(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        if urlsplit(target)[:2] != urlsplit(url)[:2]:
            where = "://".join(urlsplit(target)[:2])[:100]
            raise RemoteStoreError(
                f"{self.address} redirects to {where}. Redirects to other servers or schemes are "
                "not followed; open that address yourself if you trust it."
            )
        return target


def number_in(answer: Any, header: str) -> float:
    """Return the number that a header ends with, behind a slash if it has one; -1 if with none.

    A float takes any number of digits; an integer of thousands is a ValueError of Python's.
    """
    text = str(answer.headers.get(header, "")).rpartition("/")[2]
    return float(text) if text.isdecimal() else -1.0


def _pieces(answer: Any, pace: Pace) -> Iterator[bytes]:
    """Yield the bytes of an answer as they come, so that a slow one is noticed."""
    read = functools.partial(answer.read1, _PIECE, decode_content=False)
    # What follows the last chunk may never end, however fast it comes.
    while piece := pace.wait(read) if answer.chunked else read():
        yield piece


T = TypeVar("T")

_COMMIT = re.compile(r"[0-9a-f]{40}")

#: Files that are sent at once.
_AT_ONCE = 4

_REFUSED = frozenset({"RepoNotFound", "RevisionNotFound", "GatedRepo"})


class HubObjects(WebObjects):
    """Files below ``hf://datasets/OWNER/NAME[@REVISION][/FOLDER]``; a token as the hub's own."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._place = address
        if address.host != "datasets" or address.path.count("/") < 1:
            raise RemoteStoreError(
                f"{address.url} is no dataset of the hub: hf://datasets/OWNER/NAME."
            )
        with needs_extra(address.url):
            import huggingface_hub
        # A hub of one's own is named as for all of huggingface_hub.
        stated = os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT
        self.endpoint = stated.rstrip("/")
        self.api: Any = huggingface_hub.HfApi(endpoint=self.endpoint)
        # The library's own headers cost a request, which tells the hub what runs here.
        implicit = not huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
        token = huggingface_hub.get_token() if implicit else None
        self._offline = bool(huggingface_hub.constants.HF_HUB_OFFLINE)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        owner, rest = address.path.split("/", 1)
        place, _, self.folder = rest.partition("/")
        name, _, revision = place.partition("@")
        self.repository = f"{owner}/{name}"
        self.revision = unquote(revision) or "main"
        self._commit = ""

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size of the files below `prefix`."""
        from huggingface_hub.errors import EntryNotFoundError

        root = "/".join(filter(None, (self.folder, prefix.rstrip("/"))))

        start = f"{self.folder}/" if self.folder else ""

        def ask() -> list[tuple[str, int]]:
            tree = self.api.list_repo_tree(
                self.repository, root or None, recursive=True,
                revision=self._commit or self.revision, repo_type="dataset",
            )  # fmt: skip
            files = (file for file in tree if hasattr(file, "blob_id"))
            try:
                return [
                    *self.listed((str(one.path).removeprefix(start), one.size) for one in files)
                ]
            except EntryNotFoundError:
                return []

        yield from self.asked(prefix or "its list of files", ask, whole=True)

    def head(self) -> str:
        """Return the commit that the revision is now.

        Raises
        ------
        RemoteStoreError
            If there is no such dataset or revision, or it may not be read.
        """
        sha = self.asked(
            "the revision",
            lambda: self.api.dataset_info(self.repository, revision=self.revision).sha,
        )
        if not isinstance(sha, str) or not _COMMIT.fullmatch(sha):
            raise RemoteStoreError(f"{self.address}: the hub names no commit of the revision.")
        return sha

    def at(self, commit: str) -> str:
        """Return the address of the same files at a commit."""
        return f"hf://datasets/{self.repository}@{commit}/{self.folder}".rstrip("/")

    def pinned(self) -> str:
        """Return the address of the commit that the revision, or without one ``main``, is now."""
        return self.at(self.head())

    @contextlib.contextmanager
    def draft(self) -> Iterator[Objects]:
        """Give a draft of the commit that follows the present one.

        What it has begun to send at the end is sent, and stays unused if it was not published.

        Raises
        ------
        RemoteStoreError
            If the address names a commit, or the dataset is missing.
        """
        if _COMMIT.fullmatch(self.revision):
            raise RemoteStoreError(
                f"{self.address} names a commit, which never changes. Push to the dataset, or to a "
                "branch of it."
            )
        draft = HubDraft(self._place)
        try:
            yield draft
        finally:
            draft.uploads.shutdown(wait=False, cancel_futures=True)

    def asked(self, what: str, ask: Callable[[], T], *, whole: bool = False) -> T:
        """Return what a call of huggingface_hub returns, tried again where that may help."""
        return self._repeat(what, lambda pace: self.once(pace, ask, whole=whole))

    def once(self, pace: Pace, ask: Callable[[], T], *, whole: bool) -> T:
        """Return what one call of huggingface_hub returns; raises what `refusal` makes of errors.

        Parameters
        ----------
        whole : bool
            See `Pace.wait`.
        """
        try:
            return pace.wait(ask, whole=whole)
        except (FeatstoreError, TransientError):
            raise
        except Exception as err:
            raise self.refusal(err) from _no_secrets(err)

    def refusal(self, err: Exception) -> Exception:
        """Return what an error of huggingface_hub becomes: final, or worth another attempt."""
        answer = _answer_of(err)
        status = 0 if answer is None else answer.status_code
        if status in (401, 403, 404):
            return self._no_dataset(status)
        said = _said(err)
        if answer is None or status in AGAIN:
            again = TransientError(said if answer is None else f"the hub said {status}")
            again.after = 0.0 if answer is None else max(0.0, number_in(answer, "Retry-After"))
            return again
        return RemoteStoreError(f"{self.address}: the hub said {status}: {said}")

    def _no_dataset(self, status: int) -> RemoteStoreError:
        return RemoteStoreError(
            f"{self.address} is no dataset of the hub, or none that your token may use (the hub "
            f"said {status}). `hf auth whoami` shows whose token it is, and `hf repos create "
            f"{self.repository} --repo-type dataset` makes the dataset."
        )

    def _url(self, name: str) -> str:
        if self._offline:
            raise UnreachableError(
                f"{self.address}/{name} was not asked for, because HF_HUB_OFFLINE is set."
            )
        path = "/".join(filter(None, (self.folder, name)))
        revision = quote(self._commit or self.revision, safe="")
        return f"{self.endpoint}/datasets/{self.repository}/resolve/{revision}/{quote(path)}"

    def _credentials(self, url: str) -> dict[str, str]:
        # Large files are redirected to other servers, which must not see the token.
        return self._headers if urlsplit(url)[:2] == urlsplit(self.endpoint)[:2] else {}

    def _check(self, name: str, answer: Any, *, asked_range: bool) -> None:
        if answer.status in (401, 403) or answer.headers.get("X-Error-Code", "") in _REFUSED:
            raise self._no_dataset(answer.status)
        super()._check(name, answer, asked_range=asked_range)

    def _followed(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        if urlsplit(target).scheme != "https" and urlsplit(self.endpoint).scheme == "https":
            raise RemoteStoreError(f"{self.address} redirects to a server without TLS. Not read.")
        return target


class HubDraft(HubObjects):
    """The next commit of a dataset of the hub.

    All reads are of one commit, and of what was written since. Large files are sent while the draft
    grows; the hub keeps them by their sha256, so that an interrupted push sends none twice. The
    commit is made by `publish`, on the condition that its parent is still the one that was read.
    """

    can_write = True
    is_atomic = True

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        logging.getLogger("huggingface_hub.utils._http").addFilter(_FILTER)
        self._commit = self.head()
        self._there = dict(super().names())
        self._staged: dict[str, Any] = {}
        self._sending: list[Future[None]] = []
        self.uploads = ThreadPoolExecutor(_AT_ONCE, "upload")

    def pinned(self) -> str:
        """Return the address of the commit that was read or, once published, made."""
        return self.at(self._commit)

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size of the files below `prefix`."""
        added = {name: add.upload_info.size for name, add in self._staged.items()}
        found = {**self._there, **added}
        return ((name, size) for name, size in found.items() if name.startswith(prefix))

    def put(self, name: str, data: bytes | Path | IO[bytes]) -> None:
        """Enter a file in the draft; one of the disk is sent meanwhile, others with the commit."""
        add = self._stage(name, data)
        if isinstance(data, Path):
            # No further ahead of the link than its calls reach: what is reported as sent nearly is.
            while len(late := [sent for sent in self._sending if not sent.done()]) >= _AT_ONCE:
                wait(late, return_when=FIRST_COMPLETED)
            self._sending.append(self.uploads.submit(self._upload, add))

    def create(self, name: str, data: bytes | Path | IO[bytes]) -> bool:
        """Enter a file only if there is none."""
        if name in self._staged or name in self._there:
            return False
        self._stage(name, data)
        return True

    def replace(self, name: str, data: bytes, tag: str) -> bool:
        """Enter a file only if the one that is there has this tag."""
        if self.read_tagged(name, limit=LARGEST)[1] != tag:
            return False
        self._stage(name, data)  # sent with the commit: it may be replaced again before
        return True

    def keep(self) -> None:
        """Wait until what is sent of the files entered so far has arrived.

        Raises
        ------
        RemoteStoreError
            If the hub has refused a file, or could not be reached.
        """
        for sent in self._sending:
            sent.result()
        self._sending = []

    def publish(self, message: str) -> bool:
        """Make the commit.

        Raises
        ------
        RemoteStoreError
            If the hub refuses, or cannot be reached.
        """
        self.keep()
        if not self._staged:
            return True
        made = self._repeat("the commit", lambda _: self._make_commit(message))
        self._commit = made or self._commit
        return bool(made)

    def _make_commit(self, message: str) -> str:
        """Return the new commit; empty if the parent is no longer the head."""
        try:
            made = self.api.create_commit(
                self.repository, list(self._staged.values()), commit_message=message,
                repo_type="dataset", revision=self.revision, parent_commit=self._commit,
                num_threads=_AT_ONCE,
            )  # fmt: skip
            return str(made.oid)
        except Exception as err:
            answer = _answer_of(err)
            if answer is not None and answer.status_code in (409, 412):
                return ""
            refusal = self.refusal(err)
            # The answer may have been lost, and not the request: the next round finds all there.
            if isinstance(refusal, TransientError) and self.head() != self._commit:
                return ""
            raise refusal from _no_secrets(err)

    def _stage(self, name: str, data: bytes | Path | IO[bytes]) -> Any:
        from huggingface_hub import CommitOperationAdd

        self.rule(name)
        self._staged[name] = CommitOperationAdd("/".join(filter(None, (self.folder, name))), data)
        return self._staged[name]

    def _upload(self, add: Any) -> None:
        def ask() -> None:
            self.api.preupload_lfs_files(
                self.repository, [add], repo_type="dataset", revision=self.revision,
                free_memory=False,
            )  # fmt: skip

        try:
            self.once(self._pace("the upload"), ask, whole=True)
        except TransientError as err:  # the library has tried it several times
            raise UnreachableError(
                f"An upload to {self.address} failed: {err}. Push again: what has arrived is not "
                "sent twice."
            ) from err

    @contextlib.contextmanager
    def _get(self, name: str, span: tuple[int, int] | None, pace: Pace) -> Iterator[Answer]:
        if name in self._staged:
            with self._staged[name].as_file() as file:
                data = file.read()
            yield Answer(len(data), sha256_hex(data), ranged=False, pieces=[data])
        else:
            with super()._get(name, span, pace) as answer:
                yield answer


def _answer_of(err: BaseException | None) -> Any:
    """Return the hub's answer that an error comes from; None if it comes from none."""
    while err is not None:
        answer = getattr(err, "response", None)
        if answer is not None:
            return answer
        err = err.__cause__ or err.__context__
    return None


def _said(err: BaseException) -> str:
    cause = err.__cause__ or err
    return one_line(f"{type(cause).__name__}: {cause}")


def _no_secrets(err: Exception) -> Exception:
    """Return an error to name as a cause, without the signed addresses that the other may hold."""
    return RuntimeError(_said(err))


class _WithoutQueries(logging.Filter):
    """Takes queries out of what is logged: the address of an upload is signed."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = QUERY.sub("?…", record.getMessage()), ()
        return True


_FILTER = _WithoutQueries()


#: Time in which Google's store takes one put of the same object, as of the log; more it refuses.
UPDATE = timedelta(seconds=1)

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

#: A server of this machine, without TLS.
_HERE = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/?")


class BucketObjects(Objects):
    """Files of a bucket.

    Credentials, region and endpoint are those of the environment: AWS_*, GOOGLE_*, AZURE_*, or the
    machine's own role.
    """

    can_write = whole_first = True

    def __init__(self, address: Address) -> None:
        super().__init__(address.url)
        with needs_extra(address.url):
            from obstore import exceptions
            from obstore.store import from_url
        self._errors = exceptions
        # A missing file is raised as Python's own error.
        self._caught = (exceptions.BaseError, OSError)
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
        allowed = os.environ.get("AWS_ALLOW_HTTP") == "true"
        options: Any = {
            "allow_http": allowed or _HERE.fullmatch(endpoint) is not None,
            "connect_timeout": timedelta(seconds=10),
            "read_timeout": timedelta(seconds=self.patience),
            "timeout": timedelta(seconds=self.deadline),
        }
        retry: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}
        # A put waits for its turn among many publishers. Reads do not: a dead server is soon told.
        turns: Any = {
            "max_retries": 60, "retry_timeout": 120 * UPDATE,
            "backoff": {"init_backoff": UPDATE, "max_backoff": 8 * UPDATE},
        }  # fmt: skip
        try:
            self._store: Any = from_url(address.url, client_options=options, retry_config=retry)
            self._puts: Any = from_url(address.url, client_options=options, retry_config=turns)
        except exceptions.BaseError as err:
            raise RemoteStoreError(f"{address.url} cannot be opened: {_fault(err)}.") from err

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size of the files below `prefix`."""
        pages = self._pace(prefix or "its list of files").over(self._store.list(prefix or None))
        try:
            yield from self.listed((one["path"], one["size"]) for page in pages for one in page)
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
            self._puts.put(name, data, **options)
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
            facts, stream = answer.meta, answer.stream(min_chunk_size=1)
            # As they come, so that a slow answer is noticed.
            pieces = (memoryview(piece).cast("B") for piece in stream)
            # What a file is known by: its ETag, and its version, which Google's store goes by.
            tag = "\n".join(filter(None, (facts.get("e_tag") or "", facts.get("version"))))
            yield Answer(int(facts["size"]), tag, span is not None, pieces)
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
        return self._failed(name, err) if isinstance(err, final) else TransientError(_fault(err))

    def _failed(self, name: str, err: Exception) -> RemoteStoreError:
        return RemoteStoreError(
            f"{self.address}: {name} was refused or failed: {_fault(err)}. Check the address, and "
            "the credentials, region and endpoint in the environment (docs/ref/addresses.md)."
        )


def _fault(err: Exception) -> str:
    return one_line(str(err).split("\n\nDebug source:")[0])
