"""Both towers of open_clip's models, and the text tower from token embeddings on."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from safetensors.torch import load_file, save_file

from featstore.encoders import open_clip as ours
from featstore.encoders.base import GOLDEN_TEXTS, golden_images
from featstore.encoders.open_clip import OpenClipTokens, open_prompt_tower
from featstore.encoders.registry import open_encoder
from featstore.errors import EncoderError
from featstore.identity import space_id
from tests.featstore.encoders.open_clip_models import (
    build,
    known_to_open_clip,
    save_folder,
    save_weights,
)
from tests.fitters.few_shot.tiny_tower import tower_of

TEXTS = [*GOLDEN_TEXTS, "", "a", "A DOG.", "!", "dog " * 40]
BPE = ("tiny-clip", "tiny-clip-quickgelu", "tiny-coca")
CLIPS = ("tiny-clip", "tiny-clip-quickgelu", "tiny-clip-custom")


@pytest.fixture(scope="module", autouse=True)
def _tiny_models(tmp_path_factory):
    with known_to_open_clip(tmp_path_factory.mktemp("configs")):
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oc")
    return {name: save_weights(name, folder / f"{name}.safetensors") for name in {*BPE, *CLIPS}}


@pytest.fixture(scope="module")
def siglip_original(tmp_path_factory):
    return save_folder("tiny-siglip", tmp_path_factory.mktemp("oc") / "tiny-siglip")


@pytest.fixture
def siglip_folder(siglip_original, tmp_path):
    return Path(shutil.copytree(siglip_original, tmp_path / "tiny-siglip"))


@pytest.fixture(scope="module")
def clip_text(files):
    return open_encoder("oc:tiny-clip", kind="caption", weights=files["tiny-clip"])


@pytest.fixture(scope="module")
def clip_image(files):
    return open_encoder("oc:tiny-clip", kind="image", weights=files["tiny-clip"])


@pytest.mark.parametrize("name", BPE)
def test_texts_equal_encode_text(name, files):
    encoder = open_encoder(f"oc:{name}", kind="caption", weights=files[name])
    tokens = open_clip.SimpleTokenizer(context_length=16)(TEXTS)
    with torch.inference_mode():
        expected = build(name).encode_text(tokens, normalize=False).numpy()
    vectors = encoder.encode([encoder.prepare(text) for text in TEXTS])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert not np.allclose(np.linalg.norm(vectors, axis=1), 1)  # raw output


@pytest.mark.parametrize("name", BPE)
def test_pictures_equal_encode_image(name, files):
    encoder = open_encoder(f"oc:{name}", kind="image", weights=files[name])
    model = build(name)
    transform = open_clip.image_transform(
        32, is_train=False, mean=model.visual.image_mean, std=model.visual.image_std
    )
    with torch.inference_mode():
        pictures = torch.stack([transform(image) for image in golden_images()])
        expected = model.encode_image(pictures, normalize=False).numpy()
    vectors = encoder.encode([encoder.prepare(image) for image in golden_images()])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert not np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_the_towers_of_a_checkpoint_are_a_pair_and_two_spaces(
    clip_text, clip_image, files, tmp_path
):
    assert clip_text.space["pair"] == clip_image.space["pair"]
    assert space_id(clip_text.space) != space_id(clip_image.space)
    assert clip_text.space["weights_sha256"] != clip_image.space["weights_sha256"]
    state = load_file(files["tiny-clip"])
    state["token_embedding.weight"][5, 5] += 1
    save_file(state, tmp_path / "w.safetensors")
    other = open_encoder("oc:tiny-clip", kind="image", weights=tmp_path / "w.safetensors")
    # The same image tower beside another text tower: the same vectors, but no pair.
    assert other.space["weights_sha256"] == clip_image.space["weights_sha256"]
    assert other.space["pair"] != clip_image.space["pair"]


def test_how_cosines_become_logits_is_recorded(clip_image, siglip_original):
    assert clip_image.facts["logit_scale"] == pytest.approx(1 / 0.07, abs=1e-4)
    assert clip_image.facts["logit_bias"] is None
    siglip = open_encoder("oc:tiny-siglip", kind="image", weights=siglip_original)
    assert siglip.facts["logit_bias"] == -10


def test_the_same_weights_under_another_activation_are_another_space(files):
    """open_clip issue 771: a warning, and embeddings that are not the model's."""
    for kind, items in (("caption", TEXTS), ("image", golden_images())):
        plain, quick = (
            open_encoder(f"oc:{name}", kind=kind, weights=files["tiny-clip"])
            for name in ("tiny-clip", "tiny-clip-quickgelu")
        )
        a, b = (enc.encode([enc.prepare(item) for item in items]) for enc in (plain, quick))
        assert np.abs(a - b).max() > 1e-3 * np.abs(a).max()
        assert plain.space["activations"] == ["GELU"]
        assert quick.space["activations"] == ["QuickGELU"]
        assert plain.space["weights_sha256"] == quick.space["weights_sha256"]
        assert plain.space["pair"] != quick.space["pair"]
        assert space_id(plain.space) != space_id(quick.space)


def test_the_activation_of_every_published_tag_is_the_models_or_refused():
    """Nothing between: each mismatch in open_clip's own table is caught, and nothing else."""
    tags = open_clip.list_pretrained()
    assert len(tags) > 100
    for model, tag in tags:
        if model not in open_clip.list_models():
            continue
        trained = open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False)
        if trained == open_clip.get_model_config(model).get("quick_gelu", False):
            ours._checked_config(f"oc:{model}/{tag}", model, tag)
        else:
            with pytest.raises(EncoderError, match="were trained with"):
                ours._checked_config(f"oc:{model}/{tag}", model, tag)


def test_siglip_lower_cases_strips_and_pads_to_its_context(siglip_original):
    encoder = open_encoder("oc:tiny-siglip", kind="caption", weights=siglip_original)
    facts = encoder.space["tokenizer"]
    assert (facts["cleaning"], facts["lower_case"]) == ("canonicalize", True)
    assert (facts["context_length"], facts["padding"], facts["pad_id"]) == (16, "context length", 0)
    a, b = encoder.encode(["A Photo, of a_dog!", "a photo of a dog"])
    np.testing.assert_array_equal(a, b)
    prepared = encoder.prepare("a dog")
    assert prepared.ids.shape == (16,)
    assert prepared.ids[-1] == 0
    model, inner = build("tiny-siglip"), siglip_original
    tokens = HFTokenizer(str(inner), context_length=16, clean="canonicalize")(TEXTS)
    with torch.inference_mode():
        expected = model.encode_text(tokens, normalize=False).numpy()
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["CLIP", "SigLIP"])
def test_many_texts_are_tokenized_as_one_by_one(kind, siglip_original):
    theirs = SimpleTokenizer() if kind == "CLIP" else HFTokenizer(str(siglip_original), 16)
    ours = OpenClipTokens(theirs, "oc:x")
    texts = [*TEXTS, "", "a dog", "dog " * 200, "dog " * 14, "dog " * 75, "dog " * 76]
    many = ours.prepare_many(texts)
    np.testing.assert_array_equal([text.ids for text in many], theirs(texts).numpy())
    for one, text in zip(many, texts, strict=True):
        (alone,) = ours.prepare_many([text])
        assert (alone.ids.tolist(), alone.truncated) == (one.ids.tolist(), one.truncated)
    cut = [text.truncated for text in many[-4:]]
    assert cut == ([True, False, False, True] if kind == "CLIP" else [True, False, True, True])


def test_siglip_without_its_tokenizer_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "hub_unreachable", lambda: "no route.")
    weights = save_weights("tiny-siglip", tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match=r"tokenizer .* no route\. Give a folder") as caught:
        open_encoder("oc:tiny-siglip", kind="caption", weights=weights)
    assert "\n" not in str(caught.value)
    open_encoder("oc:tiny-siglip", kind="image", weights=weights)  # needs none


#: By what is changed of a folder: the kind that it concerns, and the change to its configuration.
KEYED = {
    "tokenizer": ("caption", lambda _: None),
    "cleaning": (
        "caption",
        lambda cfg: cfg["model_cfg"]["text_cfg"]["tokenizer_kwargs"].update(clean="whitespace"),
    ),
    **{
        f"{key} {value}": ("image", lambda c, k=key, v=value: c["preprocess_cfg"].update({k: v}))
        for key, value in (
            ("mean", [0.5] * 3), ("std", [0.5] * 3), ("interpolation", "bilinear"),
            ("resize_mode", "squash"), ("resize_mode", "longest"),
        )
    },
}  # fmt: skip


def test_tokenizer_and_preprocessing_are_keyed(siglip_folder):
    files = [siglip_folder / name for name in ("open_clip_config.json", "tokenizer.json")]
    whole = [file.read_text() for file in files]
    found = {}
    for what, (kind, change) in {"": ("image", None), " ": ("caption", None), **KEYED}.items():
        config, tokenizer = map(json.loads, whole)
        if change is not None:
            change(config)
        tokenizer.update(normalizer=None) if what == "tokenizer" else None
        for file, document in zip(files, (config, tokenizer), strict=True):
            file.write_text(json.dumps(document))
        found[what] = open_encoder("oc:tiny-siglip", kind=kind, weights=siglip_folder).space
    assert len({space_id(space) for space in found.values()}) == len(found)
    assert len({space["pair"] for space in found.values()}) == 1
    assert found[""]["preprocessing"]["resize_mode"] == "shortest"
    assert found["cleaning"]["tokenizer"]["lower_case"] is False


def test_a_torch_file_gives_the_same_space(files, clip_text, tmp_path):
    state = {f"module.{key}": value for key, value in load_file(files["tiny-clip"]).items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "epoch_3.pt")
    trained = open_encoder("oc:tiny-clip", kind="caption", weights=tmp_path / "epoch_3.pt")
    assert space_id(trained.space) == space_id(clip_text.space)


def test_weights_that_do_not_fit_are_refused(files, siglip_folder):
    with pytest.raises(EncoderError, match="do not fit oc:tiny-coca"):
        open_encoder("oc:tiny-coca", kind="image", weights=files["tiny-clip"])
    with pytest.raises(EncoderError, match="holds another model than oc:tiny-clip"):
        open_encoder("oc:tiny-clip", kind="image", weights=siglip_folder)
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        (siglip_folder / name).unlink()
    with pytest.raises(EncoderError, match=r"holds none of open_clip_model\.safetensors"):
        open_encoder("oc:tiny-siglip", kind="image", weights=siglip_folder)
    (siglip_folder / "open_clip_config.json").unlink()
    with pytest.raises(EncoderError, match=r"holds no open_clip_config\.json") as caught:
        open_encoder("oc:tiny-siglip", kind="image", weights=siglip_folder)
    assert str(siglip_folder.parent) not in str(caught.value)


def test_a_larger_picture_is_not_interpolated_in_silence(files, tmp_path):
    """open_clip would resize the positions of a checkpoint of another input size."""
    state = load_file(files["tiny-clip"])
    state["visual.positional_embedding"] = state["visual.positional_embedding"][:10].clone()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match="size mismatch"):
        open_encoder("oc:tiny-clip", kind="image", weights=tmp_path / "w.safetensors")


def test_without_kind_and_weights_nothing_is_guessed(files, monkeypatch):
    with pytest.raises(EncoderError, match="two towers: say kind=, one of caption, class_name, im"):
        open_encoder("oc:tiny-clip", weights=files["tiny-clip"])
    with pytest.raises(EncoderError, match="without a tag"):
        open_encoder("oc:tiny-clip", kind="image")
    monkeypatch.setattr(ours, "hub_unreachable", lambda: "no route.")
    monkeypatch.setattr(ours, "cached_file", lambda *_: None)
    with pytest.raises(EncoderError, match=r"from the hub: no route\. Pass `weights=`"):
        open_encoder("oc:ViT-B-32/laion2b_s34b_b79k", kind="image")


PROMPTS = ["a photo of a dog.", "", "A   DOG!", "dog " * 40]


@pytest.mark.parametrize("name", CLIPS)
def test_rows_are_the_encoders(name, files):
    tower = open_prompt_tower(f"oc:{name}", weights=str(files[name]))
    encoder = open_encoder(f"oc:{name}", kind="class_name", weights=files[name])
    assert tower.space == encoder.space
    assert (tower.width, tower.dim, tower.context_length) == (32, 24, 16)
    assert tower.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    expected = encoder.encode(PROMPTS)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for text, row in zip(PROMPTS, expected, strict=True):
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


def test_other_towers_are_refused(files, siglip_original):
    with pytest.raises(EncoderError, match=r"tiny-coca: it has a class token\. Use a model"):
        open_prompt_tower("oc:tiny-coca", weights=str(files["tiny-coca"]))
    with pytest.raises(EncoderError, match="tiny-siglip: its tokenizer is not CLIP's"):
        open_prompt_tower("oc:tiny-siglip", weights=str(siglip_original))
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
