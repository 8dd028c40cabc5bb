"""News and social posts, *written for the purpose*: two small domains to read, with readers whom nobody has met.

No headline, post or person here is real. They are there so that the three scenarios (shop, news, social posts) can be
run without a download; for real news there is `m6rec.load("mind-small")`. A line of a catalogue is "words | topic", a
line of readers "age region: what they read, in order", by line number.
"""

from __future__ import annotations

import pandas as pd

from m6rec.data.readers import Frames

NEWS = """
City council votes to add two tram lines | politics
Parliament debates a tax on empty houses | politics
Minister resigns over the harbour contract | politics
Small parties gain in the regional election | politics
Mayor opens the new town hall to visitors | politics
Late goal decides the cup final | sport
Marathon record falls by nine seconds | sport
Young swimmer wins three medals at home | sport
Club signs a goalkeeper from the second league | sport
Rain stops play on the third day | sport
Probe sends first pictures of an icy moon | science
Bees count to four, a study finds | science
Old seeds sprout after two thousand years | science
Telescope maps a quiet galaxy | science
Glacier loses a tenth of its ice in a decade | science
Bank keeps its rates after a calm quarter | business
Wool mill hires again after twenty years | business
Bakery chain buys its oldest rival | business
Startup sells silent drum kits to schools | business
Electric ferries cut the port's fuel bill | business
Museum shows velvet coats of a lost court | culture
Jazz festival moves to the river | culture
Novel about a lighthouse wins the prize | culture
Film set in a single kitchen divides critics | culture
Orchestra plays on instruments of glass | culture
Storm closes the coast road | weather
Warm autumn delays the first frost | weather
Snow expected above the lakes by Friday | weather
Fog holds up morning flights | weather
Dry spring worries fruit growers | weather
"""
NEWS_READERS = """
34 coast: 1 4 16 2 20 3 26
61 coast: 26 28 1 29 4 30 27
19 lakes: 6 8 7 9 22 10 6
45 lakes: 11 13 12 28 14 15 27
52 north: 16 17 18 2 19 20 16
28 north: 21 22 24 25 23 11 24
70 hills: 26 30 27 29 15 28 5
23 hills: 22 25 21 7 24 9 19
38 city: 2 1 3 16 5 4 18
47 city: 12 11 14 23 13 15 12
31 coast: 7 6 10 8 26 9 7
66 north: 17 30 16 18 20 15 17
"""
POSTS = """
My sourdough finally has holes in it | food
Three ways to fry an egg, ranked | food
Grandmother's plum cake, the short version | food
This noodle bar deserves a longer queue | food
Does anyone else put tea in rice | food
First day with the new running shoes | outdoors
Sunrise from the ridge, no filter | outdoors
Lost a glove on the trail, saw an otter | outdoors
Packing light for four days of rain | outdoors
Our tent after the storm, a thread | outdoors
Learning the tabla at fifty | music
Looped my bass line and cannot stop | music
Which cymbal sounds like falling rain | music
Playlist for a long night of writing | music
My cat sings along to the synth | music
Dyed an old denim coat dark green | making
Turned a chair into two stools | making
Silk from the attic becomes a bag | making
How I mend wool without hiding the mend | making
A lamp made of three jars | making
My cat has opinions about the new sofa | animals
The otter is back under the bridge | animals
Adopted a greyhound who hates running | animals
Birds at the feeder, week twelve | animals
Hedgehog in the wood pile, please advise | animals
"""
POST_READERS = """
22 city: 12 14 15 13 21 11 14
35 city: 1 2 4 3 5 1 4
41 lakes: 7 8 10 22 6 9 7
29 lakes: 16 18 19 17 20 16 18
57 north: 11 13 12 3 24 11 13
63 hills: 24 25 22 23 21 8 24
33 coast: 3 1 5 20 17 2 3
26 coast: 6 9 7 23 8 10 6
48 north: 19 16 17 20 3 18 19
18 hills: 15 21 23 14 25 22 15
"""
BEGINNING = pd.Timestamp("2025-03-01 07:00", tz="UTC")


def news() -> Frames:
    """30 headlines in six topics, 12 readers."""
    return _frames(NEWS, NEWS_READERS, "N", "read")


def posts() -> Frames:
    """25 posts in five topics, 10 people who liked them."""
    return _frames(POSTS, POST_READERS, "P", "like")


def _frames(catalogue: str, readers: str, letter: str, action: str) -> Frames:
    parts = [line.split(" | ") for line in catalogue.strip().splitlines()]
    items = pd.DataFrame(parts, columns=["title", "topic"])
    items.insert(0, "item_id", [f"{letter}{i + 1}" for i in items.index])
    items["text"] = items["title"] + " | " + items["topic"]
    users, events = [], []
    for line in readers.strip().splitlines():
        (age, region), had = line.split(": ")[0].split(), line.split(": ")[1].split()
        users.append((f"{letter}R{len(users) + 1}", int(age), region))
        # One thing every nine hours, so that a reading week has mornings and evenings.
        times = [BEGINNING + pd.Timedelta(hours=9 * i) for i in range(len(had))]
        events += [(users[-1][0], f"{letter}{one}", time, action) for one, time in zip(had, times, strict=True)]
    return Frames(
        items[["item_id", "title", "text", "topic"]],
        pd.DataFrame(users, columns=["user_id", "age", "region"]),
        pd.DataFrame(events, columns=["user_id", "item_id", "timestamp", "action"]),
    )
