"""A server of the part of the hub's protocol that huggingface_hub speaks here; all in memory.

It knows commits with a parent, large files by Git LFS (batch, upload, verify), lists, and files
with ranges, large ones by a redirect to a signed address of another host. It does not know Xet.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np

from tests.featstore.remote.proxy import Quiet, _serving

COMMIT = "c" * 40
CONVERTED = "d" * 40

#: The one token that may write, and the secret of signed addresses.
TOKEN = "hf_aTokenThatMayWrite"
SECRET = "sIgNaTuRe"

#: Bytes that a link carries at once.
PIECE = 2**20

#: Files of so many bytes are large ones.
LARGE = 10_000


@dataclass
class Hub:
    """The one dataset of a running server."""

    repository: str
    url: str = ""
    #: Commit -> path -> content; a large file is in `large`, too.
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    #: Called with method and path of each request; a status that it returns, with headers, is the
    #: answer, and ``"cut"`` ends the connection in the middle of the body.
    harm: Callable[[str, str], Any] | None = None
    #: Method, path, and whether a token came with it.
    requests: list[tuple[str, str, bool]] = field(default_factory=list)
    #: Called, to wait, with the size of each request, and of each piece of a body in either way.
    latency: Callable[[int], object] | None = None
    carry: Callable[[int], object] | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    hashed: dict[int, tuple[bytes, str]] = field(default_factory=dict)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a branch or commit."""
        return self.commits[self.branches.get(revision, revision)]

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Make these the files of a branch, and return the commit."""
        sha = hashlib.sha1(f"{next(self.numbers)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def sha256(self, data: bytes) -> str:
        """Return a hash, made once for each object: the hub does not hash a file to list it."""
        if id(data) not in self.hashed:
            self.hashed[id(data)] = (data, hashlib.sha256(data).hexdigest())
        return self.hashed[id(data)][1]

    def facts(self, path: str, data: bytes) -> dict[str, Any]:
        """Return what is stated of a file."""
        facts: dict[str, Any] = {"type": "file", "size": len(data), "path": path}
        blob = data
        if len(data) >= LARGE:
            digest = self.sha256(data)
            blob = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
                digest.encode(), len(data)
            )  # fmt: skip
            facts["lfs"] = {"oid": digest, "size": len(data), "pointerSize": len(blob)}
        whole = b"blob %d\0" % len(blob) + blob
        return {**facts, "oid": hashlib.sha1(whole, usedforsecurity=False).hexdigest()}

    def count(self, method: str, part: str) -> int:
        """Return how many requests there were of a method, with `part` in their path."""
        return sum(m == method and part in path for m, path, _ in self.requests)


def files_below(root: Path) -> dict[str, bytes]:
    """Return path -> content of a folder's files."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@contextmanager
def hub_server(
    root: Path | None, repository: str, *, converted: Path | None = None
) -> Iterator[Hub]:
    """Serve the files below `root` as the dataset `repository`; 127.0.0.1 only.

    Those below `converted` are its revision refs/convert/parquet.
    """
    state = Hub(repository)
    state.commits[COMMIT] = {} if root is None else files_below(root)
    state.branches["main"] = COMMIT
    if converted is not None:
        state.commits[CONVERTED] = files_below(converted)
        state.branches["refs/convert/parquet"] = CONVERTED
    api = f"/api/datasets/{repository}"

    class Handler(Quiet):
        timeout = 30

        def _answer(self, data: bytes | memoryview, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "HEAD":
                return
            for first in range(0, len(data), PIECE):
                piece = data[first : first + PIECE]
                if state.carry is not None:
                    state.carry(len(piece))
                self.wfile.write(piece)

        def _json(self, document: Any, status: int = 200, **headers: str) -> None:
            data = json.dumps(document).encode()
            self._answer(data, status, Content_Type="application/json", **headers)

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            path, self.length = unquote(parts.path), int(self.headers.get("Content-Length", 0))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            with state.lock:
                state.requests.append((self.command, path, bool(token)))
                harm = None if state.harm is None else state.harm(self.command, path)
            if state.latency is not None:
                state.latency(self.length)
            if harm == "cut":
                self.rfile.read(self.length // 2)
                self.close_connection = True
                return
            body = self._body()
            if harm == "lost":  # the request is served, and its answer is lost
                self.wfile = io.BytesIO()
                self.close_connection = True
            elif harm is not None:
                self._json({"error": "as asked"}, harm[0], **harm[1])
                return
            writes = self.command in ("POST", "PUT") and "paths-info" not in path
            if path.startswith("/signed/"):
                self._signed(path, dict(parse_qsl(parts.query)), body)
            elif token not in ("", TOKEN):
                self._json({"error": "Invalid credentials"}, 401)
            elif writes and not token:
                self._json({"error": "Write access is forbidden"}, 403)
            else:
                with state.lock:
                    self._route(path, dict(parse_qsl(parts.query)), body)

        do_GET = do_HEAD = do_POST = do_PUT = _serve

        def _body(self) -> Any:
            # Nothing here holds the interpreter for as long as 256 MB take to be zeroed or copied.
            body = memoryview(np.empty(self.length, np.uint8))
            for first in range(0, self.length, PIECE):
                n_bytes = self.rfile.readinto(body[first : first + PIECE])
                if state.carry is not None:
                    state.carry(n_bytes)
            return bytes(body) if self.length < PIECE else body

        def _route(self, path: str, query: dict[str, str], body: bytes) -> None:
            if path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif path.startswith(f"/datasets/{repository}/resolve/"):
                self._resolve(*self._split(path.removeprefix(f"/datasets/{repository}/resolve/")))
            elif path == f"/datasets/{repository}.git/info/lfs/objects/batch":
                self._batch(json.loads(body))
            elif path == "/verify":
                stated = json.loads(body)
                there = len(state.large.get(stated["oid"], b"")) == stated["size"]
                self._json({}, 200 if there else 400)
            elif path.startswith(f"{api}/tree/"):
                self._tree(*self._split(path.removeprefix(f"{api}/tree/")))
            elif path.startswith(f"{api}/preupload/"):
                self._preupload(path.removeprefix(f"{api}/preupload/"), json.loads(body))
            elif path.startswith(f"{api}/commit/"):
                lines = [json.loads(line) for line in body.splitlines()]
                self._commit(path.removeprefix(f"{api}/commit/"), lines)
            elif path == api or path.startswith(f"{api}/revision/"):
                name = path.removeprefix(f"{api}/revision/") if path != api else "main"
                sha = state.branches.get(name, name)
                if sha in state.commits:
                    self._json({"id": repository, "sha": sha, "siblings": []})
                else:
                    self._json({}, 404, X_Error_Code="RevisionNotFound")
            else:
                self._json({}, 404, X_Error_Code="RepoNotFound")

        def _split(self, rest: str) -> tuple[str, str]:
            for name in (*state.branches, *state.commits):
                if rest == name or rest.startswith(f"{name}/"):
                    return name, rest.removeprefix(name).strip("/")
            return "", rest

        def _tree(self, revision: str, folder: str) -> None:
            files = state.files(revision)
            found = [
                state.facts(p, d)
                for p, d in files.items()
                if p.startswith(f"{folder}/".lstrip("/"))
            ]
            if found or not folder:
                self._json(found)
            else:
                self._json({}, 404, X_Error_Code="EntryNotFound")

        def _resolve(self, revision: str, name: str) -> None:
            if not revision:
                self._json({}, 404, X_Error_Code="RevisionNotFound")
                return
            data = state.files(revision).get(name)
            commit = state.branches.get(revision, revision)
            if data is None:
                self._json({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            elif len(data) >= LARGE:
                port = self.server.server_address[1]
                where = f"http://localhost:{port}/signed/{commit}/{name}?X-Signature={SECRET}"
                self._answer(b"", 302, Location=where, X_Repo_Commit=commit)
            else:
                self._ranged(data, X_Repo_Commit=commit)

        def _signed(self, path: str, query: dict[str, str], body: bytes) -> None:
            """Serve the other host, which holds large files and takes no token."""
            if query.get("X-Signature") != SECRET or "Authorization" in self.headers:
                self._answer(b"", 403)
            elif self.command == "PUT":
                state.sha256(body)
                state.large[path.removeprefix("/signed/")] = body
                self._answer(b"")
            else:
                _, _, commit, name = path.split("/", 3)
                self._ranged(state.files(commit)[name])

        def _ranged(self, data: bytes, **headers: str) -> None:
            asked = re.fullmatch(r"bytes=(\d*)-(\d+)", self.headers.get("Range", ""))
            if asked:
                first = int(asked[1]) if asked[1] else len(data) - int(asked[2])
                last = min(int(asked[2]) if asked[1] else len(data), len(data) - 1)
                span = f"bytes {first}-{last}/{len(data)}"
                self._answer(memoryview(data)[first : last + 1], 206, Content_Range=span, **headers)
            else:
                self._answer(data, **headers)

        def _preupload(self, revision: str, asked: dict[str, Any]) -> None:
            here = state.files(revision)
            found = []
            for file in asked["files"]:
                mode = "lfs" if file["size"] >= LARGE else "regular"
                facts = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                if file["path"] in here:
                    stated = state.facts(file["path"], here[file["path"]])
                    facts["oid"] = stated["lfs"]["oid"] if "lfs" in stated else stated["oid"]
                found.append(facts)
            self._json({"files": found})

        def _batch(self, asked: dict[str, Any]) -> None:
            found = []
            for one in asked["objects"]:
                facts = {"oid": one["oid"], "size": one["size"]}
                if one["oid"] not in state.large:
                    href = f"{state.url}/signed/{one['oid']}?X-Signature={SECRET}"
                    actions = {"upload": {"href": href}, "verify": {"href": f"{state.url}/verify"}}
                    facts["actions"] = actions
                found.append(facts)
            self._json({"transfer": "basic", "objects": found})

        def _commit(self, branch: str, lines: list[dict[str, Any]]) -> None:
            (header,) = (line["value"] for line in lines if line["key"] == "header")
            if header.get("parentCommit", state.branches[branch]) != state.branches[branch]:
                self._json({"error": "A commit has happened since."}, 412)
                return
            files = dict(state.files(branch))
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = state.large[value["oid"]]
            sha = state.commit(files, branch)
            page = f"{state.url}/datasets/{repository}/commit/{sha}"
            self._json({"commitUrl": page, "commitOid": sha})

    with _serving(Handler) as port:
        state.url = f"http://127.0.0.1:{port}"
        yield state
