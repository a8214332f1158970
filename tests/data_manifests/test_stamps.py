"""The stamps builder on a miniature package: selection, pictures, ids, split, captions."""

import hashlib
import re
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import data_manifests.stamps as build
from data_manifests.plan import BuildError, write_pictures
from data_manifests.stamps import (
    Stamp,
    compose,
    is_selected,
    read_caption,
    read_stamp,
    select_stamps,
)
from tests.data_manifests.conftest import SELECTED

# ---- selection -----------------------------------------------------------------------------


def test_the_selection_is_the_documented_one(stamps_root):
    stamps = select_stamps(stamps_root)
    assert [stamp.path for stamp in stamps] == SELECTED
    assert stamps[0] == Stamp("animals/birds/gull", "A Silver Gull.", {"fr": "Une mouette."})
    assert stamps[1].translations == {"ca@valencia": "Granota"}
    assert stamps[4].translations == {"fr": "Un panneau"}


@given(st.lists(st.sampled_from(["symbols", "cartoon", "animals", "cartoons", "x_flip"]),
                max_size=3),
       st.sampled_from(["a", "a_mirror", "a_flip", "a_mirrorflip", "mirror", "a_flipped",
                        "cartoon", "symbols"]))  # fmt: skip
def test_selection_agrees_with_a_pattern_on_the_whole_path(folders, name):
    """Independent: one regular expression instead of parts."""
    path = "/".join([*folders, name])
    out = re.search(r"^symbols/|(^|/)cartoon/|_(mirrorflip|mirror|flip)$", path)
    assert is_selected(path) == (out is None)


def test_links_are_not_followed(stamps_root, tmp_path):
    (stamps_root / "animals" / "linked.png").symlink_to(stamps_root / "animals" / "frog.png")
    (stamps_root / "animals" / "linked.txt").symlink_to(stamps_root / "animals" / "frog.txt")
    (stamps_root / "again").symlink_to(stamps_root / "animals")
    assert [stamp.path for stamp in select_stamps(stamps_root)] == SELECTED


def test_captions_must_be_utf8(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("L'\xe9t\xe9.".encode("latin-1"))
    with pytest.raises(BuildError, match=r"a.txt is not UTF-8 \(byte 2\).*remove it"):
        read_caption(file, "a")
    file.write_bytes(b"\xef\xbb\xbfA frog.\nnonsense\nxx=1\n")
    assert read_caption(file, "a") == Stamp("a", "A frog.", {})
    file.write_bytes(b"")
    assert read_caption(file, "a") is None


# ---- pictures ------------------------------------------------------------------------------


def compose_slowly(stamp):
    """Independent: alpha blending over white in NumPy, pixel by pixel in float."""
    rgba = np.asarray(stamp.convert("RGBA"), dtype=np.float64)
    height, width = rgba.shape[:2]
    side = max(1, round(1.1 * max(width, height)))
    out = np.full((side, side, 3), 255.0)
    top, left = (side - height) // 2, (side - width) // 2
    alpha = rgba[..., 3:] / 255
    out[top : top + height, left : left + width] = rgba[..., :3] * alpha + 255 * (1 - alpha)
    return out


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["RGBA", "RGB", "L", "LA", "P", "1"]),
    st.integers(0, 2**32 - 1),
)
def test_pictures_are_composited_on_white_in_a_square(width, height, mode, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    stamp = Image.fromarray(pixels, "RGBA").convert(mode)
    got = compose(stamp)
    assert got.mode == "RGB"
    # One grey level: Pillow blends in integers.
    assert np.abs(np.asarray(got, dtype=np.float64) - compose_slowly(stamp)).max() <= 1


def test_a_damaged_picture_is_named_and_leaves_nothing(tmp_path):
    source, target = tmp_path / "a.png", tmp_path / "out" / "a.png"
    Image.new("RGBA", (50, 50), "red").save(source)
    source.write_bytes(source.read_bytes()[:60])
    with pytest.raises(BuildError, match=r"a.png cannot be decoded.*remove the file"):
        read_stamp(source)
    source.write_text("no picture")
    with pytest.raises(BuildError, match=r"a.png cannot be decoded"):
        write_pictures([(target, partial(read_stamp, source))] * 5, None)
    assert not target.parent.exists()


# ---- classes and split ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "name", "noun"),
    [
        ("A red kangaroo.", "A red kangaroo", "red kangaroo"),
        ("An American football.", "An American football", "American football"),
        ("Some flowers.", "Some flowers", "flowers"),
        ("The Sun. The center!", "The Sun. The center!", "Sun. The center"),
        ("Right eye.", "Right eye", "Right eye"),
        ("Anthurium", "Anthurium", "Anthurium"),
        ("A balloon!", "A balloon!", "balloon"),
        ("Another tombstone.", "Another tombstone", "Another tombstone"),
        ("A.", "A", "A"),
        (".", ".", "."),
    ],
)
def test_names_and_nouns(description, name, noun):
    assert (build.name_of(description), build.noun_of(description)) == (name, noun)


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.randoms())
def test_class_ids_are_unique_and_do_not_depend_on_the_order(descriptions, rng):
    ids = build.class_ids(descriptions)
    assert len(set(ids.values())) == len(descriptions)
    assert all(re.fullmatch(r"stamps/[a-z0-9-]+", class_id) for class_id in ids.values())
    shuffled = rng.sample(descriptions, len(descriptions))
    assert build.class_ids(shuffled) == ids
    assert build.class_table(shuffled).equals(build.class_table(descriptions), null_equal=True)


def test_the_split_is_a_fixed_function_of_the_text():
    """Golden: these never change, or every published number would.

    From ``printf %s TEXT | sha256sum``: below 0x9999… is train, below 0xcccc… val.
    """
    golden = {
        "A red kangaroo.": ("5ac92de1", "train"),
        "A Silver Gull.": ("2493122f", "train"),
        "A badger.": ("ab04cbd5", "val"),
        "A balloon!": ("b9b31db3", "val"),
        "A frog.": ("e37c9bad", "test"),
        "Right eye.": ("f97ba330", "test"),
    }
    for text, (digits, split) in golden.items():
        assert hashlib.sha256(text.encode()).hexdigest().startswith(digits)
        assert build.split_of(text) == split
    counts = Counter(build.split_of(f"Description {n}.") for n in range(10_000))
    for split, share in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
        # Five standard deviations of a binomial.
        assert abs(counts[split] / 10_000 - share) < 5 * (share * (1 - share) / 10_000) ** 0.5


# ---- the whole builder; its tables are in tests/goldens/manifests.json --------------------


def test_the_fingerprint_follows_pixels_captions_and_locales(stamps_root):
    def now(**options):
        return build.plan(source=stamps_root, **options).fingerprint

    first = now()
    assert now(locales=("en", "en")) == first
    assert now(locales=("en", "fr")) != first
    caption = stamps_root / "animals" / "frog.txt"
    before = caption.read_bytes()
    caption.write_bytes(before + b"it.utf8=Una rana.\n")
    assert now() != first
    caption.write_bytes(before)
    assert now() == first
    (stamps_root / "symbols" / "two.png").write_bytes(b"not selected")
    assert now() == first
    Image.new("RGBA", (10, 40), "white").save(stamps_root / "animals" / "frog.png")
    assert now() != first


def test_a_locale_that_no_stamp_has_lists_those_there_are(stamps_root):
    with pytest.raises(BuildError, match=r"'pt'. Known locales: ca@valencia, en, fr, pt_BR"):
        build.plan(source=stamps_root, locales=["en", "pt"])
    assert build.plan(source=stamps_root, locales=["pt_BR"]).facts["locales"] == ["pt_BR"]
