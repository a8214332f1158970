"""Facts of a manifest as TOML, against the standard library's reader."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore import write_manifest
from featstore.errors import ManifestError
from featstore.manifest.io import toml_text

_SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)
_FACTS = st.recursive(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), _SCALARS, max_size=4),
    lambda inner: st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        inner | _SCALARS | st.lists(_SCALARS | st.lists(st.integers()), max_size=4),
        max_size=4,
    ),
    max_leaves=8,
)


@given(_FACTS)
def test_facts_survive_the_standard_librarys_reader(facts):
    text = toml_text(facts)
    assert tomllib.loads(text) == facts
    assert text == toml_text(facts)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), b"x", Path("x"), [{"a": 1}]])
def test_facts_that_toml_cannot_hold_are_named(value):
    with pytest.raises(ManifestError, match=r"fact a.b is .*Give a string, number"):
        toml_text({"a": {"b": value}})


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(ManifestError, match=r"fact a is .* cannot hold"):
        toml_text({"a": "\ud800"})


def test_keys_are_strings():
    with pytest.raises(ManifestError, match="not a string: 1"):
        toml_text({1: "a"})


def test_a_name_or_key_with_a_line_end_does_not_pass_for_one_without(tmp_path: Path) -> None:
    assert tomllib.loads(toml_text({"a\n": {"b\n": 1}})) == {"a\n": {"b\n": 1}}
    with pytest.raises(ManifestError, match="lower-case letters"):
        write_manifest(tmp_path, facts={"name": "stamps\n"}, tables={})
