"""Goods with text alone: nouns of WordNet 3.0 below furniture, tools, dishes and so on, with their real glosses."""

import re
from pathlib import Path
from typing import NamedTuple

# Category -> the synsets (lemma, sense number) whose hyponyms it holds.
ROOTS = {
    "furniture": [("furniture", 1)],
    "tool": [("tool", 1)],
    "container": [("vessel", 3), ("box", 1), ("bag", 1), ("basket", 1)],
    "instrument": [("musical_instrument", 1)],
    "vehicle": [("vehicle", 1)],
    "dish": [("dish", 2)],
    "beverage": [("beverage", 1)],
    "toy": [("plaything", 1), ("game", 1), ("game_equipment", 1), ("board_game", 1), ("card_game", 1)],
    "book": [("book", 1), ("book", 2)],
    "jewellery": [("jewelry", 1)],
    "appliance": [("home_appliance", 1), ("kitchen_utensil", 1)],
    "bakery": [("baked_goods", 1), ("confectionery", 1)],
    "fruit": [("edible_fruit", 1), ("vegetable", 1)],
    "fabric": [("fabric", 1)],
}
# Not sold here, so that a class of any age can read all of it: weapons, drugs, alcohol, violence, faith, slang.
REFUSED = re.compile(
    r"weapon|\bguns?\b|gunn|pistol|rifle|firearm|cannon|bomb|missile|tortur|execut|slave|prison|\bkill|\bdrug|narco|"
    r"opium|cannabis|marijuana|tobacco|cigar|pipe for|slang|offensive|disparag|sex|erotic|prostitut|nude|condom|"
    r"contracepti|excrement|urin|toilet|chamber ?pot|vomit|corpse|coffin|hearse|dead|death|blood|poison|military|"
    r"warfare|warship|armed|armou?r|enemy|gambl|trick|surg|police|troops|intoxicat|drunk|knockout|combat|attack|"
    r"prayer|\bbet(s|ting)?\b|snuff|\bpills?\b|cash bar|wet bar|julep|glogg|mulled|royale|\bpunch\b|alcohol|liquor|"
    r"liqueur|\bwines?\b|\bbeers?\b|\bales?\b|cocktail|brandy|whisk(e)?y|\brum\b|\bgin\b|vodka|vermouth|kiss|nazi|"
    r"indian|savage|primitive|cracker|\bbra\b|virgin|maiden|holy|god\b|bible|religio|sacred|scripture|koran|torah|"
    r"church|mass\b|euchar|gyps"
)


class Good(NamedTuple):
    title: str
    gloss: str  # first clause
    category: str


class Synset(NamedTuple):
    lemmas: list[str]
    below: list[str]  # offsets of the hyponyms
    gloss: str


def goods(folder: Path) -> list[Good]:
    """All nouns that qualify, by title: their lemma's first sense, plain lower-case words, nothing refused."""
    lines = [line.split() for line in _lines(folder / "index.noun")]
    senses = {parts[0]: parts[-int(parts[2]) :] for parts in lines}  # the commonest first
    synsets = dict(map(_synset, _lines(folder / "data.noun")))
    found: dict[str, Good] = {}
    for category, roots in ROOTS.items():
        todo = [senses[lemma][number - 1] for lemma, number in roots]
        tops, seen = set(todo), set()
        while todo:
            offset = todo.pop()
            if offset in seen:
                continue
            seen.add(offset)
            todo += synsets[offset].below
        for offset in sorted(seen - tops):
            good = _good(synsets[offset], category)
            if good and senses[good.title.replace(" ", "_")][0] == offset and good.title not in found:
                found[good.title] = good
    return sorted(found.values())


def _good(synset: Synset, category: str) -> Good | None:
    title = synset.lemmas[0].replace("_", " ")
    clause = " ".join(re.split(r"[;:(\"]", re.sub(r"\([^)]*\)", "", synset.gloss).strip())[0].split())
    if not re.fullmatch(r"[a-z]{3,}( [a-z]{2,}){0,2}", title) or not 25 <= len(clause) <= 120:
        return None
    refused = REFUSED.search(title) or REFUSED.search(synset.gloss.lower())
    return None if refused else Good(title, clause, category)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="ascii").splitlines() if not line.startswith(" ")]  # no comments


def _synset(line: str) -> tuple[str, Synset]:
    """Its offset, and what the line of a WordNet data file says."""
    head, _, gloss = line.partition(" | ")
    parts = head.split()
    count = int(parts[3], 16)
    pointers = parts[4 + 2 * count + 1 :]
    below = [pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] == "~"]
    return parts[0], Synset(parts[4 : 4 + 2 * count : 2], below, gloss.strip())
