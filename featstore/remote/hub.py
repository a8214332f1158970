"""A dataset repository of the Hugging Face hub: its files, and a draft of its next commit."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from featstore.address import Address
from featstore.errors import (
    CorruptStoreError,
    FeatstoreError,
    RemoteStoreError,
    UnreachableError,
    needs_extra,
)
from featstore.identity import sha256_hex
from featstore.remote.objects import LARGEST, Answer, Objects, Pace, TransientError
from featstore.remote.web import AGAIN, WebObjects, number_in

T = TypeVar("T")

_COMMIT = re.compile(r"[0-9a-f]{40}")

#: Bytes of a listing, whose size nobody knows before: it may take until the deadline.
_ANY_SIZE = 2**50

#: Bytes, and files, that are handed to the hub's own uploader in one call.
_BATCH_BYTES, _BATCH_FILES = 64 * 2**20, 64

#: Calls of the uploader at once, and files that each sends at once.
_CALLS, _FILES = 4, 4

#: Seconds for which the address that a large file was redirected to is asked again. The hub signs
#: them for an hour.
_REMEMBERED = 600.0

_REFUSED = frozenset({"RepoNotFound", "RevisionNotFound", "GatedRepo"})


class HubObjects(WebObjects):
    """Files below ``hf://datasets/OWNER/NAME[@REVISION][/FOLDER]``; a token as the hub's own.

    The first answer says which commit the revision is; everything else is read from that commit.
    Where a large file was redirected to is remembered for a while: each range of it would otherwise
    cost a request to the hub, which counts them, and a round trip.
    """

    what = "a dataset of the Hugging Face hub"
    can_push = True

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
        """Yield name and size of the files below `prefix`; too many are a CorruptStoreError."""
        for name, file in self.files(prefix).items():
            yield name, file.size

    def files(self, prefix: str = "", commit: str = "") -> dict[str, Any]:
        """Return name -> what the hub states of a file (`size`, `blob_id`, `lfs`), below `prefix`.

        Parameters
        ----------
        commit : str
            That which is read, or the revision, by default.

        Raises
        ------
        CorruptStoreError
            If there are too many.
        """
        from huggingface_hub.errors import EntryNotFoundError

        most = int(self.limits.most_names) + 1
        root = "/".join(filter(None, (self.folder, prefix.rstrip("/"))))

        def ask() -> list[Any]:
            tree = self.api.list_repo_tree(
                self.repository, root or None, recursive=True,
                revision=commit or self._commit or self.revision, repo_type="dataset",
            )  # fmt: skip
            try:
                return list(itertools.islice((f for f in tree if hasattr(f, "blob_id")), most))
            except EntryNotFoundError:
                return []

        found = self.asked(prefix or "its list of files", ask, n_bytes=_ANY_SIZE)
        if len(found) >= most:
            raise self._too_many()
        start = f"{self.folder}/" if self.folder else ""
        for file in found:
            sized = type(file.size) is int and 0 <= file.size <= LARGEST
            if not isinstance(file.path, str) or not sized:
                raise CorruptStoreError(
                    f"{self.address} lists a file of which it states neither name nor size as they "
                    f"must be: {str(file.path)[:80]!r}, {str(file.size)[:20]!r}."
                )
        return {file.path.removeprefix(start): file for file in found}

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

    def asked(self, what: str, ask: Callable[[], T], *, n_bytes: int = 0) -> T:
        """Return what a call of huggingface_hub returns, tried again where that may help."""
        return self._repeat(what, lambda pace: self.once(pace, ask, n_bytes))

    def once(self, pace: Pace, ask: Callable[[], T], n_bytes: int) -> T:
        """Return what one call of huggingface_hub returns; raises what `refusal` makes of errors.

        Parameters
        ----------
        n_bytes : int
            What the call moves, at the least rate or faster.
        """
        try:
            return pace.wait(ask, n_bytes)
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

    def _moved(self, name: str, url: str, target: str) -> None:
        # A commit never changes, so neither does what a file of it was redirected to.
        if target and self._commit and f"/resolve/{self._commit}/" in url:
            self.targets[name] = (target, time.monotonic() + _REMEMBERED)

    def _credentials(self, url: str) -> dict[str, str]:
        # Large files are redirected to other servers, which must not see the token.
        own = urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]
        return self._headers if own else {}

    def _note(self, answer: Any) -> None:
        commit = str(answer.headers.get("X-Repo-Commit", ""))
        if not self._commit and _COMMIT.fullmatch(commit):
            self._commit = commit

    def _tag(self, answer: Any) -> str:  # noqa: ARG002
        return ""  # the commit is the tag of every file

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
        self._there = self.files()
        self._staged: dict[str, Any] = {}
        self._kept: dict[str, Any] = {}
        self._batch: list[Any] = []
        self._sending: list[Future[None]] = []
        self._n_kept = 0
        self.uploads = ThreadPoolExecutor(_CALLS, "upload")
        self.page = f"{self.endpoint}/datasets/{self.repository}"
        revision = quote(self.revision, safe="")
        self.downloads = f"{self.page}/resolve/{revision}/{self.folder}".rstrip("/")

    def pinned(self) -> str:
        """Return the address of the commit that was read or, once published, made."""
        return self.at(self._commit)

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size of the files below `prefix`."""
        found = {name: file.size for name, file in self._there.items()}
        found |= {name: add.upload_info.size for name, add in self._staged.items()}
        return ((name, size) for name, size in found.items() if name.startswith(prefix))

    def put(self, name: str, data: bytes | Path | IO[bytes]) -> None:
        """Enter a file in the draft; a large one is sent meanwhile."""
        self._batch.append(self._stage(name, data))
        size = sum(add.upload_info.size for add in self._batch)
        if size >= _BATCH_BYTES or len(self._batch) >= _BATCH_FILES:
            self._upload_batch()

    def create(self, name: str, data: bytes | Path | IO[bytes]) -> bool:
        """Enter a file only if there is none."""
        if name in self._staged or name in self._there:
            return False
        self._stage(name, data)
        return True

    def replace(self, name: str, data: bytes, tag: str) -> bool:
        """Enter a file only if the one that is there has this tag."""
        if self.read_tagged(name, limit=_ANY_SIZE)[1] != tag:
            return False
        self._stage(name, data)  # sent with the commit: it may be replaced again before
        return True

    def keep(self, *, arrived: bool = False) -> None:
        """Count what was entered so far as complete; it is sent while other files are entered.

        Parameters
        ----------
        arrived : bool
            Wait until it has been sent.

        Raises
        ------
        RemoteStoreError
            If the hub has refused a file by now, or could not be reached.
        """
        self._upload_batch()
        for sent in self._sending:
            if arrived or sent.done():
                sent.result()
        self._n_kept, self._kept = len(self._sending), dict(self._staged)

    def undo(self) -> None:
        """Drop what was entered since `keep`; what was sent of it stays unused.

        A file of it that the hub has refused hinders no other set.
        """
        for unkept in self._sending[self._n_kept :]:
            unkept.cancel()
        del self._sending[self._n_kept :]
        self._batch, self._staged = [], dict(self._kept)

    def publish(self, message: str) -> bool:
        """Make the commit, and compare its files with those that were sent.

        Raises
        ------
        RemoteStoreError
            If the hub refuses, cannot be reached, or states other files than were sent.
        """
        self._upload_batch()
        for sent in self._sending:
            sent.result()
        self.uploads.shutdown()
        if not self._staged:
            return True
        made = self._repeat("the commit", lambda _: self._make_commit(message))
        if made and (wrong := self._differing(made)):
            raise RemoteStoreError(
                f"{self.at(made)} states other bytes than were sent for {wrong[0]} and "
                f"{len(wrong) - 1:,} other files. Push again; if that does not help, tell the hub."
            )
        self._commit = made or self._commit
        return bool(made)

    def _make_commit(self, message: str) -> str:
        """Return the new commit; empty if the parent is no longer the head."""
        try:
            made = self.api.create_commit(
                self.repository, list(self._staged.values()), commit_message=message,
                repo_type="dataset", revision=self.revision, parent_commit=self._commit,
                num_threads=_FILES,
            )  # fmt: skip
            return str(made.oid)
        except Exception as err:
            answer = _answer_of(err)
            if answer is not None and answer.status_code in (409, 412):
                return ""
            refusal = self.refusal(err)
            # The answer may have been lost, and not the request.
            if isinstance(refusal, TransientError) and (now := self.head()) != self._commit:
                return "" if self._differing(now) else now
            raise refusal from _no_secrets(err)

    def _differing(self, commit: str) -> list[str]:
        """Return the files of the draft that a commit lacks, or has with another hash."""
        from huggingface_hub.utils.sha import git_hash

        there, wrong = self.files(commit=commit), []
        for name, add in self._staged.items():
            file = there.get(name)
            if file is not None and file.lfs is not None:
                same = file.lfs.sha256 == add.upload_info.sha256.hex()
            else:
                same = file is not None and file.blob_id == git_hash(_content(add))
            if not same:
                wrong.append(name)
        return wrong

    def _stage(self, name: str, data: bytes | Path | IO[bytes]) -> Any:
        from huggingface_hub import CommitOperationAdd

        self.rule(name)
        path = "/".join(filter(None, (self.folder, name)))
        self._staged[name] = CommitOperationAdd(path, data)
        return self._staged[name]

    def _upload_batch(self) -> None:
        if not self._batch:
            return
        # No further ahead of the link than its calls reach: what is reported as sent nearly is, and
        # the hashes of the next files take no time from it.
        while len(late := [sent for sent in self._sending if not sent.done()]) >= _CALLS:
            wait(late, return_when=FIRST_COMPLETED)
        self._sending.append(self.uploads.submit(self._upload, self._batch))
        self._batch = []

    def _upload(self, batch: list[Any]) -> None:
        def ask() -> None:
            self.api.preupload_lfs_files(
                self.repository, batch, repo_type="dataset", num_threads=_FILES,
                revision=self.revision, free_memory=False,
            )  # fmt: skip

        try:
            self.once(self._pace("the upload"), ask, _ANY_SIZE)
        except TransientError as err:  # the library has tried it several times
            raise UnreachableError(
                f"An upload to {self.address} failed: {err}. Push again: what has arrived is not "
                "sent twice."
            ) from err

    @contextlib.contextmanager
    def _get(self, name: str, span: tuple[int, int] | None, pace: Pace) -> Iterator[Answer]:
        if name in self._staged:
            data = _content(self._staged[name])
            yield Answer(len(data), sha256_hex(data), ranged=False, pieces=[data])
        elif name in self._there:
            with super()._get(name, span, pace) as answer:
                yield replace(answer, tag=str(self._there[name].blob_id))
        else:
            raise FileNotFoundError(f"{self.address}/{name}")


def _content(add: Any) -> bytes:
    with add.as_file() as file:
        return bytes(file.read())


def _answer_of(err: BaseException | None) -> Any:
    """Return the hub's answer that an error comes from; None if it comes from none."""
    while err is not None:
        answer = getattr(err, "response", None)
        if answer is not None:
            return answer
        err = err.__cause__ or err.__context__
    return None


_QUERY = re.compile(r"\?[^\s\"')]+")


def _said(err: BaseException) -> str:
    """Return an error's words in one line, without queries, which may be signed."""
    cause = err.__cause__ or err
    return _QUERY.sub("?…", " ".join(f"{type(cause).__name__}: {cause}".split()))[:300]


def _no_secrets(err: Exception) -> Exception:
    """Return an error to name as a cause, without the signed addresses that the other may hold."""
    return RuntimeError(_said(err))


class _WithoutQueries(logging.Filter):
    """Takes queries out of what is logged: the address of an upload is signed."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _QUERY.sub("?…", record.getMessage()), ()
        return True


_FILTER = _WithoutQueries()
