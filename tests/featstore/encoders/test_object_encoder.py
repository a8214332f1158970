from __future__ import annotations

import numpy as np
import pytest
import torch

from featstore.encoders.base import Encoder
from featstore.encoders.golden import GOLDEN_TEXTS, golden_images, golden_inputs, golden_vectors
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import EncoderError
from featstore.identity import space_id

SPACE = {"name": "mean-colour", "weights": "none"}


def mean_colour(images):
    return [np.asarray(image, dtype=np.float64).mean((0, 1)) for image in images]


class Lengths:
    def encode(self, texts):
        return torch.tensor([[len(text), text.count(" ")] for text in texts], dtype=torch.float16)


def test_a_function_over_pictures():
    encoder = ObjectEncoder(mean_colour, SPACE, {"image"})
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.dim, encoder.kinds) == ("object:mean-colour", 3, {"image"})
    images = golden_images()
    vectors = encoder.encode([encoder.prepare(image) for image in images])
    assert vectors.dtype == np.float32
    by_hand = np.stack([np.asarray(image).reshape(-1, 3).mean(0) for image in images])
    np.testing.assert_allclose(vectors, by_hand, rtol=1e-6)
    assert encoder.encode([]).shape == (0, 3)


def test_an_object_over_texts_that_returns_tensors():
    encoder = ObjectEncoder(Lengths(), {"name": "lengths"}, ["caption"])
    np.testing.assert_array_equal(encoder.encode(["a dog", "cat"]), [[5, 1], [3, 0]])
    np.testing.assert_array_equal(
        golden_vectors(encoder), [[len(text), text.count(" ")] for text in GOLDEN_TEXTS]
    )
    assert encoder.facts["object"].endswith("Lengths")


def test_the_space_is_what_the_user_says_and_of_a_family_of_its_own():
    one = ObjectEncoder(mean_colour, SPACE, {"image"}, batch_size=5)
    two = ObjectEncoder(lambda images: mean_colour(images), SPACE, {"image"})
    other = ObjectEncoder(mean_colour, {**SPACE, "weights": "v2"}, {"image"})
    assert space_id(one.space) == space_id(two.space) != space_id(other.space)
    assert one.space == {**SPACE, "family": "object"}
    assert one.batch_size == 5


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"needs a name, got None.*For instance"),
        ({"name": ""}, "needs a name"),
        ({"name": 3}, "needs a name, got 3"),
        ({"name": "x", "family": "timm"}, "kept for built-in encoders"),
        ({"name": "x", "weights": np.float32(1)}, "plain JSON"),
        ({"name": "x", "scale": float("nan")}, "plain JSON"),
    ],
)
def test_spaces_that_identify_nothing(space, message):
    with pytest.raises(EncoderError, match=message):
        ObjectEncoder(mean_colour, space, {"image"})


@pytest.mark.parametrize("kinds", [set(), {"image", "caption"}, {"head_weight"}, "pictures"])
def test_kinds_that_make_no_sense(kinds):
    with pytest.raises(EncoderError, match="takes images or texts"):
        ObjectEncoder(mean_colour, SPACE, kinds)


def test_what_cannot_encode():
    with pytest.raises(EncoderError, match=r"encode\(items\) or must be callable; int"):
        ObjectEncoder(3, SPACE, {"image"})


@pytest.mark.parametrize("wrong", [lambda x: np.zeros(3), lambda x: np.zeros((len(x) + 1, 3))])
def test_wrong_shapes(wrong):
    with pytest.raises(EncoderError, match=r"for 1 items; expected \(1, d\)"):
        ObjectEncoder(wrong, SPACE, {"image"})


def test_a_length_that_changes():
    encoder = ObjectEncoder(lambda x: np.zeros((len(x), len(x))), SPACE, {"image"})
    with pytest.raises(EncoderError, match="length 2 after vectors of length 1"):
        encoder.encode(list(golden_inputs({"image"})[:2]))
