"""What the tables of both gateways have in common: whose devices an account serves, and what of its
messages is marketing in the vendors' eyes.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, Struct, field

from channels.http import ANSWER_S, CONNECT_S, CONNECTIONS, CONNECTIONS_MAX

CATEGORIES: Final = 64
"""Of marketing; as many as a policy has at most."""
FIELDS: Final = 16
"""Of one vendor's own, for one class. Real ones have three."""

Vendor = Literal["huawei", "honor", "oppo", "vivo", "xiaomi", "meizu"]

_Word = Annotated[str, Meta(max_length=128)]
_Fields = Annotated[dict[_Word, _Word | int], Meta(max_length=FIELDS)]


class Labels(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`[accounts.<gateway>.vendors.<vendor>]`: how this vendor is told the class of a message.

    A word stands for the vendor's main field (docs/push.md): Huawei's, OPPO's and vivo's category,
    Xiaomi's channel id, Honor's importance. A table has fields of its own, as the gateway spells
    them: `service = { channel_id = "orders", notify_level = 2 }`.
    """

    marketing: _Word | _Fields = ""
    service: _Word | _Fields = ""


class VendorSettings(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Common part of both tables."""

    documented_limits: ClassVar[tuple[str, ...]] = ()
    """Of the account, by the gateway."""

    vendor: Literal["", "huawei", "honor", "oppo", "vivo", "xiaomi", "meizu"] = ""
    """Whose devices this account serves; "": all of them, under the strictest quota."""
    news: bool = False
    """The app is registered as a news app with the vendors: they allow it more."""
    marketing: Annotated[tuple[str, ...], Meta(max_length=CATEGORIES)] = ("marketing",)
    """Policy categories that vendors count as marketing; all others are service messages. Who
    labels wrongly is punished by the vendors, not by the gateway."""
    vendors: dict[Vendor, Labels] = field(default_factory=dict)
    connections: Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)] = CONNECTIONS
    connect_s: Annotated[float, Meta(gt=0, le=60)] = CONNECT_S
    answer_s: Annotated[float, Meta(gt=0, le=300)] = ANSWER_S

    def is_marketing(self, category: str) -> bool:
        """Whether a message of this policy category is marketing."""
        return category in self.marketing
