"""The catalogue a new shop starts with: sixty things in eight categories from three sellers. Pure and seeded."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal

CATEGORIES = (
    ("sound", "Sound"),
    ("light", "Light"),
    ("kitchen", "Kitchen"),
    ("desk", "Desk"),
    ("outdoors", "Outdoors"),
    ("plants", "Plants"),
    ("bags", "Bags"),
    ("play", "Play"),
)
SELLERS = ("Commit & Co.", "Northlight Workshop", "Paper Harbour")

# name | one line about it | price in euros | picture
THINGS = {
    "sound": """
        Quiet Hour headphones|Closed, soft, and deaf to open-plan offices|129|headphones
        Daybreak headphones|Light enough to forget, loud enough to notice|79|headphones
        Studio One headphones|Flat, honest, unforgiving|199|headphones
        Pebble speaker|A pocketful of living room|49|speaker
        Hearth speaker|Fills a kitchen, spares the neighbours|149|speaker
        Tower speaker|Tall, walnut, serious|329|speaker
        First Pressing turntable|Belt drive, two speeds, no apps|249|record
        Side B record brush|Carbon fibre, for the dust of decades|19|record
    """,
    "light": """
        Anglepoint lamp|Goes where you look and stays there|89|lamp
        Reader lamp|A warm circle, exactly one page wide|59|lamp
        Harbour floor lamp|Linen shade, oak stem|179|lamp
        Slow candle|Forty hours of cedar and rain|24|candle
        Three-wick candle|For long tables|38|candle
        Pillar candle|Unscented, unhurried|14|candle
        Filament bulb|Amber light, honest watts|12|bulb
        Moon bulb|Dims to one per cent without a murmur|22|bulb
    """,
    "kitchen": """
        Morning mug|Stoneware that fits two hands|18|mug
        Enamel mug|Survives camping and dishwashers|14|mug
        Espresso cup, pair|Small, thick, hot|26|mug
        Pour-over kettle|A gooseneck with good manners|69|kettle
        Stovetop kettle|Whistles in tune|54|kettle
        Iron pot|Heavier than it looks, and it looks heavy|119|pot
        Saucepan, steel|Three layers, no drama|74|pot
        Rice pot|Clay, for patience|64|pot
    """,
    "desk": """
        Dot grid notebook|Lies flat at any page|16|notebook
        Field notebook, three|Waterproof covers, honest paper|15|notebook
        Ledger|Two columns; they agree in the end|28|notebook
        Brass pen|Gets better as it gets older|42|pen
        Mechanical pencil|Half a millimetre of confidence|19|pen
        Ink, midnight|Fifty millilitres of almost black|17|pen
        Desk clock|Ticks once a second, on purpose|58|clock
        Wall clock|Large numbers, small noise|72|clock
    """,
    "outdoors": """
        Ridge tent for two|Up in four minutes, dry in forty|289|tent
        Bivouac tent for one|Nine hundred grams of home|219|tent
        Tarp|The smallest roof that counts|69|tent
        Steel flask|Tea at noon, still tea at dusk|34|flask
        Trail flask|Squeezes, stands, never leaks|22|flask
        Summit flask, large|For two, or for one who shares|44|flask
        Plate compass|North, every time|39|compass
    """,
    "plants": """
        Monstera|Big leaves, modest demands|39|monstera
        Fiddle fig|Wants light and a little conversation|49|monstera
        Snake plant|Nearly immortal|29|aloe
        Aloe|Keeps its water and its temper|19|aloe
        Little cactus|Ask it for nothing|12|cactus
        Cactus trio|Three opinions in one pot|28|cactus
        Terracotta pot|Breathes|16|cactus
    """,
    "bags": """
        Day backpack|One laptop, one lunch, no straps to lose|98|backpack
        Roll-top backpack|Grows with the shopping|118|backpack
        Travel backpack|Opens like a suitcase|159|backpack
        Canvas tote|Carries books without complaint|24|tote
        Market tote|Folds to the size of a lemon|18|tote
        Leather tote|Looks better each year|189|tote
        Weekend tote|Two days, neatly|132|tote
    """,
    "play": """
        Dice, pair|Fair to a fault|9|dice
        Walnut dice, six|A handful of chance|29|dice
        Chess set, travel|Magnets hold the argument|45|chess
        Chess set, club|Weighted, felted, final|89|chess
        Delta kite|Flies in a whisper of wind|34|kite
        Stunt kite|Two lines, many regrets|64|kite
        Box kite|Older than aeroplanes|52|kite
    """,
}

STORY = (
    "Made in small batches, and counted twice: when we say one is set aside for you, it is set aside for you. "
    "It is stocked in one place, reserved in one transaction, and sold to one person."
)


@dataclass(frozen=True, slots=True)
class SeedProduct:
    sku: str
    name: str
    blurb: str
    description: str
    category: str
    seller: str
    price: Decimal
    art: str
    hue: int
    stock: int
    place: int


def products(seed: int) -> list[SeedProduct]:
    """Make the sixty products. Prices and stock vary with the seed; names and skus do not.

    Their places take one of each category in turn, so that the first page shows a bit of everything.
    """
    draw = random.Random(seed)
    found: list[SeedProduct] = []
    for rank, (category, _) in enumerate(CATEGORIES):
        for number, row in enumerate(THINGS[category].strip().splitlines(), start=1):
            name, blurb, euros, art = row.strip().split("|")
            cents = draw.choice((0, 50, 90))
            price = Decimal(euros) - 1 + Decimal(cents) / 100 if cents else Decimal(euros)
            found.append(
                SeedProduct(
                    sku=f"{category.upper()}-{number:02d}",
                    name=name,
                    blurb=blurb,
                    description=f"{blurb}. {STORY}",
                    category=category,
                    seller=draw.choice(SELLERS),
                    price=price.quantize(Decimal("0.01")),
                    art=art,
                    hue=(len(found) * 5) % 12,
                    stock=draw.choice((3, 5, 8, 12, 20, 40)),
                    place=number * len(CATEGORIES) + rank,
                )
            )
    return found
