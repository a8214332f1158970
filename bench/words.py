"""The words that a search knows: the things of WordNet, without persons.

WordNet's tree names persons by what they do, where they come from and what is thought of them; its
words for them hold slurs and insults. Three rules keep them away from pictures:

1. A word that only names persons is in no vocabulary, but for PLAIN; nor is a word of BLOCKED.
2. Of the words that are there, those that somebody could be called are found when they are typed,
   and never printed on a picture, or proposed, by themselves: see `is_printed`.
3. Names of files are words of their owner: they too are never printed on another picture.

What is typed is nobody's business: it is encoded as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from data_manifests.labels import LEMMAS, find_timm_info, lemmas_of


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: Words of WordNet that a page holds, the most common first; names of files come on top.
N_WORDS = 15_200

#: WordNet's noun.person, and its apes and monkeys, which nobody wants on a picture of a person.
PERSONS, _APES = range(9_500_000, 11_400_000), range(2_469_000, 2_496_800)

#: Plain words for persons: they are found, and never printed unasked.
PLAIN = _set("""
    actor actress artist astronaut athlete aunt author baby baker bride bridegroom boy brother
    butcher carpenter chef child clown coach cook crew crowd cyclist dancer daughter dentist diver
    doctor driver engineer family farmer father firefighter fireman fisherman friend gardener girl
    golfer grandfather grandmother groom guest guitarist hiker judge juggler lady lawyer librarian
    man mechanic mother musician neighbor nurse painter parent people person photographer pianist
    pilot player plumber policeman postman priest queen king rider runner sailor scientist singer
    sister skater skier soldier son spectator student surfer swimmer tailor teacher teenager tourist
    uncle violinist waiter waitress woman worker
""")

#: Words that only go with others, in phrases.
MODIFIERS = sorted(
    _set("""
    red orange yellow green blue purple violet pink brown grey gray golden silver dark bright pale
    colorful striped spotted wooden metal plastic paper leather woolen furry feathered shiny rusty
    broken old new big small large tiny huge tall long round square flat thick thin open closed
    empty full wet dry hot cold fresh ripe raw cooked wild tame sleeping running jumping flying
    swimming sitting standing eating playing two three many single pair
""")
)

#: Words that are in no vocabulary, whatever else they mean: slurs, insults, and words for parts of
#: the body that insult. At the beginning of any word of a term.
BLOCKED = tuple(
    _set("""
    arse bastard bitch boob bushman cannibal coon cretin cripple cunt dago darkie darky dildo dyke
    eskimo faggot fagot gipsy gook gringo gypsy half-breed halfbreed heathen hottentot idiot
    imbecile jew kaffir kafir kike lunatic mammy mongrel moron mulatto negr nigg nipple nude
    old-maid papoose paki piss poof porn prick puss queer rape redskin retard sambo savage shit
    skank slut spastic spic squaw tart tit tranny turd vulva wetback whore witch wog wop
""")
)

#: What begins with one of BLOCKED and is innocent.
_INNOCENT = re.compile(
    "arsenal|coontie|jewel|morone$|prick[el]|pussytoe|rapeseed|shitt|spic[aeiu]|tart[ae]|"
    "tit[aehilmor]|turdus|vulvaria"
)

#: Words that somebody is called in WordNet, too, and that name an animal or a thing first.
_THINGS = _set("""
    adapter anchor blade boater bourbon bowler brick bunny camper case cat chameleon checker chicken
    comforter controller cub cutter dish drawer drill drone energizer fan fence fish generator
    gopher hand head kiwi knocker lamb lead mace match material medium monitor mouth organizer
    pacifier parrot peach pet pillar pitcher planter plotter plunger popper processor pup puppy quad
    rake receiver root rosebud screw seal seed seeder server shaver sheep shower siren speaker
    sponge stamper star starter stroller sweater sweeper tanker timer topper tourer trailer trawler
    tumbler voider washer wave whaler winker
""")

#: Words for no person in WordNet that are not printed on one either.
_UNPRINTED = _set("""
    abortus adult animal bagnio bawdyhouse being beast bottom-dweller bottom-feeder bordello brothel
    brute cadaver cathouse corpse creature creepy-crawly critter dummy female foreskin hog human
    humanity humans individual killer male mankind monster mortal mutant organism parasite pathogen
    prepuce primate remains scavenger somebody someone soul stayer stunt suckling swine vermin young
    ass jackass zombie zombi
""")


#: What cameras and programs call pictures; it says nothing of them.
_NO_NAME = re.compile(
    "copy|dcim|dji|dscf?|dscn|gopr|images?|img|imgp|jpe?g|kopie|mvimg|photo|picture|png|pxl|scan|"
    "screenshot|unknown|untitled|vid|wa|whatsapp"
)


def is_blocked(term: str) -> bool:
    """Return whether a term is in no vocabulary.

    Examples
    --------
    >>> [is_blocked(term) for term in ("red car", "gypsy moth", "jewel box")]
    [False, True, False]
    """
    return any(
        word.startswith(BLOCKED) and not _INNOCENT.match(word)
        for word in re.split(r"[\s']+", term.lower())
    )


def is_printed(term: str, offsets: Iterable[int]) -> bool:
    """Return whether a term may stand on a picture that nobody asked it for.

    Parameters
    ----------
    term : str
    offsets : iterable of int
        The synsets of the term in any spelling, as WordNet numbers them.
    """
    name = term.lower()
    if name in PLAIN or name in _UNPRINTED or is_blocked(term):
        return False
    of_persons = any(one in PERSONS or one in _APES for one in offsets)
    return name in _THINGS or not of_persons


def vocabulary(tokenizer: Path, n: int = N_WORDS) -> dict[str, bool]:
    """Return the n most common terms, and whether each may be printed unasked.

    The tokenizer of the text encoder knows what is common: its pieces stand in the order of their
    frequency. Terms have at most three words; of spellings that differ in case one stays.

    Parameters
    ----------
    tokenizer : Path
        A ``tokenizer.json``.
    n : int

    Returns
    -------
    dict
        In the order of frequency.

    Raises
    ------
    data_manifests.plan.BuildError
        If timm, which brings WordNet's lemmas, is not installed.
    """
    from tokenizers import Tokenizer

    info = find_timm_info()
    synsets = set((info / "imagenet22k_synsets.txt").read_text("utf-8").split())
    senses: dict[str, set[int]] = {word: set() for word in sorted(PLAIN)}
    spelled: dict[str, str] = {}
    for line in (info / LEMMAS).read_text("utf-8").splitlines():
        synset, _, lemmas = line.partition("\t")
        for term in lemmas_of(lemmas) if synset in synsets else ():
            senses.setdefault(term.lower(), set()).add(int(synset[1:]))
            # Small letters sort behind capitals.
            spelled[term.lower()] = max(term, spelled.get(term.lower(), ""))
    found = [
        name for name, offsets in senses.items()
        if name in PLAIN or (
            name not in MODIFIERS and name.count(" ") <= 2 and re.search(r"[a-z]{3}", spelled[name])
            and not is_blocked(name) and not all(one in PERSONS for one in offsets)
        )
    ]  # fmt: skip
    reader = Tokenizer.from_file(str(tokenizer))
    reader.no_padding()
    pieces = reader.encode_batch(found, add_special_tokens=False)
    # A term is as common as its rarest piece; a word that is no piece is rarer than all that are.
    common = {
        name: (
            0 if name in PLAIN else sum(token.startswith("##") for token in p.tokens),
            max(p.ids, default=0), name,
        )
        for name, p in zip(found, pieces, strict=True)
    }  # fmt: skip
    return {
        spelled.get(name, name): is_printed(name, senses[name])
        for name in sorted(found, key=common.__getitem__)[:n]
    }


def name_words(path: str) -> str:
    """Return what a file is called, in at most four words, or "" if that says nothing of it.

    Examples
    --------
    >>> name_words("animals/Blue_jay-02.png"), name_words("IMG_2044.jpg")
    ('blue jay', '')
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", PurePosixPath(path).stem)
    words = re.findall(r"[^\W\d_]+", apart.lower())
    name = " ".join([word for word in words if not _NO_NAME.fullmatch(word)][:4])
    return name if re.search(r"[^\W\d_]{3}", name) else ""


def path_words(path: str) -> Iterator[str]:
    """Yield the words of a path, each without the s of a plural."""
    for part in PurePosixPath(path).with_suffix("").parts:
        yield from (word.removesuffix("s") for word in name_words(f"{part}.x").split())
