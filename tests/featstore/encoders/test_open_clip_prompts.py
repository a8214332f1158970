"""The text tower from token embeddings on: the model's own rows, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featstore.encoders.open_clip_text import open_prompt_tower
from featstore.encoders.registry import open_encoder
from featstore.errors import EncoderError
from tests.featstore.encoders.open_clip_models import (
    build,
    known_to_open_clip,
    save_folder,
    save_weights,
)
from tests.fitters.few_shot.tiny_tower import TOKENIZER, tower_of

TEXTS = ["a photo of a dog.", "", "A   DOG!", "dog " * 40]


@pytest.fixture(scope="module", autouse=True)
def _tiny_models(tmp_path_factory):
    with known_to_open_clip(tmp_path_factory.mktemp("configs")):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("oc")


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-clip-quickgelu", "tiny-clip-custom"])
def test_rows_are_the_encoders(name, folder):
    file = save_weights(name, folder / f"{name}.safetensors")
    tower = open_prompt_tower(f"oc:{name}", weights=str(file))
    encoder = open_encoder(f"oc:{name}", kind="class_name", weights=file)
    assert tower.space == encoder.space
    assert (tower.width, tower.dim, tower.context_length) == (32, 24, 16)
    assert tower.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    expected = encoder.encode(TEXTS)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for text, row in zip(TEXTS, expected, strict=True):
        ids = [tower.start, *tower.tokens(text)[:14], tower.end]
        with torch.inference_mode():
            got = tower.encode(tower.embed(torch.tensor([ids])), torch.tensor([len(ids) - 1]))
        np.testing.assert_allclose(got[0].numpy(), row, atol=1e-6)


def test_what_follows_the_end_is_not_looked_at():
    tower = tower_of(build("tiny-clip"))
    ids = torch.tensor([[tower.start, 1929, tower.end, 0, 0], [tower.start, 1929, tower.end, 9, 5]])
    with torch.inference_mode():
        one, two = tower.encode(tower.embed(ids), torch.tensor([2, 2]))
    torch.testing.assert_close(one, two)


def test_nothing_of_the_tower_learns():
    tower = tower_of(build("tiny-clip"))
    assert not any(tensor.requires_grad for tensor in tower.parameters().values())
    assert len(tower.parameters()) > 20
    embedded = tower.embed(torch.tensor([[tower.start, 9, tower.end]])).requires_grad_()
    tower.encode(embedded, torch.tensor([2])).sum().backward()
    assert embedded.grad.abs().max() > 0


def test_other_towers_are_refused(folder):
    coca = save_weights("tiny-coca", folder / "coca.safetensors")
    with pytest.raises(EncoderError, match=r"tiny-coca: it has a class token\. Use a model"):
        open_prompt_tower("oc:tiny-coca", weights=str(coca))
    siglip = save_folder("tiny-siglip", folder / "tiny-siglip")
    with pytest.raises(EncoderError, match="tiny-siglip: its tokenizer is not CLIP's"):
        open_prompt_tower("oc:tiny-siglip", weights=str(siglip))
    for change, match in (({"attn_mask": None}, "look at later ones"), ({"text_pool_type": "last"},
                          "not read at the end token"), ({"token_embedding": None},
                          "a model of another library")):  # fmt: skip
        model = build("tiny-clip")
        for name, value in change.items():
            setattr(model, name, value)
        with pytest.raises(EncoderError, match=match):
            tower_of(model)


def test_a_tower_that_does_more_is_noticed():
    model = build("tiny-clip")
    model.transformer.resblocks[1].ln_2.weight.data[3] = 5.0
    tower_of(model)  # weights are the model's own business
    own = model.encode_text
    model.encode_text = lambda ids, normalize: own(ids, normalize=normalize).roll(1, dims=1)
    with pytest.raises(EncoderError, match="does more than CLIP's"):
        tower_of(model)


def test_the_tokenizer_is_the_models():
    tower = tower_of(build("tiny-clip"))
    (ids,) = TOKENIZER(["a photo of a dog."]).tolist()
    whole = [tower.start, *tower.tokens("a photo of a dog."), tower.end]
    assert ids[: len(whole)] == whole
