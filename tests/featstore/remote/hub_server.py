"""The part of the hub's protocol that huggingface_hub's file system speaks, over a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.featstore.remote.proxy import _serving

COMMIT = "c" * 40
CONVERTED = "d" * 40


@contextmanager
def hub_server(root: Path, repository: str, *, converted: Path | None = None) -> Iterator[str]:
    """Serve the files below `root` as the dataset `repository`; 127.0.0.1 only.

    Those below `converted` are its revision refs/convert/parquet.
    """
    folders = {"main": root, COMMIT: root}
    if converted is not None:
        folders |= {"refs/convert/parquet": converted, CONVERTED: converted}

    def facts(path: Path, root: Path) -> dict[str, Any]:
        kind = "directory" if path.is_dir() else "file"
        name = path.relative_to(root).as_posix()
        return {"type": kind, "oid": "0" * 40, "size": path.stat().st_size, "path": name}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, data: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _json(self, document: Any) -> None:
            self._answer(json.dumps(document).encode(), Content_Type="application/json")

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            api = f"/api/datasets/{repository}"
            if path.startswith(f"/datasets/{repository}/resolve/"):
                _, _, _, _, _, revision, name = path.split("/", 6)
                self._file(folders[revision] / name)
            elif path.startswith(f"{api}/tree/"):
                revision, _, name = path.removeprefix(f"{api}/tree/").partition("/")
                folder = folders[revision] / name
                deep = (
                    dict(parse_qsl(urlsplit(self.path).query)).get("recursive", "").lower()
                    == "true"
                )
                if folder.is_dir():
                    inside = folder.rglob("*") if deep else folder.iterdir()
                    self._json([facts(one, folders[revision]) for one in sorted(inside)])
                else:
                    self._answer(b"{}", 404, X_Error_Code="EntryNotFound")
            elif path == api or path.removeprefix(f"{api}/revision/") in folders:
                own = folders[path.removeprefix(f"{api}/revision/") if path != api else "main"]
                sha = CONVERTED if own == converted else COMMIT
                self._json({"id": repository, "sha": sha, "siblings": []})
            elif path.startswith(f"{api}/revision/"):
                self._answer(b"{}", 404, X_Error_Code="RevisionNotFound")
            else:
                self._answer(b"{}", 404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Type", "").startswith("application/json"):
                names = json.loads(body)["paths"]
            else:
                names = [value for key, value in parse_qsl(body.decode()) if key == "paths"]
            here = folders[unquote(urlsplit(self.path).path).rpartition("/")[2]]
            self._json([facts(here / name, here) for name in names if (here / name).exists()])

        def _file(self, path: Path) -> None:
            if not path.is_file():
                self._answer(b"", 404, X_Error_Code="EntryNotFound")
                return
            data = path.read_bytes()
            headers = {"ETag": '"0"', "X_Repo_Commit": COMMIT, "X_Linked_Size": str(len(data))}
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked:
                first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
                span = f"bytes {first}-{last}/{len(data)}"
                self._answer(data[first : last + 1], 206, Content_Range=span, **headers)
            else:
                self._answer(data, **headers)

        def log_message(self, *_: Any) -> None:
            pass

    with _serving(Handler) as port:
        yield f"http://127.0.0.1:{port}"
