"""The class of a message in every vendor's own words. Pure.

Vendors want to know of each message whether it is marketing, each in another field; what an account
has been granted with a vendor (a category, a channel id) is configuration. Sources: getui's page
"vendor options", Jiguang's "vendor message classification" (2025-04) and "classification and
quotas" (2026-07).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from channels.push.vendors.settings import Vendor, VendorSettings
from hub.errors import ConfigError


class Words(NamedTuple):
    """How a gateway passes on one vendor's class."""

    name: str
    """The vendor, as the gateway calls it."""
    main: str
    """The field that a single word is for; "" where there is none."""
    marketing: Mapping[str, Any] = {}
    """Said of every marketing message, whatever is configured beside it."""
    service: Mapping[str, Any] = {}


Table = Mapping[Vendor, Words]


def labels(settings: VendorSettings, marketing: bool, table: Table) -> dict[str, dict[str, Any]]:
    """What each vendor that this account serves is told, by the gateway's name for it."""
    made: dict[str, dict[str, Any]] = {}
    for vendor, words in table.items():
        if settings.vendor not in ("", vendor):
            continue
        own = settings.vendors.get(vendor)
        given = (own.marketing if marketing else own.service) if own else ""
        fields = dict(words.marketing if marketing else words.service)
        if isinstance(given, str):
            fields |= {words.main: given} if given else {}
        else:
            fields |= given
        if fields:
            made[words.name] = fields
    return made


def check_labels(settings: VendorSettings, table: Table) -> None:
    """A word needs a field to stand for. Raises ConfigError naming the key."""
    for vendor, own in settings.vendors.items():
        for key in ("marketing", "service"):
            if isinstance(word := getattr(own, key), str) and word and not table[vendor].main:
                raise ConfigError(
                    f"vendors.{vendor}.{key}: has no main field; write a table of its fields"
                )
        if settings.vendor not in ("", vendor):
            raise ConfigError(
                f"vendors.{vendor}: this account serves {settings.vendor}; "
                'leave the table out, or vendor = ""'
            )
