"""The one sentence for a name that nothing is called by."""

import pytest

from featstore.errors import ManifestError, UnknownEncoderError, lookup, unknown_name

TWELVE = [f"n{i:02d}" for i in range(12)]
THIRTEEN = [*TWELVE, "n12"]


def test_a_known_name_is_found():
    assert lookup({"a": 1, "b": None}, "b", what="thing", error=ManifestError) is None


@pytest.mark.parametrize("error", [ManifestError, UnknownEncoderError])
def test_an_unknown_name_raises_the_error_asked_for(error):
    with pytest.raises(error) as found:
        lookup({"mean": 1, "cls": 2}, "men", what="pool", where="for st:m", error=error)
    assert str(found.value) == (
        "No pool named 'men' for st:m. Known pools: mean, cls. Did you mean 'mean'?"
    )


def test_up_to_twelve_names_are_all_listed():
    said = unknown_name("thing", "x", TWELVE)
    assert said == f"No thing named 'x'. Known things: {', '.join(TWELVE)}."


def test_of_more_names_the_closest_are_listed_and_the_others_counted():
    said = unknown_name("thing", "n121", THIRTEEN, listed_by="things ls")
    assert said.startswith("No thing named 'n121'. Known things: n12, ")
    assert said.endswith(" and 10 others (things ls). Did you mean 'n12'?")
    assert sum(name in said.split("Did")[0].split(".")[1] for name in THIRTEEN) == 3
