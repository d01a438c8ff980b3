"""Text as words are looked for in it: what can be put between and around letters is gone.

Source: docs/policy.md, "Words"; Unicode 15 normalisation form NFKC and general categories.
"""

from __future__ import annotations

from unicodedata import category, normalize

CHARACTERS_REMEMBERED = 65_536
"""Characters whose fate is kept: all of the basic plane; texts in use have some thousands."""

_LEFT_OUT = frozenset("ZPC")
"""First letters of categories: separators, punctuation, and what is invisible or unassigned."""
_SYMBOLS_LEFT_OUT = frozenset(("Sk", "Sm", "Sc"))
"""`^ ~ | + $` and their kind; other symbols (So) are pictures, which a word may consist of."""
_ZERO_WIDTH = frozenset(
    (
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
        *(*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)),
    )
)
"""Invisible by Unicode's Default_Ignorable_Code_Point, though letters or marks by category."""


class _Kept(dict[int, int | None]):
    """For `str.translate`: a character to itself or None, looked up in Unicode once for each."""

    def __missing__(self, character: int) -> int | None:
        kind = category(chr(character))
        left_out = kind[0] in _LEFT_OUT or kind in _SYMBOLS_LEFT_OUT or character in _ZERO_WIDTH
        if len(self) >= CHARACTERS_REMEMBERED:
            self.clear()
        found = self[character] = None if left_out else character
        return found


_kept = _Kept()


def normalised(text: str) -> str:
    """NFKC, casefolded, without white space, punctuation and zero-width characters."""
    if text.isascii() and text.isalnum():  # nothing of the below changes it but its case
        return text.lower()
    return normalize("NFKC", normalize("NFKC", text).casefold().translate(_kept))
