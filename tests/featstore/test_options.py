"""Options that are written down once: keyword arguments, values, docstrings, flags."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from featstore.errors import EncoderError, OptionError
from featstore.extraction.options import EncoderSpec, ExtractConfig, HeadConfig, settle_options
from featstore.options import (
    check_needs,
    config_from,
    option,
    options_from,
    settings_from,
    settings_of,
    take_options,
    with_options,
)


@with_options
@dataclass(frozen=True)
class Oven:
    """An oven.

    Attributes
    ----------
    {options}
    """

    name: str = option(help="Name of the oven.")
    degrees: int | Literal["auto"] | None = option(None, help="Temperature.", at_least=1)
    fan: bool = option(False, help="Run the fan.", flag="--blow")
    heat: Literal["top", "bottom"] = option("top", help="Where the heat comes from.")
    book: Path | None = option(None, help="File of recipes.")
    secret: float = option(0.5, help="Set from Python alone.", flag=None)
    gas: float | Literal["auto"] = option("auto", help="Gas.", above=0, below=inf)
    trays: int | Literal["auto"] | None = option("auto", help="Trays.", none="all", at_least=1)
    door: bool | None = option(None, help="Leave it open.", flag="--open/--shut")
    spices: tuple[str, ...] = option(("salt",), help="Spices.", needs=("book",))


def _typed(*words: str, several: bool = False) -> Any:
    """Return what a command with the flags of an oven is given, or its usage error."""

    @click.command()
    @options_from(Oven, several=several)
    def bake(**given: Any) -> None:
        seen.append(given)

    seen: list[dict[str, Any]] = []
    done = CliRunner().invoke(bake, list(words))
    return seen[0] if seen else done.output


def test_a_flag_gives_words_numbers_and_none():
    words = ["--name", "a", "--gas", "0.5", "--trays", "all", "--open"]
    words += ["--spices", "a, b", "--spices", "c"]
    expected = Oven("a", gas=0.5, trays=None, door=True, spices=("a", "b", "c"))
    assert config_from(Oven, _typed(*words)) == expected
    assert config_from(Oven, _typed("--name", "a", "--shut")) == Oven("a", door=False)
    assert config_from(Oven, _typed("--name", "a")) == Oven("a")


def test_an_option_without_what_it_needs_is_refused():
    given = {"spices": ("pepper",), "book": None}
    said = "has no effect without --book"
    with click.Context(click.Command("bake")), pytest.raises(click.UsageError, match=said):
        check_needs(given, Oven)
    check_needs(given | {"book": Path("b")}, Oven)
    check_needs(given | {"spices": ("salt",)}, Oven)


@pytest.mark.parametrize(("words", "said"), [
    (["--name", "a", "--gas", "inf"], "a number above 0 and finite, or auto; got 'inf'"),
    (["--name", "a", "--trays", "none"], "at least 1, or auto, or all; got 'none'"),
    (["--heat", "top"], "Missing option '--name'"),
    (["--name", "a", "--heat", "left"], "expected top or bottom; got 'left'"),
    (["--name", "a", "--secret", "1"], "No such option"),
])  # fmt: skip
def test_a_wrong_word_is_a_usage_error(words, said):
    assert said in _typed(*words)


def test_lists_are_parted_by_commas_or_given_again():
    typed = _typed("--degrees", "1,auto", "--degrees", "7,1", "--heat", "top", several=True)
    assert (typed["degrees"], typed["heat"], typed["name"]) == ((1, "auto", 7), ("top",), ())
    assert "expected an integer of at least 1, or auto" in _typed("--degrees", "0", several=True)
    assert "has an empty part" in _typed("--degrees", "1,", several=True)


@dataclass(frozen=True)
class Grill:
    """Settings alone."""

    heat: int | Literal["auto"] | None = option(3, help="Heat.", flag="-s", at_least=1, none="all")
    lid: bool = option(False, help="Close it.", flag="-s")
    coal_kinds: tuple[str, ...] = option(("oak",), help="Coal.", flag="-s coal")
    n: tuple[int, ...] = option((), help="Numbers.", flag="-s")
    label: str = option("", help="Text.", flag="-s")


OWNERS = {"grill": settings_of(Grill), "pan": {"heat": settings_of(Grill)["heat"]}, "a stove": {}}
GIVEN = [
    # Words, whether each value makes a run, and the values of the grill and of the pan.
    ("heat=5", False, {"heat": 5}, {"heat": 5}),
    ("pan.heat=all grill.heat=auto", False, {"heat": "auto"}, {"heat": None}),
    ("lid coal=oak,ash coal=elm n=1,2", False,
     {"lid": True, "coal_kinds": ("oak", "ash", "elm"), "n": (1, 2)}, {}),
    ("lid=no label=", False, {"lid": False, "label": ""}, {}),
    ("grill.heat=1,auto heat=2,1", True, {"heat": (1, "auto", 2)}, {"heat": (2, 1)}),
    ("coal=oak,ash coal=elm lid", True, {"coal_kinds": (("oak", "ash"), ("elm",)), "lid": (True,)},
     {}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "runs", "grill", "pan"), GIVEN, ids=[one[0] for one in GIVEN])
def test_settings_go_to_what_has_them(words, runs, grill, pan):
    found = settings_from(words.split(), OWNERS, runs=runs)
    assert found == {"grill": grill, "pan": pan, "a stove": {}}


BAD = [
    ("heet=1", "'heet' of grill, pan, a stove. Known settings: heat, lid, coal, n, label. Did you"),
    ("pan.lid", "No setting named 'lid' of pan. Known settings: heat. These have it: griddle."),
    ("pot.heat=1", "No owner named 'pot' in -s pot.heat=1. Known owners: grill, pan, a stove."),
    ("heat=0", "heat of grill: expected an integer of at least 1, or auto, or all; got '0'."),
    ("lid=maybe", "lid of grill: expected yes or no; got 'maybe'."),
    ("n=1,x", "n of grill: expected an integer; got 'x'."),
    ("heat", "has no value. Write heat=VALUE."),
    ("lid lid=no", "The setting lid of grill is given twice. Once."),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=[words for words, _ in BAD])
def test_a_setting_that_nothing_takes_is_wrong_usage(words: str, said: str) -> None:
    with pytest.raises(click.UsageError) as err:
        settings_from(words.split(), OWNERS, having=lambda name: ["griddle"][: name == "lid"])
    assert said in err.value.message


def test_keyword_arguments_go_to_the_dataclass_that_has_them():
    assert take_options({"fan": True, "dtype": "x"}, Oven, ExtractConfig, of="bake") == [
        {"fan": True}, {"dtype": "x"},
    ]  # fmt: skip
    with pytest.raises(OptionError, match=r"bake has no option 'heet'.*Did you mean 'heat'"):
        take_options({"heet": True}, Oven, of="bake")


def test_arguments_win_over_the_config_and_the_spec():
    spec = EncoderSpec("timm:a", weights="hub", pool="cls")
    config = ExtractConfig(batch_size=3, limit=2)
    settled = settle_options(spec, config, {"pool": "mean", "limit": 5}, of="extract")
    assert settled == (replace(spec, pool="mean"), replace(config, limit=5))
    named = settle_options("timm:a", HeadConfig(), {"label_set": "toy"}, of="extract_head")
    assert named == (EncoderSpec("timm:a"), HeadConfig("toy"))


@pytest.mark.parametrize(("options", "said"), [
    ({"batch_size": "auto"}, "'batch_size' of an extraction must be at least 1; got 'auto'"),
    ({"batch_size": True}, "must be at least 1; got True"),
    ({"views": None}, "'views' of an extraction must be at least 0; got None"),
])  # fmt: skip
def test_a_value_that_an_extraction_does_not_take(options, said):
    with pytest.raises(EncoderError, match=said):
        ExtractConfig(**options)
