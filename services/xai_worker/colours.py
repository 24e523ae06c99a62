"""One colour scale for pages and exports: blue lowers the score, white does nothing, orange raises it.

Blue and orange are told apart with every common colour vision, and both ends are equally dark, so that the
size of a value survives a black-and-white printer.
"""

from __future__ import annotations

ANCHORS = ((0x1F, 0x4E, 0x9C), (0x7F, 0xB0, 0xDE), (0xF7, 0xF7, 0xF7), (0xF2, 0xAE, 0x66), (0xA1, 0x45, 0x00))
UNSEEN = (0xC6, 0xCC, 0xD6)  # grey: the model never sees the residue

Colour = tuple[int, int, int]


def diverging(share: float) -> Colour:
    """Red, green, blue (0-255) of a value divided by the scale's limit, -1 to 1."""
    place = (min(1.0, max(-1.0, share)) + 1) / 2 * (len(ANCHORS) - 1)
    low = min(int(place), len(ANCHORS) - 2)
    part = place - low
    red, green, blue = (round(a + part * (b - a)) for a, b in zip(ANCHORS[low], ANCHORS[low + 1], strict=True))
    return red, green, blue


def of_value(value: float | None, limit: float) -> Colour:
    """The colour of a value on a scale that ends at -limit and limit; grey where there is none."""
    if value is None:
        return UNSEEN
    return diverging(value / limit if limit else 0.0)


def hexadecimal(colour: Colour) -> str:
    """`#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
