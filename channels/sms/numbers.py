"""Telephone numbers: one spelling for each, and the national one that some protocols want.

A number is taken when it is as long as mobile numbers of its country can be, not only when its
prefix is known to be in use: operators open new prefixes between two releases of the table, and a
wrong "dead address" would silence a customer for good, while a wrong number costs one refusal of
the carrier, who knows. Lengths do tell short codes, and the landlines of China (10 digits).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from channels.provider import Unsendable
from channels.sms import limits

_NUMBER = re.compile(r"\s*(?:tel:)?\s*\+?[0-9\s().\-/\u2010-\u2015]+\Z", re.IGNORECASE)
"""Digits, and what people put between them. Letters are no digits here (1-800-FLOWERS), and an
extension cannot be written to."""


def normalise(text: str, region: str) -> str:
    """A number in E.164, with its plus; `region` (ISO 3166) is the country of those without one.

    Raises Unsendable (dead_address), which does not quote it.
    """
    number = _e164(text, region)
    if not number:
        raise Unsendable("the address is not a telephone number", failure="dead_address")
    return number


def spelled(text: str, region: str) -> str:
    """How the sender of an inbound message is written: as `normalise` does, or, when it is no
    number (a short code, a name), without surrounding space."""
    return _e164(text, region) or text.strip()


def national(e164: str, region: str) -> str:
    """Digits for protocols without a plus: a number of `region` without country code (11 digits
    for a Chinese mobile), any other with it. What is not in E.164 stays as it is."""
    return _national(e164, region)


def is_region(region: str) -> bool:
    """Whether numbers of this region are known: ISO 3166, two capital letters."""
    import phonenumbers

    return region in phonenumbers.SUPPORTED_REGIONS


@lru_cache(maxsize=limits.NUMBER_CACHE)
def _e164(text: str, region: str) -> str:
    """Empty for what is no number: that is kept too, where an exception would not be."""
    # Imported by the first number: its tables take a tenth of a second, which commands that send
    # nothing should not wait for.
    import phonenumbers

    if len(text) > limits.NUMBER_CHARS:
        return ""
    text = unicodedata.normalize("NFKC", text)
    if _NUMBER.match(text) is None:
        return ""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return ""
    reason = phonenumbers.is_possible_number_for_type_with_reason(
        number, phonenumbers.PhoneNumberType.MOBILE
    )
    # No other verdict will do: IS_POSSIBLE_LOCAL_ONLY needs an area code.
    if reason != phonenumbers.ValidationResult.IS_POSSIBLE:
        return ""
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@lru_cache(maxsize=limits.NUMBER_CACHE)
def _national(e164: str, region: str) -> str:
    import phonenumbers

    try:
        number = phonenumbers.parse(e164, None)
    except phonenumbers.NumberParseException:
        return e164.removeprefix("+")
    if number.country_code == phonenumbers.country_code_for_region(region):
        return phonenumbers.national_significant_number(number)
    return e164.removeprefix("+")
