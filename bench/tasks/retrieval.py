"""Image ↔ caption retrieval, both directions.

Relevance by ``"parent_id"``: a caption is relevant to its own image only (Flickr30k, COCO;
an image has several captions, and hit recall asks for any of them). By ``"class_id"``: to
every image of its class, for data where several images carry the same words.
"""

from __future__ import annotations

from typing import Literal

from bench.corpus import Items
from bench.errors import ProtocolError
from bench.options import Retrieval
from bench.tasks.outcome import (
    KEPT,
    Outcome,
    Prepared,
    Projector,
    Question,
    projected,
)
from fitters.pairs import place_in_class

METRICS = (
    "R@1", "R@5", "R@10", "recall@1", "recall@5", "recall@10", "P@1", "P@5", "P@10",
    "median_rank", "mean_rank", "MRR", "mAP", "mAP-truncated",
)  # fmt: skip


def prepare_retrieval(
    images: Items,
    captions: Items,
    *,
    relevance: str,
    options: Retrieval | None = None,
    top: int = KEPT,
) -> Prepared:
    """Return what ranks captions for every image and images for every caption.

    Parameters
    ----------
    images, captions : Items
        Raw embeddings. Captions carry their image's id as parent.
    relevance : str
        ``"parent_id"`` or ``"class_id"``.
    options : Retrieval, optional
    top : int
        Items of the gallery that are kept for every query.

    Returns
    -------
    callable
        Of an alignment: the outcomes ``"image→caption"`` and ``"caption→image"``; clusters are the
        images or the classes, as relevance is.

    Raises
    ------
    ProtocolError
        If the captions have no parents and relevance is by parent, or captions are counted.
    bench.errors.MetricError
        If a query has nothing relevant in the gallery.
    """
    options = options or Retrieval()
    if captions.parents is None and (relevance == "parent_id" or options.captions):
        raise ProtocolError(
            "Captions without parent_id cannot be matched to their images. Use relevance "
            "'class_id', or give them parents in the manifest."
        )
    if options.captions:
        captions = first_captions(captions, options.captions)
    group: Literal["classes", "images"] = "classes"
    if relevance == "class_id":
        image_groups, caption_groups = images.classes, captions.classes
    else:
        assert captions.parents is not None
        image_groups, caption_groups = images.ids, captions.parents
        group = "images"
    to_caption = Question(
        "image→caption", images.ids, captions.ids, (image_groups, caption_groups), METRICS,
        top=top, group=group,
    )  # fmt: skip
    to_image = Question(
        "caption→image", captions.ids, images.ids, (caption_groups, image_groups), METRICS,
        top=top, group=group,
    )  # fmt: skip

    def scored(alignment: Projector) -> list[Outcome]:
        x, y = projected(alignment, images, captions)
        scorer = options.scorer
        return [to_caption.rank(x, y, scorer=scorer), to_image.rank(y, x, scorer=scorer)]

    return scored


def first_captions(captions: Items, n: int) -> Items:
    """Return the first `n` captions of every image, in the order of the manifest."""
    assert captions.parents is not None
    return captions.take(place_in_class(captions.parents) < n)
