from __future__ import annotations

import hashlib

import numpy as np

from featstore.encoders.golden import GOLDEN_TEXTS, golden_images, golden_inputs, golden_vectors


def test_the_pictures_are_pinned():
    """Stored vectors are compared to those of these very pixels."""
    digest = hashlib.sha256()
    for image in golden_images():
        assert image.mode == "RGB"
        digest.update(repr(image.size).encode())
        digest.update(image.tobytes())
    assert digest.hexdigest() == (
        "deee101687a8e012f1cc082f39d964b262af72ba689c218fe512f2b521f8b068"
    )


def test_kinds_choose_the_inputs():
    assert len(golden_inputs({"image"})) == 4
    assert golden_inputs({"caption", "class_name"}) == golden_inputs({"caption"}) == GOLDEN_TEXTS


def test_golden_vectors_tell_real_encoders_apart_from_their_neighbours(lite0, minilm):
    for encoder, count in ((lite0, 4), (minilm, 5)):
        vectors = golden_vectors(encoder)
        assert vectors.shape == (count, encoder.dim)
        assert vectors.dtype == np.float32
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = unit @ unit.T
        # Far below the 0.999 that extending a set asks for: no two golden inputs are alike.
        assert cosines[~np.eye(count, dtype=bool)].max() < 0.9
