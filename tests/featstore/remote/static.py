"""A plain web server of a folder, with ranges or without; 127.0.0.1 only."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.featstore.remote.proxy import Quiet, _serving


@contextmanager
def static_server(
    root: Path, *, ranges: bool = True, tags: bool = False, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, int]]:
    """Serve the files below `root`, perhaps with ETags, or with TLS; nothing is listed."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            path = root / unquote(urlsplit(self.path).path).strip("/")
            if not path.is_file():
                self.send_error(404)
                return
            size, status = path.stat().st_size, 200
            first, last = 0, size - 1
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and ranges:
                first, last, status = int(asked[1]), min(int(asked[2]), size - 1), 206
            with path.open("rb") as file:
                file.seek(first)
                data = file.read(last + 1 - first)
            self.send_response(status)
            if tags:
                self.send_header("ETag", f'"{path.stat().st_mtime_ns}-{size}"')
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with _serving(Handler, tls) as port:
        yield "127.0.0.1", port
