"""Do two sides have the same nearest neighbours? Mutual k-NN and CKA, without any alignment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Corpus, Head
from bench.errors import ProtocolError
from bench.metrics.cka import biased_cka, unbiased_cka
from bench.metrics.neighbours import mutual_knn, mutual_knn_chance
from bench.options import Neighbours
from bench.protocol import first_per_class
from bench.tasks.outcome import Outcome
from bench.tasks.retrieval import first_captions
from featstore.datasets import synsets_of
from featstore.errors import ManifestError
from fitters.moments.transform import normalize_rows

Rows = NDArray[np.floating]


def score_neighbours(
    corpus: Corpus, *, options: Neighbours | None = None, rng: np.random.Generator
) -> list[Outcome]:
    """Compare the neighbourhoods of paired rows.

    Returns
    -------
    list of one Outcome
        Direction ``"head~name"``, ``"class-mean~name"`` or ``"image~caption"``. Values:
        ``mutual-knn@k`` (chance k / (n − 1)), ``CKA`` (biased) and ``CKA-unbiased`` (chance 0).

    Raises
    ------
    ProtocolError
        If the corpus lacks a side.
    """
    options = options or Neighbours()
    direction, x, y = _sides(corpus, options, rng)
    shared = mutual_knn(x, y, options.k)
    values = {f"mutual-knn@{k}": value for k, value in shared.items()}
    chance = {f"mutual-knn@{k}": mutual_knn_chance(len(x), k) for k in options.k}
    values |= {"CKA": biased_cka(x, y), "CKA-unbiased": unbiased_cka(x, y)}
    chance["CKA-unbiased"] = 0.0
    return [Outcome(direction, values, chance, n=len(x), gallery=len(y))]


def _sides(corpus: Corpus, options: Neighbours, rng: np.random.Generator) -> tuple[str, Rows, Rows]:
    if options.of == "head":
        if corpus.head is None:
            msg = "Neighbours of 'head' need a head and the names of its classes in the run."
            raise ProtocolError(msg)
        kept = _within(corpus.head, options.within)
        return "head~name", corpus.head.weight[kept], corpus.head.texts[kept]
    if options.of == "pairs":
        if corpus.captions is None or corpus.captions.parents is None:
            msg = "Neighbours of 'pairs' need captions that know their images."
            raise ProtocolError(msg)
        captions = first_captions(corpus.captions, 1)
        assert captions.parents is not None
        place = {item: row for row, item in enumerate(corpus.images.ids.tolist())}
        owner = [place[parent] for parent in captions.parents.tolist()]
        return "image~caption", corpus.images.rows[owner], captions.rows
    if not len(corpus.names):
        msg = "Neighbours of 'class-means' need the names of the images' classes in the run."
        raise ProtocolError(msg)
    images = corpus.images
    order = rng.permutation(len(images))
    if options.per_class:
        order = first_per_class(order, images.classes, options.per_class)
    having, codes = np.unique(images.classes[order], return_inverse=True)
    rows: Rows = images.rows[order]
    if options.rows == "unit":
        # A long row is not a more certain one.
        rows = normalize_rows(rows, what="images")
    sums = np.zeros((len(having), rows.shape[1]))
    np.add.at(sums, codes, rows)
    place = {name: row for row, name in enumerate(corpus.names.classes.tolist())}
    texts = corpus.names.rows[[place[name] for name in having.tolist()]]
    return "class-mean~name", sums / np.bincount(codes)[:, None], texts


def _within(head: Head, label_set: str) -> NDArray[np.bool_]:
    """Return which rows of a head are of classes that a label set of synsets has too.

    Raises
    ------
    ProtocolError
        If there is no such label set, or the head shares none of its synsets.
    """
    if not label_set:
        return np.ones(len(head.classes), dtype=bool)
    try:
        known = synsets_of(label_set)
    except ManifestError as err:
        msg = f"Option within of neighbours cannot be {label_set!r}: {err}"
        raise ProtocolError(msg) from err
    # A class id is LABEL_SET/SYNSET.
    kept = np.array([name.rpartition("/")[2] in known for name in head.classes.tolist()], bool)
    if not kept.any():
        msg = (
            f"None of the head's {len(kept):,} classes (first: {head.classes[0]!r}) is a synset of "
            f"{label_set}. Leave within out."
        )
        raise ProtocolError(msg)
    return kept
