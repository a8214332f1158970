"""Thumbnails of a job's images."""

from __future__ import annotations

from collections.abc import Collection

from featstore.extraction.image_views import draw_view, source_item
from featstore.extraction.opened_job import Job
from featstore.images import ImageError, decode_image, thumbnail_webp
from featstore.sources import ByteReader
from featstore.store.thumbnails import read_thumbnails, write_thumbnails


def complete_thumbnails(job: Job, *, skip: Collection[str]) -> None:
    """Draw the thumbnails that an interrupted job, or one without them, did not leave."""
    directory = job.store / job.dataset / job.kind
    have = read_thumbnails(directory)
    small: dict[str, bytes] = {}
    with ByteReader(job.source.root) as reader:
        for item in job.items.iter_rows(named=True):
            if item["item_id"] in have or item["item_id"] in skip:
                continue
            try:
                image = decode_image(reader.read(source_item(item)), formats=job.formats)
            except (ImageError, OSError):
                continue  # an image without a picture is shown by its id
            small[item["item_id"]] = thumbnail_webp(draw_view(image, item))
    if small:
        write_thumbnails(directory, small)
