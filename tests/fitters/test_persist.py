import hashlib
import json
from functools import partial

import numpy as np
import pytest
import safetensors.numpy

from fitters import fit, load
from fitters.errors import AlignmentWriteError, CorruptAlignmentError
from fitters.saved import ARRAYS_NAME, JSON_NAME
from tests.damage import tree
from tests.shorthand import save_alignment


@pytest.fixture
def ridge(make_world):
    head, real = make_world()
    return fit("ridge", prototypes=head, real=real, rng=np.random.default_rng(0))


def test_what_is_saved_is_two_plain_files_the_same_once_more(ridge, tmp_path):
    """That each method's projections are the same, tests/bench/test_contracts.py looks at."""
    path = save_alignment(tmp_path / "deep" / "one", ridge)
    again = load(path)
    assert again.aligner.get_params() == ridge.aligner.get_params()
    assert again.x.label == ridge.x.label
    assert tree(path) == tree(save_alignment(tmp_path / "two", again))
    assert set(tree(path)) == {JSON_NAME, ARRAYS_NAME}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "two"], "staging is left"


def test_the_same_is_left_untouched_and_another_replaces_it(ridge, make_world, tmp_path):
    path = save_alignment(tmp_path / "a", ridge)
    before = (path / JSON_NAME).stat()
    save_alignment(path, ridge)
    assert (path / JSON_NAME).stat().st_ino == before.st_ino
    head, _ = make_world()
    other = fit("procrustes", prototypes=head, rng=np.random.default_rng(0))
    save_alignment(path, other)
    assert load(path).facts["method"] == "procrustes"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_what_is_no_alignment_is_not_replaced(ridge, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(AlignmentWriteError, match="exists and is not an alignment"):
        save_alignment(tmp_path / "mine", ridge)
    (tmp_path / "file").write_text("keep")
    with pytest.raises(AlignmentWriteError, match="exists and is not an alignment"):
        save_alignment(tmp_path / "file", ridge)
    with pytest.raises(AlignmentWriteError, match="is a file: name a folder"):
        save_alignment(tmp_path / "file" / "below", ridge)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def edit(path, **changes):
    record = json.loads((path / JSON_NAME).read_text())
    for key, value in changes.items():
        if value is None:
            del record[key]
        else:
            record[key] = value
    (path / JSON_NAME).write_text(json.dumps(record))


def write_arrays(path, data):
    """Write a file of arrays under a digest that agrees."""
    (path / ARRAYS_NAME).write_bytes(data)
    edit(path, sha256=hashlib.sha256(data).hexdigest())


def rewrite_arrays(path, change):
    """Change the arrays and make the declaration agree: what is left is the meaning."""
    arrays = change(safetensors.numpy.load((path / ARRAYS_NAME).read_bytes()))
    write_arrays(path, safetensors.numpy.save(arrays))
    edit(path, arrays={name: list(array.shape) for name, array in arrays.items()})


def test_every_flipped_byte_of_the_arrays_is_noticed(ridge, tmp_path, rng):
    path = save_alignment(tmp_path / "a", ridge)
    data = (path / ARRAYS_NAME).read_bytes()
    for at in [0, 8, 20, *rng.integers(0, len(data), 20).tolist(), len(data) - 1]:
        flipped = bytearray(data)
        flipped[at] ^= 1
        (path / ARRAYS_NAME).write_bytes(bytes(flipped))
        with pytest.raises(CorruptAlignmentError, match="digests differ"):
            load(path)


HOSTILE = {
    "format": (lambda p: edit(p, format=2), "has format 2"),
    "no json": (lambda p: (p / JSON_NAME).write_text("{"), "alignment: Input data was truncated"),
    "method": (lambda p: edit(p, method="os.system"), "of the method 'os.system'"),
    "other method": (lambda p: edit(p, method="procrustes"), "unexpected keyword|got an unexp"),
    "unknown param": (lambda p: edit(p, params={"hook": 1}), "unexpected keyword"),
    "bad param": (lambda p: edit(p, params={"direction": "z"}), "The 'direction' parameter"),
    "transform": (lambda p: edit(p, x={"normalize": 1}), r"got `int` - at `.\.x\.normalize`"),
    **{
        f"no {field}": (partial(edit, **{field: None}), f"missing required field `{field}`")
        for field in ("params", "values", "x", "arrays", "facts", "sha256")
    },
    "other shapes": (lambda p: edit(p, arrays={"coef_": [900, 24]}), "holds other arrays"),
    **{
        f"noise {data[:2]!r}": (partial(write_arrays, data=data), "not a safetensors file")
        for data in (b"", b"\xff" * 200, b"\x08" + b"\0" * 7 + b"not json")
    },
    "no array file": (lambda p: (p / ARRAYS_NAME).unlink(), "cannot be read: No such file"),
    "extra array": (
        lambda p: rewrite_arrays(p, lambda a: {**a, "more": np.ones(2)}),
        "'more' is no name of what is fitted",
    ),
    "wrong mean": (
        lambda p: rewrite_arrays(p, lambda a: {**a, "y.mean": np.ones((5, 2))}),
        "A mean must be a finite vector",
    ),
    "wrong type": (
        lambda p: rewrite_arrays(p, lambda a: {**a, "coef_": a["coef_"].astype(np.float32)}),
        "holds other arrays",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_one_clear_line(name, ridge, tmp_path):
    harm, match = HOSTILE[name]
    path = save_alignment(tmp_path / "a", ridge)
    harm(path)
    with pytest.raises(CorruptAlignmentError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert "alignment" in str(caught.value)
