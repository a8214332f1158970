"""A job on cards that are not there.

``python -m tests.gpu.on_cards DEVICES MANIFEST STORE WEIGHTS`` encodes eight pictures. The variable
FAKE_CARDS of the environment holds a JSON list of what `Card` takes. Each device has a process,
which is spawned, imports this again, and so has the same cards. Races are told on stderr.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import sys

from featstore import EncoderSpec, ExtractConfig
from featstore.extraction.targets import Job
from featstore.extraction.workers import extract_on_devices
from featstore.manifest.io import read_manifest
from tests.gpu.fake_card import Card, fake_cards

_CARDS = fake_cards(*(Card(**one) for one in json.loads(os.environ["FAKE_CARDS"])))
_MACHINE = _CARDS.__enter__()


@atexit.register
def tell() -> None:
    """Write down what raced, and how many operations each card was given."""
    gc.collect()
    print("launched", [card.launched for card in _MACHINE.cards], file=sys.stderr)
    for race in _MACHINE.reports:
        print("race:", race, file=sys.stderr)
    _CARDS.__exit__(None, None, None)


def main(devices: str, manifest: str, store: str, weights: str) -> None:
    """Extract with the smallest transformer of timm."""
    logging.basicConfig(level=logging.WARNING)
    config = ExtractConfig(
        dtype="float32", precision="float32", batch_size=2, block_rows=2, threads=1, jobs=1,
        decode_timeout=None, limit=8,
    )  # fmt: skip
    encoders = [EncoderSpec("timm:test_vit", weights=weights)]
    extract_on_devices(Job(read_manifest(manifest), "image", encoders, store, config), devices)


if __name__ == "__main__":
    main(*sys.argv[1:])
