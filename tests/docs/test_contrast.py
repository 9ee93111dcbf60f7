"""The site's header can be read."""

import re

from docs.reader import DOCS

WHITE = (255, 255, 255)
ENOUGH = 4.5


def luminance(colour):
    parts = [part / 255 for part in colour]
    red, green, blue = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ratio(ink, ground):
    lighter, darker = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def mixed(ink, ground, opacity):
    return tuple(opacity * i + (1 - opacity) * g for i, g in zip(ink, ground, strict=True))


def test_the_header_s_words_stand_out():
    """White on the header's colour, and in its tabs white with their opacity, keep the AA ratio of 4.5."""
    style = (DOCS / "assets" / "site.css").read_text(encoding="utf-8")
    found = re.search(r"--md-primary-fg-color: #([0-9a-f]{6});", style)
    assert found
    ground = tuple(bytes.fromhex(found[1]))
    opacity = float(re.search(r"\.md-tabs__link \{\s*opacity: ([0-9.]+);", style)[1])
    assert ratio(WHITE, ground) >= ENOUGH
    assert ratio(mixed(WHITE, ground, opacity), ground) >= ENOUGH
