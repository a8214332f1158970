"""A miniature of the stamps package, with one of everything that the selection must decide."""

from pathlib import Path

import pytest

#: path -> (caption file or None, (width, height), colour)
TREE = {
    "animals/birds/gull": ("A Silver Gull.\nfr.utf8=Une mouette.\nde.utf8=\n", (30, 20), "red"),
    "animals/frog": ("A frog.\nfr.utf8=Une grenouille.\npt_BR.utf8=Um sapo.\n", (10, 40), "green"),
    "animals/toad": ("A frog.\n", (8, 8), "blue"),
    "animals/frog_mirror": ("A frog.\n", (10, 40), "green"),
    "animals/frog_flip": ("A frog.\n", (10, 40), "green"),
    "animals/frog_mirrorflip": ("A frog.\n", (10, 40), "green"),
    "animals/cartoon/frog": ("A cartoon frog.\n", (8, 8), "green"),
    "animals/cartoon/deep/frog": ("A deep frog.\n", (8, 8), "green"),
    "animals/cartoonish": ("A drawn frog!\nca@valencia.utf8=Granota\n", (9, 9), "green"),
    "animals/wordless": (None, (8, 8), "grey"),
    "animals/blank": ("\nfr.utf8=Rien\n", (8, 8), "grey"),
    "symbols/one": ("One.\n", (8, 8), "grey"),
    "town/symbols/sign": ("An empty sign.\r\nfr.utf8=Un panneau\r\n", (1200, 900), "grey"),
}

#: What of it is selected, sorted.
SELECTED = [
    "animals/birds/gull",
    "animals/cartoonish",
    "animals/frog",
    "animals/toad",
    "town/symbols/sign",
]


def write_tree(root: Path, tree=TREE) -> Path:
    """Write stamps: opaque colour inside a transparent frame two pixels wide."""
    from PIL import Image  # in no minimal environment

    for path, (caption, size, colour) in tree.items():
        file = root / f"{path}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGBA", size, (0, 0, 0, 0))
        image.paste(Image.new("RGBA", (size[0] - 4, size[1] - 4), colour), (2, 2))
        image.save(file)
        if caption is not None:
            file.with_suffix(".txt").write_bytes(caption.encode("utf-8"))
    return root


@pytest.fixture
def stamps_root(tmp_path):
    return write_tree(tmp_path / "stamps")
