"""Builds data/simulated/ anew, byte for byte: news and their readers, posts and theirs; `python data/build_text.py`.

Words, authors, readers and clicks are invented here. Each reader has a taste that is known: data/README.md.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from build import write

TARGET = Path(__file__).parent / "simulated"
SEED, DIMENSIONS, DAY = 2025, 24, 86400
START, DAYS = 1_740_787_200, 60  # 2025-03-01 00:00 UTC
ITEMS, READERS = 360, 600
REGIONS = ("city", "coast", "east", "hills", "lakes", "north", "south", "west")
ADJECTIVES = ("city", "coastal", "eastern", "highland", "lakeside", "northern", "southern", "western")
AUTHORS = (
    "ada", "bo", "cleo", "dario", "edda", "finn", "greta", "hugo", "ines", "jon", "kaja", "leo", "mira", "nils", "olga",
    "pavel", "rosa", "sven", "tove", "uma",
)  # fmt: skip
FOLLOWED = 3  # authors that a reader of posts follows
AGE_EDGES = (25, 35, 50, 65)
# An item's utility is a sum of these; NEAR: of the reader's region, or by a followed author; FRESH fades with the age.
TASTE, LAST, HOUR, NEAR, FRESH, FADE = 1.0, 0.5, 0.5, 0.5, 0.4, 7 * DAY
EVENTS = {"news": ("read", [SEED, 12]), "posts": ("like", [SEED, 13])}  # action and seed
SHARPNESS, CHANCE = 7.0, 0.1  # inverse temperature of a choice; share of choices by chance
OPENINGS = (("finally", "look"), ("help", "why"))  # of posts in either tone

# A line for each theme, topic: subjects; what is said of them in a good tone; and in a bad one.
NEWS = """\
politics: council, mayor, assembly; passes new budget, opens its doors; delays the vote, loses its majority
politics: ministry, cabinet, envoy; signs trade treaty, agrees on reform; rejects the treaty, resigns after dispute
politics: voters, party members, campaigners; elect first woman, turn out early; stay at home, protest against count
economy: bank, lender, insurer; lowers its rates, lends to starters; raises its fees, closes last branch
economy: factory, shipyard, steel mill; hires two hundred, doubles its orders; cuts night shift, halts production
economy: market, shop owners, traders; sold record stock, lowered the prices; feared rising rents, closed on mondays
sport: striker, football club, goalkeeper; wins cup final, scores in overtime; misses the penalty, loses at home
sport: swimmer, rowing team, sailor; breaks a record, takes gold medal; retires with injury, finishes last again
sport: cyclist, runner, marathon team; leads the stage, beats old time; falls near finish, misses the start
weather: storm, gale, thunder; spares the harbour, moves out east; floods the road, tears off roofs
weather: drought, heat wave, dry spring; ends with showers, eases by friday; worries fruit growers, empties the wells
weather: snow, frost, ice; delights the skiers, melts in time; blocks the pass, delays all trains
science: astronomers, telescope, space probe; found distant planet, sent first pictures; lost the signal, missed a comet
science: biologists, marine station, bird counters; found rare species, counted more owls; saw fewer bees, warn of algae
science: chemists, laboratory, physicists; tested better battery, explained old riddle; withdrew a study, lost the grant
culture: museum, gallery, art hall; shows lost masterpiece, opens new wing; closes for repairs, misses a sketch
culture: orchestra, choir, opera; plays sold out, tours with mahler; cancels the season, loses its hall
culture: cinema, film festival, director; premieres quiet drama, wins the jury; divides its critics, drops the finale
health: hospital, clinic, health centre; opens new ward, shortens the wait; runs out of beds, postpones all operations
health: doctors, nurses, midwives; welcome flu vaccine, gain more staff; warn of measles, strike for pay
health: dentists, researchers, pharmacists; praise daily walks, find better sleep; doubt new diet, recall cough syrup
technology: start-up, software firm, app maker; releases free update, shares its code; leaks user data, shuts a service
technology: robot, drone, driverless bus; delivers first parcel, passes road test; stops in rain, hits a fence
technology: phone net, data centre, broadband; reaches all villages, runs on wind; fails for hours, overheats at noon
travel: railway, night train, tram line; returns after years, adds more carriages; stops at border, raises its fares
travel: airport, airline, ferry; opens quiet lounge, adds morning route; loses the luggage, cancels all flights
travel: hostel, campsite, hotel; greets early guests, wins green label; turns guests away, closes its pool
farming: dairy, cheese maker, goat farm; wins top prize, bottles new milk; pours away milk, sells its herd
farming: orchard, vineyard, apple growers; picked record harvest, planted old kinds; lost the blossom, fought the wasps
farming: grain farm, wheat growers, mill; ground first flour, sowed in time; waited for rain, feared the beetle"""
POSTS = """\
cooking: curry, noodles, dumplings; tasted like home, came out silky; turned out bland, stuck together
cooking: omelette, fried egg, pancake; flipped in one, is so fluffy; burns every time, tore in half
cooking: lentils, soup, stew; fed us all, got better overnight; came out salty, boiled over
baking: sourdough, rye loaf, baguette; has real holes, sings while cooling; stays flat inside, will not rise
baking: plum cake, sponge, cheesecake; stands up straight, won the fair; sank in middle, cracked on top
baking: cookies, biscuits, macarons; snap just right, all look alike; spread too far, taste of soap
music: guitar, ukulele, banjo; stays in tune, got new strings; buzzes on frets, snapped a string
music: choir, band, string quartet; played first gig, found a drummer; lost its singer, cannot keep time
music: piano, accordion, organ; sounds warm again, knows one waltz; sticks on c, wakes the neighbours
plants: tomatoes, beans, courgettes; are turning red, outgrew the balcony; have yellow leaves, feed the slugs
plants: cactus, aloe, monstera; made a flower, grew new leaf; went all soft, leans to left
plants: roses, tulips, dahlias; survived the frost, smell of summer; have black spots, never opened
pets: cat, kitten, tomcat; sleeps on keyboard, brought a sock; hates the carrier, hides from guests
pets: puppy, old dog, terrier; learned to sit, loves the sea; ate a shoe, barks at clouds
pets: parrot, budgie, canary; says good morning, sings with radio; bites the bars, lost its feathers
running: half marathon, ten k, parkrun; felt so easy, went under hour; hurt from start, ended in cramp
running: knee, ankle, shin; carries me again, likes new shoes; aches on stairs, swells after hills
running: trail, hill loop, river path; was all mine, showed me deer; was pure mud, got me lost
books: novel, thriller, trilogy; kept me awake, has perfect ending; lost me halfway, ends too soon
books: library, bookshop, reading group; found first edition, reads aloud now; closes at four, cannot agree
books: poems, diary, memoir; made mother cry, went to print; got no reply, stopped at may
repair: bicycle, chain, back wheel; runs like new, shifts without noise; rubs on brake, went flat twice
repair: radio, record player, amplifier; plays once more, glows in dark; hums all night, smells of smoke
repair: kettle, toaster, washing machine; works for nothing, needed one screw; trips the fuse, leaks on floor
games: chess club, opening, endgame; beat the champion, won with bishop; lost on time, blundered the queen
games: board game, card deck, dice tower; fits the shelf, drew six players; misses one piece, takes all night
games: pixel game, save file, speed run; has second level, beat my record; crashed at boss, vanished last night
crafts: scarf, jumper, mittens; fitted my sister, came out warm; grew too long, lost a stitch
crafts: quilt, dress, curtain; is done today, has real pockets; puckers at seams, is upside down
crafts: bowl, teapot, glazed mug; survived the kiln, pours without drip; cracked while drying, came out green"""


class Catalogue(NamedTuple):
    items: pd.DataFrame
    places: np.ndarray  # (N, D) unit rows
    near: np.ndarray  # (N,) code of a region or an author
    topics: dict[str, np.ndarray]  # (D,) each


def catalogue(themes: str, social: bool, rng: np.random.Generator) -> Catalogue:
    """Twelve items of each theme; a place is the unit sum of its topic's, theme's and tone's directions."""
    lines = [line.split(": ") for line in themes.splitlines()]
    topics, tones = {topic: _unit(rng) for topic in dict.fromkeys(topic for topic, _ in lines)}, _unit(rng)
    rows, places = [], []
    for topic, line in lines:
        subjects, *remarks = ([part.strip() for part in parts.split(",")] for parts in line.split(";"))
        theme = _unit(rng)
        for subject, tone, said in [(s, t, said) for s in subjects for t in (0, 1) for said in remarks[t]]:
            near = int(rng.integers(len(AUTHORS if social else REGIONS)))
            begin = f"{rng.choice(OPENINGS[tone])}{' my' * (' ' not in subject)}" if social else ADJECTIVES[near]
            title, author = f"{begin} {subject} {said}", [AUTHORS[near]] * social
            rows.append((title, " | ".join([title, topic, *author]), topic, *author, near))
            places.append(topics[topic] + theme + 0.6 * (1 - 2 * tone) * tones + 0.2 * _unit(rng))
    assert len(rows) == ITEMS and max(len(row[1].replace("|", "").split()) for row in rows) <= 8, "a prompt has 8 words"
    table = pd.DataFrame(rows, columns=["title", "text", "topic", *["author"] * social, "near"])
    order, places = rng.permutation(ITEMS), np.stack(places)
    table = table.iloc[order].reset_index(drop=True)
    table.insert(0, "item_id", [f"{'P' if social else 'N'}{n + 1:03d}" for n in range(ITEMS)])
    table["published"] = START - 10 * DAY + np.sort(rng.integers((DAYS + 10) * 24, size=ITEMS)) * 3600
    places = (places / np.linalg.norm(places, axis=1, keepdims=True))[order]
    return Catalogue(table.drop(columns="near"), places, table["near"].to_numpy(), topics)


def readers(goods: Catalogue, social: bool, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Profiles, tastes (U, D) and (U, near) bool: which region is a reader's own, or which authors are followed."""
    topics, groups = np.stack(list(goods.topics.values())), np.stack([_unit(rng) for _ in range(len(AGE_EDGES) + 1)])
    ages = 16 + np.floor(65 * rng.beta(1.5, 2.2, READERS)).astype(int)
    regions, tastes, near = rng.integers(len(REGIONS), size=READERS), [], []
    for age, region in zip(ages, regions, strict=True):
        first, second = rng.permutation(len(topics))[:2]
        liked = goods.places[rng.integers(ITEMS, size=3)].sum(0)  # themes and tones that there are
        taste = topics[first] + 0.7 * topics[second] + 0.5 * liked + 0.7 * groups[np.digitize(age, AGE_EDGES)]
        tastes.append(taste / np.linalg.norm(taste))
        mine = rng.permutation(len(AUTHORS))[:FOLLOWED] if social else [region]
        near.append(np.isin(np.arange(len(AUTHORS if social else REGIONS)), mine))
    ids = [f"{'PR' if social else 'NR'}{n + 1:03d}" for n in range(READERS)]
    users = pd.DataFrame({"user_id": ids, "age": ages, "region": [REGIONS[r] for r in regions]})
    if social:
        users["follows"] = [" ".join(np.array(AUTHORS)[row]) for row in near]
    return users, np.stack(tastes), np.stack(near)


def simulate(
    goods: Catalogue, users: pd.DataFrame, tastes: np.ndarray, near: np.ndarray, action: str, seed: list[int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events by reader and time; and the Bayes-optimal rank of each reader's last item among all not yet read."""
    topics, rng = np.stack(list(goods.topics.values())), np.random.default_rng(seed)
    # The topics that each part of a workday and of a weekend day pulls towards.
    hours = np.stack([topics[rng.permutation(len(topics))[:2]].sum(0) / 2**0.5 for _ in range(8)])
    items, published = goods.items["item_id"].to_numpy(), goods.items["published"].to_numpy()
    events, ranks = [], []
    for user, taste, close in zip(users["user_id"], tastes, near, strict=True):
        rng = np.random.default_rng([*seed, len(ranks)])  # the first readers are the same whoever else is simulated
        count, now, last = int(np.clip(np.exp(2.7 + 0.5 * rng.standard_normal()), 6, 50)), 0, None
        unread = np.ones(ITEMS, bool)
        part = rng.choice(4, p=[0.1, 0.3, 0.25, 0.35])  # a habit
        days = np.sort(rng.integers(DAYS, size=count))
        for day in days:
            hour = 6 * (part if rng.random() < 0.6 else rng.integers(4)) + rng.integers(6)
            now = max(now + 60, START + int(day) * DAY + int(hour) * 3600 + int(rng.integers(60)) * 60)
            weekend = (now // DAY + 3) % 7 >= 5
            age = now - published
            fresh = np.where(age >= 0, np.exp(-np.maximum(age, 0) / FADE), 0)
            pull = TASTE * taste + HOUR * hours[now % DAY // 21600 + 4 * weekend]
            pull = pull if last is None else pull + LAST * goods.places[last]
            utility = np.round(goods.places @ pull + NEAR * close[goods.near] + FRESH * fresh, 6)
            may = unread & (age >= 0)
            chances = np.where(may, np.exp(SHARPNESS * (utility - utility[may].max())), 0)
            chances = (1 - CHANCE) * chances / chances.sum() + CHANCE * may / may.sum()
            last = int((np.cumsum(chances) <= rng.random() * chances.sum()).sum())
            unread[last] = False
            device = "phone" if rng.random() < 0.6 else "desktop"  # without an effect
            events.append((user, items[last], now, action, device))
        ranks.append((user, int((utility > utility[last])[may].sum()) + 1))
    columns = ["user_id", "item_id", "timestamp", "action", "device"]
    return pd.DataFrame(events, columns=columns), pd.DataFrame(ranks, columns=["user_id", "rank"])


def _unit(rng: np.random.Generator) -> np.ndarray:
    direction = rng.standard_normal(DIMENSIONS)
    return direction / np.linalg.norm(direction)


def made(name: str) -> dict[str, bytes]:
    """File name -> content, of "news" or "posts"."""
    social = name == "posts"
    rng = np.random.default_rng([SEED, 10 + social])
    goods = catalogue(POSTS if social else NEWS, social, rng)
    users, tastes, near = readers(goods, social, rng)
    events, truth = simulate(goods, users, tastes, near, *EVENTS[name])
    tables = {"items": goods.items, "users": users, "interactions": events, "truth": truth}
    settings = {"index": False, "engine": "pyarrow", "compression": "zstd", "compression_level": 19}
    return {f"{table}.parquet": frame.to_parquet(**settings) for table, frame in tables.items()}


if __name__ == "__main__":
    for name in ("news", "posts"):
        write(made(name), TARGET / name)
