"""The page of a search: one offline file that answers from lists made beforehand.

The lists of words are exact. Phrases are put together in the page from vectors of few dimensions:
of texts their principal components, of pictures the directions that matter for scores of words.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.report.page import render, resource
from bench.report.theme import css_variables
from bench.search import FAR, SOURCES, Searcher, Source
from bench.words import MODIFIERS, path_words

#: Pictures of a page, the last changed first.
MOST_PICTURES = 5_000

#: Pictures that a word lists, of each source.
DEEP = {"head": 48, "random": 16, "shuffled": 16}

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

Bytes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Share:
    """How often a file's name, typed, brings up its own picture in the first FIRST.

    Attributes
    ----------
    found, of : int
    low, high : float
        The interval at 95 % (Wilson), from 0 to 1.
    """

    found: int
    of: int
    low: float
    high: float

    @classmethod
    def counted(cls, hits: Sequence[bool]) -> Share:
        """Count hits."""
        from scipy.stats import binomtest

        interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
        return cls(sum(hits), len(hits), float(interval.low), float(interval.high))

    @property
    def percent(self) -> str:
        """The share in words."""
        return f"{100 * self.found / self.of:.0f} %"

    @property
    def interval(self) -> str:
        """The interval in words."""
        return f"{100 * self.low:.0f}–{100 * self.high:.0f} %"


@dataclass(frozen=True)
class Page:
    """A page, and what to say of it.

    Attributes
    ----------
    html : str
    rows : list of int
        The pictures that it has, as rows of the searcher.
    words : int
    shares : dict of str to Share
        By source; empty where too few names of files are words.
    chance : float
        What a source that guesses would find of the same names.
    """

    html: str
    rows: list[int]
    words: int
    shares: dict[str, Share]
    chance: float


@dataclass(frozen=True, eq=False)
class _Answers:
    """What one source answers to all words.

    Attributes
    ----------
    lists : ndarray of shape (words, deep)
    best, best_scores : ndarray of shape (n, names)
        Words of each picture that may be printed, by plain cosine.
    top : float
        Mean over words of the best cosine.
    """

    lists: npt.NDArray[np.int64]
    best: npt.NDArray[np.int64]
    best_scores: npt.NDArray[np.float32]
    top: float


def _answers(source: Source, printed: npt.NDArray[np.bool_]) -> _Answers:
    n = len(source.hubs)
    deep, names = min(DEEP[source.name], n), min(NAMES, int(printed.sum()))
    lists, tops = [], []
    best = np.zeros((0, n), np.int64)
    scores = np.zeros((0, n), np.float32)
    for start in range(0, len(printed), _ROWS):
        corrected = source.scores(source.words[start : min(start + _ROWS, len(printed))])
        lists.append(_first(corrected, deep))
        cosines = corrected + source.hubs / 2
        tops.append(cosines.max(axis=1))
        rows = np.flatnonzero(printed[start : start + _ROWS])
        ids = np.concatenate([best, np.broadcast_to(rows[:, None] + start, (len(rows), n))])
        scores = np.concatenate([scores, cosines[rows]])
        kept = _first(scores.T, min(names, len(scores))).T
        best, scores = (np.take_along_axis(one, kept, axis=0) for one in (ids, scores))
    return _Answers(np.concatenate(lists), best.T, scores.T, float(np.concatenate(tops).mean()))


def _first(scores: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """Return the columns of the k highest of each row, the highest first."""
    some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def _alike(images: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the pictures most like each, without itself."""
    k = min(LIKE, len(images) - 1)
    if k == 0:
        return np.zeros((1, 0), np.int64)
    found = []
    for start in range(0, len(images), _ROWS):
        scores = images[start : start + _ROWS] @ images.T
        scores[np.arange(len(scores)), np.arange(len(scores)) + start] = -2
        found.append(_first(scores, k))
    return np.concatenate(found)


def _squeezed(rows: npt.NDArray[Any]) -> tuple[Bytes, npt.NDArray[np.float32]]:
    """Return rows as bytes, and what each row of them is to be multiplied by."""
    scale = np.maximum(np.abs(rows).max(axis=1), 1e-12) / 127
    return np.round(rows / scale[:, None]).astype(np.int8), scale.astype("<f4")


def _directions(
    dual: npt.NDArray[Any], images: npt.NDArray[Any], texts: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return factors of few columns for duals and images, whose products keep the scores of texts.

    The best of that rank for the scores of `texts` (predicted rows) with `images`: the singular
    directions of their product, from the Cholesky factor of the images' moments.
    """
    width = min(WIDTH, images.shape[1])
    moments = images.T.astype(np.float64) @ images
    moments += 1e-6 * np.trace(moments) / len(moments) * np.eye(len(moments))
    root = np.linalg.cholesky(moments)
    asked = texts.astype(np.float64) @ root
    _, vectors = np.linalg.eigh(asked.T @ asked)
    kept = vectors[:, ::-1][:, :width]
    return dual @ (root @ kept), images @ np.linalg.solve(root.T, kept)


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
    sources = [searcher.source(name).of(pictures) for name in SOURCES]
    words = searcher.words if named else list(searcher.terms)
    vectors = searcher.vectors_of(words)
    printed = np.zeros(len(words), bool)
    printed[: len(searcher.terms)] = list(searcher.terms.values())
    answers = {one.name: _answers(one, printed) for one in sources}
    near, cosines = searcher.near(vectors)
    paths = [searcher.paths[i] for i in pictures]
    names = [searcher.names[i] for i in pictures]
    hits = _hits(words, len(searcher.terms), names, {k: a.lists for k, a in answers.items()})
    known = len(hits["head"]) >= FEWEST_NAMES
    shares = {
        name: Share.counted(list(own.values())) for name, own in hits.items() if known
    }  # fmt: skip
    chance = min(FIRST, len(paths)) / len(paths)
    tries = _tries(words, printed, answers["head"].lists, paths if named else [])
    thumbs = [searcher.thumbnails[i] for i in pictures]
    meta: dict[str, Any] = {
        "files": paths if named else [f"Picture {i + 1:,}" for i in range(len(paths))],
        "named": named, "serve": serve, "folder": folder, "words": [*words, *MODIFIERS],
        "n_words": len(words), "quiet": np.flatnonzero(~printed).tolist(), "far": FAR,
        "classes": searcher.classes[0], "support": len(sources[0].fitted.aligner.support_),
        "gamma": float(sources[0].fitted.aligner.gamma_), "dt": WIDTH,
        "d": min(WIDTH, sources[0].images.shape[1]), "tops": [a.top for a in answers.values()],
        "example": tries[0], "tries": tries, "best": answers["head"].best.shape[1],
    }  # fmt: skip
    blocks = _blocks(searcher, sources, answers, vectors)
    like = _alike(sources[0].images)
    meta["like"] = like.shape[1]
    blocks |= {"like": like.astype("<u2"), "near": near.astype("<u2"),
               "nearness": np.clip(np.round(cosines * 255), 0, 255).astype(np.uint8)}  # fmt: skip
    data = {name: base64.b64encode(array.tobytes()).decode() for name, array in blocks.items()}
    if not serve:
        fitted = [base64.b64encode(one).decode() for one in fit_thumbnails(thumbs)]
        data["thumbs"] = "".join(fitted)
        meta["thumbs"] = [0, *np.cumsum([len(one) for one in fitted]).tolist()]
    far = {int(word): bool(cosines[word] < FAR) for word in hits.get("head", ())}
    context = {
        "csp": _policy(_style(), resource("search.js"), serve=serve), "css": _style(),
        "js": resource("search.js"),
        "meta": json.dumps(meta, ensure_ascii=False).replace("<", "\\u003c"), "data": data,
        "folder": folder, "pictures": len(paths), "of": len(searcher.paths), "words": len(words),
        "named": named, "serve": serve, "shares": shares, "chance": chance,
        "far": _far_shares(hits.get("head", {}), far) if known else (),
    }  # fmt: skip
    return Page(render("search.html", context), pictures, len(words), shares, chance)


def served_page(searcher: Searcher, folder: str, *, named: bool) -> tuple[Page, str]:
    """Return the page that asks its server for thumbnails and texts, and its policy."""
    page = search_page(searcher, folder, named=named, serve=True)
    return page, _policy(_style(), resource("search.js"), serve=True)


def served_answer(searcher: Searcher, rows: list[int], text: str) -> dict[str, Any]:
    """Return what the page shows for a text: numbers of pictures by source, and the class near."""
    vectors = searcher.encode([text])
    found, cosine = searcher.near(vectors)
    sources = (searcher.source(name).of(rows) for name in SOURCES)
    lists = [_first(one.ask(vectors), min(DEEP[one.name], len(rows)))[0] for one in sources]
    return {
        "pictures": [own.tolist() for own in lists], "near": searcher.classes[0][int(found[0])],
        "far": bool(cosine[0] < FAR),
    }  # fmt: skip


def page_pictures(searcher: Searcher) -> list[int]:
    """Return the rows of the pictures of a page: those that were changed last, sorted by path."""
    rows = {path: row for row, path in enumerate(searcher.paths)}
    newest = [rows[path] for path in searcher.listing.newest if path in rows]
    return sorted(newest[:MOST_PICTURES])


def _hits(
    words: list[str], terms: int, names: list[str], lists: dict[str, npt.NDArray[np.int64]]
) -> dict[str, dict[int, bool]]:
    """Return of each source and name of a file that is a word whether it finds its own picture."""
    rows = {word.lower(): row for row, word in reversed(list(enumerate(words[:terms])))}
    own: dict[int, set[int]] = {}
    for picture, name in enumerate(names):
        if name in rows:
            own.setdefault(rows[name], set()).add(picture)
    return {
        source: {word: bool(mine & {*found[word, :FIRST].tolist()}) for word, mine in own.items()}
        for source, found in lists.items()
    }


def _far_shares(hits: dict[int, bool], far: dict[int, bool]) -> tuple[Share, ...]:
    """Return the shares of names that are far from every class, and of the others."""
    parts = [[hit for word, hit in hits.items() if far[word] is which] for which in (True, False)]
    return tuple(map(Share.counted, parts)) if min(map(len, parts)) >= FEWEST_NAMES else ()


def _tries(
    words: list[str],
    printed: npt.NDArray[np.bool_],
    lists: npt.NDArray[np.int64],
    paths: list[str],
) -> list[str]:
    """Return examples, a good one first: words whose pictures are called so, where there are."""
    called = [set(path_words(path)) for path in paths]
    fair = [i for i in np.flatnonzero(printed).tolist() if " " not in words[i]]
    right = {
        i: sum(words[i].lower().removesuffix("s") in called[one] for one in lists[i, :FIRST])
        for i in (fair if called else ())
    }
    ranked = sorted((i for i in right if right[i]), key=lambda i: -right[i]) or fair
    chosen, seen = [], set[int]()
    for i in ranked:
        if lists[i, 0] not in seen and not seen & set(lists[i, :3].tolist()):
            chosen.append(words[i])
            seen |= set(lists[i, :FIRST].tolist())
        if len(chosen) == 10:
            break
    return chosen


def _blocks(
    searcher: Searcher,
    sources: list[Source],
    answers: dict[str, _Answers],
    vectors: npt.NDArray[Any],
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a page by the id of their element."""
    fitted = sources[0].fitted
    texts = fitted.y.apply(np.concatenate([vectors, searcher.vectors_of(MODIFIERS)]))
    support = fitted.aligner.support_
    # Principal components of all texts that there are, about 0: kernels look at products.
    _, basis = np.linalg.eigh(texts.T @ texts)
    basis = basis[:, ::-1][:, :WIDTH]
    small = texts @ basis
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    rows, scale = _squeezed(support @ basis)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    blocks = {
        "texts": np.round(small * 127 / np.abs(small).max()).astype(np.int8), "support": rows,
        "support-scale": (1 / lengths).astype("<f4"),
        "best": np.stack([a.best for a in answers.values()], axis=1).astype("<u2"),
        "best-score": np.clip(np.round(
            np.stack([a.best_scores for a in answers.values()], axis=1) * 255), 0, 255
        ).astype(np.uint8),
    }  # fmt: skip
    for source in sources:
        some = source.words[:: max(1, len(vectors) // 2_000)]
        dual, images = _directions(source.fitted.aligner.dual_, source.images, some)
        found = zip(("dual", "pictures"), (dual, images), strict=True)
        for name, own in found:
            rows, scale = _squeezed(own)
            blocks |= {f"{name}-{source.name}": rows, f"{name}-scale-{source.name}": scale}
        blocks[f"hubs-{source.name}"] = source.hubs.astype("<f4")
        blocks[f"lists-{source.name}"] = answers[source.name].lists.astype("<u2")
    return blocks


def fit_thumbnails(thumbs: list[bytes]) -> list[bytes]:
    """Return thumbnails that fit their budget: as they are, or of less quality, then smaller.

    What fits is seen on a thin sample. A picture without a thumbnail gets none.
    """
    from PIL import Image

    low, high = min(BUDGET), max(BUDGET)
    share = min(1.0, max(0.0, (len(thumbs) - low) / (high - low)))
    budget = BUDGET[low] + share * (BUDGET[high] - BUDGET[low])

    def drawn(data: bytes, quality: int, side: int) -> bytes:
        if not data:
            return data
        image, buffer = Image.open(io.BytesIO(data)).convert("RGB"), io.BytesIO()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        image.save(buffer, format="WEBP", quality=quality, method=4)
        return buffer.getvalue()

    if sum(map(len, thumbs)) <= budget:
        return thumbs
    sample = thumbs[:: max(1, len(thumbs) // 64)]
    for size in _SIZES:
        if sum(len(drawn(one, *size)) for one in sample) * len(thumbs) / len(sample) <= budget:
            break
    return [drawn(one, *size) for one in thumbs]


def _style() -> str:
    light, dark = css_variables("light"), css_variables("dark")
    dark = f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return f":root{{{light}}}\n{dark}\n{resource('search.css')}"


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
