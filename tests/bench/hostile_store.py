"""A copy of the smoke suite's store whose texts try everything that a text can try on a page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import polars as pl

from featstore import open_store
from featstore.testing import write_set

#: Each sets the title of the page, or asks for an address, if anything of it is more than text.
TEXTS = (
    "</script><script>document.title = 'broken'</script>",
    "</style></svg></title><img src=x onerror=\"document.title = 'broken'\">",
    '" onload="document.title = 1" autofocus onfocus="document.title = 2" x="',
    "' onmouseover='document.title = 3",
    "{{ 7 * 7 }}{% for x in range(9) %}x{% endfor %}{{ config }}",
    "\u202edetrever\u202c \u2066isolated \u0007bell \u009b31m",
    "<svg onload=document.title=4><a href=javascript:document.title=5>link</a></svg>",
    "<iframe src=http://127.0.0.1:9/ping></iframe><link rel=stylesheet href=//127.0.0.1:9/x.css>",
    r"$\frac{broken $ and \url{x} $x_1$ id=\"f0\" url(#f0) font: 1px x",
    "\N{ZERO WIDTH JOINER}\N{COMBINING ACUTE ACCENT}" * 40,
    "long " * 200_000,
)


def write_hostile_store(smoke: Path, root: Path) -> None:
    """Copy the store `smoke` to `root` with `TEXTS` for its captions and names, in turn."""
    store = open_store(smoke)
    texts: Iterator[str] = cycle(TEXTS)
    for info in store.sets():
        view = store.view(str(info.key))
        items = view.items
        if info.key.kind in ("caption", "class_name"):
            own = [next(texts) for _ in range(items.height)]
            items = items.with_columns(pl.Series("text", own))
        write_set(
            root, view.numpy(), items, dataset=info.key.dataset, kind=info.key.kind,
            encoder=info.encoder, space=info.attributes["space"], facts={"note": TEXTS[0]},
            bias=view.bias if info.key.kind == "head_weight" else None,
        )  # fmt: skip
