"""Image ↔ caption retrieval, both directions.

Relevance by ``"parent_id"``: a caption is relevant to its own image only (Flickr30k, COCO;
an image has several captions, and hit recall asks for any of them). By ``"class_id"``: to
every image of its class, for data where several images carry the same words.
"""

from __future__ import annotations

from bench.corpus import Items
from bench.errors import ProtocolError
from bench.tasks.outcome import Outcome, Projector, score_direction

METRICS = ("R@1", "R@5", "R@10", "median_rank", "MRR", "mAP")


def score_retrieval(
    alignment: Projector, images: Items, captions: Items, *, relevance: str
) -> list[Outcome]:
    """Rank captions for every image and images for every caption.

    Parameters
    ----------
    alignment : Projector
    images, captions : Items
        Raw embeddings. Captions carry their image's id as parent.
    relevance : str
        ``"parent_id"`` or ``"class_id"``.

    Returns
    -------
    list of two Outcomes
        ``"image→caption"`` and ``"caption→image"``; clusters are the
        images or the classes, as relevance is.

    Raises
    ------
    ProtocolError
        If the captions have no parents and relevance is by parent.
    bench.errors.MetricError
        If a query has nothing relevant in the gallery.
    """
    if relevance == "class_id":
        image_groups, caption_groups = images.classes, captions.classes
    elif captions.parents is not None:
        image_groups, caption_groups = images.ids, captions.parents
    else:
        msg = (
            "Captions without parent_id cannot be matched to their images. Use relevance "
            "'class_id', or give them parents in the manifest."
        )
        raise ProtocolError(msg)
    image_side = (images, alignment.project_x(images.rows))
    caption_side = (captions, alignment.project_y(captions.rows))
    return [
        score_direction(
            "image→caption", image_side, caption_side, (image_groups, caption_groups), METRICS
        ),
        score_direction(
            "caption→image", caption_side, image_side, (caption_groups, image_groups), METRICS
        ),
    ]
