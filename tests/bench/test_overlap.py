import polars as pl
import pytest

from bench.corpus import class_name_forms, seen_classes


def names(*rows):
    """Items of kind class_name from (class_id, variant, template_id, text)."""
    return pl.DataFrame(rows, schema=["class_id", "variant", "template_id", "text"], orient="row")


HEAD = names(
    ("h/1", "name", "none", "kite"),
    ("h/1", "name", "photo", "a photo of a kite."),
    ("h/2", "lemmas", "none", "plant, flora, plant_life"),
    ("h/2", "definition", "none", "a living organism"),
)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("kite", True),
        ("Kite", True),
        ("a kite", True),
        ("The kite.", True),
        ("plant life", True),
        ("Plant-Life", True),
        ("flora, fauna", True),
        ("red kite", False),
        ("kites", False),
        ("a living organism", False),  # a definition is no name
        ("a photo of a kite.", False),  # nor is a prompt
    ],
)
def test_names_are_compared_without_case_article_and_hyphen(text, seen):
    own = names(("d/1", "name", "none", text))
    assert seen_classes(own, HEAD, ["d/1"]).tolist() == [seen]


def test_equal_ids_are_seen_whatever_the_name():
    own = names(("h/2", "name", "none", "something else"), ("h/9", "name", "none", "nothing"))
    assert seen_classes(own, HEAD, ["h/9", "h/2", "h/unknown"]).tolist() == [False, True, False]


def test_sets_without_bare_names_are_compared_by_what_they_have():
    prompts = names(("d/1", "text", "photo", "a photo of a kite."))
    assert class_name_forms(prompts) == {"d/1": {"photo of a kite"}}
