"""Whether a customer's message is a refusal of further ones.

Only a message that says nothing else counts: 请退订我 may be a question, and people who mean it are
told the word by every marketing message. Source: the carriers' wording today (拒收请回复R), and the
older words that are still seen (回T/TD/N退订).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from channels.sms import limits

OPT_OUT = frozenset({"R", "T", "TD", "N", "QX", "退订", "拒收", "取消订阅", "不要再发"})
"""Words that every account understands, as `plain` spells them."""

_IGNORED = frozenset("PSZC")
"""Unicode's major categories of punctuation, symbols, separators, and what is not seen."""


def plain(text: str) -> str:
    """A text as it is compared: full-width and other forms as plain ones (NFKC), capitals, and
    nothing but letters, digits and their marks. (Decorated emoji leave nothing or a mark.)"""
    wide = unicodedata.normalize("NFKC", text).upper()
    return "".join(one for one in wide if unicodedata.category(one)[0] not in _IGNORED)


def words(extra: Iterable[str]) -> frozenset[str]:
    """An account's own words, as `is_opt_out` wants them."""
    return frozenset(plain(word) for word in extra) - {""}


def is_opt_out(text: str, extra_words: frozenset[str] = frozenset()) -> bool:
    """Whether the text is one of the words and nothing else. `extra_words` come from `words`."""
    if len(text) > limits.OPT_OUT_CHARS:
        return False
    said = plain(text)
    return said in OPT_OUT or said in extra_words


def is_opt_out_in_chat(text: str) -> bool:
    """The same where people talk: a single letter may answer a question there."""
    return is_opt_out(text) and len(plain(text)) > 1
