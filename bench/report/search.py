"""The page of a search: one offline file that answers from lists made beforehand.

The lists of words are exact. Phrases are put together in the page from vectors of few dimensions:
of texts their principal components, of pictures the directions that matter for scores of words.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.metrics.geometry import nearest_rows
from bench.metrics.ranks import first_places
from bench.report.page import render, resource
from bench.report.theme import css_variables
from bench.search import FAR, SOURCES, Searcher, Source
from bench.words import MODIFIERS, name_words, path_words
from featstore.images import thumbnail_webp

#: Pictures of a page, the last changed first.
MOST_PICTURES = 5_000

#: Pictures that a word lists, of each source.
DEEP = 24

#: Pictures in which an answer is looked for, names of a picture, and pictures like it.
FIRST, NAMES, LIKE = 8, 5, 8

#: Dimensions of the vectors of texts and of pictures.
WIDTH = 96

#: Fewer names of files that are words say nothing.
FEWEST_NAMES = 30

#: Bytes of all thumbnails, before base64: 25 MB at 5,000 pictures, 10 MB at 600.
BUDGET = {600: 2_400_000, MOST_PICTURES: 11_000_000}

#: Quality and longer side of thumbnails, the first that fits.
_SIZES = ((70, 160), (60, 160), (50, 160), (50, 128), (40, 112), (30, 96))

#: Rows that are scored at a time.
_ROWS = 1_024

Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class Page:
    """A page, and what to say of it.

    Attributes
    ----------
    html, policy : str
        The policy stands in the page; who serves it sends it, too.
    rows : list of int
        The pictures that it has, as rows of the searcher.
    words : int
    shares : dict of str to dict
        Of each source the `share` of names that it finds; empty where too few are words.
    chance : float
        What a source that guesses would find of the same names.
    """

    html: str
    policy: str
    rows: list[int]
    words: int
    shares: dict[str, dict[str, Any]]
    chance: float


def share(hits: Rows) -> dict[str, Any]:
    """Return how many of hits there are, the interval of their share, and both in words.

    The interval is Wilson's at 95 %, from 0 to 1.

    Examples
    --------
    >>> share(np.arange(263) < 81)["interval"]
    '26–37 %'
    """
    from scipy.stats import binomtest

    found, of = int(sum(hits)), len(hits)
    low, high = binomtest(found, of).proportion_ci(method="wilson")
    words = {
        "percent": f"{100 * found / of:.0f} %",
        "interval": f"{100 * low:.0f}–{100 * high:.0f} %",
    }
    return {"found": found, "of": of, "low": float(low), "high": float(high), **words}


def search_page(
    searcher: Searcher, folder: str, *, named: bool = True, serve: bool = False
) -> Page:
    """Lay out the page of a search.

    Parameters
    ----------
    searcher : Searcher
    folder : str
        What the folder is called, for commands to type.
    named : bool
        Show paths of files, and take their names for words.
    serve : bool
        Ask the program that serves the page for thumbnails and for texts that it has no list of.
    """
    pictures = page_pictures(searcher)
    sources = {name: searcher.source(name).of(pictures) for name in SOURCES}
    words = searcher.words if named else list(searcher.terms)
    vectors = searcher.vectors_of(words)
    printed = np.array([searcher.terms.get(word, False) for word in words])
    near, cosines = searcher.near(vectors)
    blocks = _text_blocks(searcher, vectors) | {
        "like": nearest_rows(sources["head"].images, min(LIKE, len(pictures) - 1)).astype("<u2"),
        "near": near.astype("<u2"), "nearness": _shades(cosines),
    }  # fmt: skip
    for by, source in sources.items():
        found = _answers(source, vectors, printed)
        blocks |= {f"{name}-{by}": array for name, array in found.items()}
    paths = [searcher.paths[i] for i in pictures]
    lists = [blocks[f"lists-{name}"] for name in SOURCES]
    typed, hits = _hits([*searcher.terms], paths, lists)
    shares = {} if len(typed) < FEWEST_NAMES else dict(zip(SOURCES, map(share, hits), strict=True))
    is_far = cosines[typed] < FAR
    parts = [hits[0][is_far], hits[0][~is_far]]
    called = [set(path_words(path)) if named else set[str]() for path in paths]
    tries = _tries(words, printed, lists[0], called)
    meta: dict[str, Any] = {
        "files": paths if named else [f"Picture {i + 1:,}" for i in range(len(paths))],
        "named": named, "serve": serve, "folder": folder, "words": [*words, *MODIFIERS],
        "n_words": len(words), "quiet": np.flatnonzero(~printed).tolist(), "far": FAR,
        "classes": searcher.classes[0], "support": len(sources["head"].fitted.aligner.support_),
        "gamma": float(sources["head"].fitted.aligner.gamma_), "dt": blocks["texts"].shape[1],
        "d": blocks["dual-head"].shape[1], "example": tries[0], "tries": tries,
        "best": blocks["best-head"].shape[1], "like": blocks["like"].shape[1],
    }  # fmt: skip
    data = {name: base64.b64encode(array.tobytes()).decode() for name, array in blocks.items()}
    if not serve:
        thumbs = fit_thumbnails([searcher.thumbnails[i] for i in pictures])
        fitted = [base64.b64encode(one).decode() for one in thumbs]
        data["thumbs"] = "".join(fitted)
        meta["thumbs"] = [0, *np.cumsum([len(one) for one in fitted]).tolist()]
    chance = min(FIRST, len(paths)) / len(paths)
    style, script = _style(), resource("search.js")
    policy = _policy(style, script, serve=serve)
    context = {
        "csp": policy, "css": style, "js": script,
        "meta": json.dumps(meta, ensure_ascii=False).replace("<", "\\u003c"), "data": data,
        "folder": folder, "pictures": len(paths), "of": len(searcher.paths), "words": len(words),
        "named": named, "serve": serve, "shares": shares, "chance": chance,
        "far": [share(part) for part in parts if min(map(len, parts)) >= FEWEST_NAMES],
    }  # fmt: skip
    html = render("search.html", context)
    return Page(html, policy, pictures, len(words), shares, chance)


def page_pictures(searcher: Searcher) -> list[int]:
    """Return the rows of the pictures of a page: those that were changed last, sorted by path."""
    rows = {path: row for row, path in enumerate(searcher.paths)}
    return sorted([rows[path] for path in searcher.listing.files if path in rows][:MOST_PICTURES])


def _answers(source: Source, vectors: Rows, printed: npt.NDArray[np.bool_]) -> dict[str, Rows]:
    """Return what a page has of a source: its lists, names of pictures, and factors for phrases."""
    words, shown = source.predict(vectors), np.flatnonzero(printed)
    deep = min(DEEP, len(source.images))
    lists = np.concatenate([_first(source.scores(part), deep) for part in _parts(words)])
    best = np.concatenate([
        shown[_first(part @ words[shown].T, min(NAMES, len(shown)))]
        for part in _parts(source.images)
    ])  # fmt: skip
    cosines = np.einsum("nd,nkd->nk", source.images, words[best])
    some = words[:: max(1, len(words) // 2_000)]
    dual, images = _directions(source.fitted.aligner.dual_, source.images, some)
    (dual, by_dual), (images, by_image) = _squeezed(dual), _squeezed(images)
    return {
        "lists": lists.astype("<u2"), "best": best.astype("<u2"), "best-score": _shades(cosines),
        "dual": dual, "dual-scale": by_dual, "pictures": images, "pictures-scale": by_image,
        "hubs": source.hubs.astype("<f4"),
        # How near the first picture of a word is: the length of what a phrase predicts is lost.
        "top": np.array([np.einsum("wd,wd->w", words, source.images[lists[:, 0]]).mean()], "<f4"),
    }  # fmt: skip


def _parts(rows: Rows) -> Iterable[Rows]:
    return np.array_split(rows, 1 + len(rows) // _ROWS)


def _first(scores: Rows, k: int) -> npt.NDArray[np.int64]:
    """Return the columns of the k highest of each row, the highest first."""
    n, columns = scores.shape
    return first_places(scores, np.full(n, -1), np.zeros(columns, np.int64), k)


def _shades(cosines: Rows) -> npt.NDArray[np.uint8]:
    return np.clip(np.round(cosines * 255), 0, 255).astype(np.uint8)


def _squeezed(rows: Rows) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return rows as bytes, and what each row of them is to be multiplied by."""
    scale = np.maximum(np.abs(rows).max(axis=1), 1e-12) / 127
    return np.round(rows / scale[:, None]).astype(np.int8), scale.astype("<f4")


def _directions(dual: Rows, images: Rows, texts: Rows) -> tuple[Rows, Rows]:
    """Return factors of few columns for duals and images, whose products keep the scores of texts.

    The best of that rank for the scores of `texts` (predicted rows) with `images`.
    """
    scores = texts.astype(np.float64) @ images.T
    pictures = np.linalg.qr(scores.T @ _components(scores.T))[0]
    return dual @ (images.T @ pictures), pictures


def _components(rows: Rows) -> Rows:
    """Return the WIDTH directions along which rows are longest, about 0, as columns."""
    from scipy.linalg import eigh

    n = rows.shape[1]
    found = eigh(rows.T @ rows, subset_by_index=[max(0, n - WIDTH), n - 1])
    return np.asarray(found[1][:, ::-1])


def _text_blocks(searcher: Searcher, vectors: Rows) -> dict[str, Rows]:
    """Return the words of a page, and names of the head's classes, in few dimensions."""
    fitted = searcher.source("head").fitted
    texts = fitted.y.apply(np.concatenate([vectors, searcher.vectors_of(MODIFIERS)]))
    # Directions of all texts that there are, about 0: kernels look at products.
    basis = _components(texts)
    small = texts @ basis
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    support, _ = _squeezed(fitted.aligner.support_ @ basis)
    lengths = np.linalg.norm(support.astype(np.float64), axis=1)
    return {
        "texts": np.round(small * 127 / np.abs(small).max()).astype(np.int8), "support": support,
        "support-scale": (1 / lengths).astype("<f4"),
    }  # fmt: skip


def _hits(
    terms: list[str], paths: list[str], lists: Sequence[Rows]
) -> tuple[list[int], list[npt.NDArray[np.bool_]]]:
    """Return which words are names of files, and of each source whether they find their picture."""
    rows = {term.lower(): row for row, term in reversed(list(enumerate(terms)))}
    own: dict[int, set[int]] = {}
    for picture, name in enumerate(map(name_words, paths)):
        if name in rows:
            own.setdefault(rows[name], set()).add(picture)
    found = [
        np.array([bool(mine & {*list_[word, :FIRST].tolist()}) for word, mine in own.items()], bool)
        for list_ in lists
    ]
    return list(own), found


def _tries(
    words: list[str], printed: npt.NDArray[np.bool_], lists: Rows, called: list[set[str]]
) -> list[str]:
    """Return examples, a good one first: words whose pictures are called so, then common ones."""
    fair = [i for i in np.flatnonzero(printed).tolist() if " " not in words[i]]

    def right(word: int) -> int:
        name = words[word].lower().removesuffix("s")
        return sum(name in called[picture] for picture in lists[word, :FIRST])

    chosen, seen = list[str](), set[int]()
    for i in sorted(fair, key=right, reverse=True):
        if len(chosen) < 10 and not seen & set(lists[i, :3].tolist()):
            chosen.append(words[i])
            seen |= set(lists[i, :FIRST].tolist())
    return chosen


def fit_thumbnails(thumbs: list[bytes]) -> list[bytes]:
    """Return thumbnails that fit their budget: as they are, or of less quality, then smaller.

    What fits is seen on a thin sample. A picture without a thumbnail gets none.
    """
    from PIL import Image

    def drawn(some: list[bytes], quality: int, side: int) -> list[bytes]:
        return [
            one and thumbnail_webp(Image.open(io.BytesIO(one)), side=side, quality=quality)
            for one in some
        ]

    budget = np.interp(len(thumbs), [*BUDGET], [*BUDGET.values()])
    if sum(map(len, thumbs)) <= budget:
        return thumbs
    sample = thumbs[:: max(1, len(thumbs) // 64)]
    share = budget * len(sample) / len(thumbs)
    fits = (size for size in _SIZES if sum(map(len, drawn(sample, *size))) <= share)
    return drawn(thumbs, *next(fits, _SIZES[-1]))


def _style() -> str:
    light, dark = (f":root{{{css_variables(mode)}}}" for mode in ("light", "dark"))
    return f"{light}\n@media(prefers-color-scheme:dark){{{dark}}}\n{resource('search.css')}"


def _policy(style: str, script: str, *, serve: bool) -> str:
    """Return the page's policy: nothing is loaded from anywhere but, served, from the server."""
    own, ours = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (script, style)
    )
    more = "img-src 'self'; connect-src 'self'" if serve else "img-src data:"
    return (
        f"default-src 'none'; script-src 'sha256-{own}'; style-src 'sha256-{ours}'; {more}; "
        "base-uri 'none'; form-action 'none'"
    )
