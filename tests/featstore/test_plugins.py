"""Registries: ours, those of installed packages, and what a file or a notebook registers."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from featstore import plugins
from featstore.datasets import DATASETS
from featstore.encoders.registry import FAMILIES, check_kind, check_name, open_encoder
from featstore.errors import EncoderError, ManifestError, PluginError
from featstore.plugins import KINDS, Registry, register, registry_of, use_plugins
from featstore.sources.making import SOURCES, make_manifest
from tests.typed import headstock

ENTRIES = """
[headstock.sources]
three = strange_things:THREE
ours = strange_things:THREE
broken = strange_things.not_there:X
wrong = strange_things:WRONG
a,b = strange_things:THREE
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Install a package, as `pip` leaves it, and return its folder."""
    folder = tmp_path / "site"
    info = folder / "strange_things-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "strange_things.py").write_text("THREE = 3\nWRONG = 'three'\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-things\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(plugins.ENVIRONMENT, "")
    plugins._entry_points.cache_clear()
    yield folder
    plugins._entry_points.cache_clear()
    for name in [name for name in sys.modules if name.startswith("strange_things")]:
        del sys.modules[name]


def number(_: str, thing: Any) -> int:
    if not isinstance(thing, int):
        raise TypeError(f"expected a number; got {thing!r}.")
    return thing


def test_a_package_is_known_by_name_and_imported_when_it_is_used(site, caplog):
    registry = Registry("source", {"ours": 1}, accept=number)
    assert "strange_things" not in sys.modules
    with caplog.at_level(logging.WARNING):
        assert list(registry) == ["ours", "broken", "three", "wrong"]
    left_out = [record.getMessage() for record in caplog.records]
    assert "'ours' of strange-things 1.2 is left out: 'ours' is a name of Headstock" in left_out[1]
    assert "'a,b' of strange-things 1.2 is left out: a name is up to 64 letters" in left_out[0]
    assert "three" in registry
    assert "strange_things" not in sys.modules
    assert (registry["three"], registry["ours"]) == (3, 1)
    assert [registry.origin(name) for name in ("ours", "three")] == ["", "strange-things 1.2"]
    # A worker finds both by itself.
    assert not registry.travels("three")
    assert not registry.travels("ours")


def test_a_broken_one_is_an_error_where_it_is_used_and_a_warning_in_a_list(site, caplog):
    registry = Registry("source", {"ours": 1}, accept=number)
    broken = r"'broken' cannot be imported.*strange_things.not_there:X of strange-things 1.2"
    with pytest.raises(PluginError, match=broken):
        registry["broken"]
    with pytest.raises(PluginError, match=r"'wrong' of strange-things 1.2 cannot .* got 'three'"):
        registry["wrong"]
    with pytest.raises(KeyError):
        registry["nothing"]
    assert [registry.get(name) for name in ("ours", "three", "nothing")] == [1, 3, None]
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        assert dict(registry.items()) == {"ours": 1, "three": 3}
    assert len(caplog.records) == 2


def test_what_is_registered_by_hand_travels_and_may_be_registered_again():
    registry: Registry[int] = Registry("source", {"ours": 1}, accept=number)
    registry.add("mine", 2, origin="notebook")
    registry.add("mine", 4, origin="notebook")
    assert (registry["mine"], registry.origin("mine")) == (4, "notebook")
    assert registry.travels("mine")
    with pytest.raises(PluginError, match="'ours' is a name of Headstock"):
        registry.add("ours", 5, origin="notebook")
    del registry["mine"]
    assert dict(registry) == {"ours": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_registry_of_each_kind(kind):
    registry = registry_of(kind)
    assert registry.kind == kind
    assert registry.group == f"headstock.{kind}s"
    first = next(iter(registry.built_in))
    with pytest.raises(PluginError, match=f"{first!r} is a name of Headstock"):
        register(kind, first, print)
    if kind != "dataset":
        with pytest.raises(PluginError, match="cannot be used: "):
            register(kind, "a-wrong-thing", 3)
    with pytest.raises(PluginError, match="Did you mean 'aligner'"):
        register("alinger", "mine", print)


PLUGIN = '''
import numpy as np
from beside import SCALE
from featstore.plugins import register


@register("encoder", "length")
class Length:
    """Texts by their length."""

    kinds = frozenset({"caption", "class_name"})
    dim, batch_size, facts = 2, 8, {}
    space = {"family": "length", "scale": SCALE}

    def __init__(self, name, options):
        self.name = name

    def prepare(self, item):
        return item

    def encode(self, batch):
        return np.array([[len(text), SCALE] for text in batch], np.float32)


def nothing(request):
    """Never what it should be."""
    return None


register("source", "nothing", nothing)
'''


@pytest.fixture
def plugin(tmp_path, no_plugins) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "beside.py").write_text("SCALE = 3.0\n")
    (tmp_path / "own" / "my things.py").write_text(PLUGIN)
    yield tmp_path / "own" / "my things.py"
    sys.modules.pop("beside", None)


def test_a_file_registers_encoders_and_sources(plugin, tmp_path, capsys):
    """The documents' commands use files of each kind, datasets too: docs/ref/extend.md."""
    assert headstock("ls", "--available", "encoders", "--plugin", plugin) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split()[:3] == ["length", "my", "things.py"]
    assert line.endswith("  Texts by their length.")
    assert os.environ[plugins.ENVIRONMENT] == str(plugin)
    assert check_name("length:any") == "length"
    check_kind("length:any", "caption")
    with pytest.raises(EncoderError, match="encodes caption and class_name, not image"):
        check_kind("length:any", "image")
    encoder = open_encoder("length:any")
    assert encoder.encode(["ab", "c"]).tolist() == [[2, 3], [1, 3]]
    # Its class is found under the same name in every process.
    assert type(pickle.loads(pickle.dumps(encoder))) is type(encoder)
    assert not FAMILIES.travels("length")
    with pytest.raises(ManifestError, match="'nothing' returned NoneType"):
        make_manifest("nothing", tmp_path, tmp_path / "m")
    assert SOURCES.about("nothing") == "Never what it should be."


def test_a_dataset_is_a_folder_with_a_dataset_toml(tmp_path, no_plugins):
    (tmp_path / "photos").mkdir()
    facts = 'name = "photos"\nsummary = "Photographs."\nsource = "folder"\n'
    (tmp_path / "photos" / "dataset.toml").write_text(facts)
    register("dataset", "photos", tmp_path / "photos")
    assert DATASETS["photos"].summary == "Photographs."
    with pytest.raises(PluginError, match="whose name is 'photographs'"):
        register("dataset", "photographs", tmp_path / "photos")


def test_what_cannot_be_loaded_is_one_error(tmp_path, no_plugins, capsys):
    bad = tmp_path / "bad.py"
    bad.write_text("import a_module_that_is_not_there\n")
    for place, message in (
        (str(bad), "ModuleNotFoundError(\"No module named 'a_module_that_is_not_there'\")"),
        (str(tmp_path / "none.py"), f"There is no plugin {tmp_path / 'none.py'}"),
    ):
        os.environ[plugins.ENVIRONMENT] = ""
        assert headstock("ls", "--available", "encoders", "--plugin", place) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    os.environ[plugins.ENVIRONMENT] = ""
    bad.write_text("from featstore.plugins import register\nregister('encoder', 'timm', print)\n")
    with pytest.raises(PluginError, match=r"'timm' of bad.py is left out: 'timm' is a name"):
        use_plugins([bad])
