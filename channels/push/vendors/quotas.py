"""How much marketing a vendor shows one device in a day: the limits of an account, unless it has
limits of its own. Pure.

A vendor counts by app and device, on the days of China; an account that serves one vendor's devices
(`vendor`) has that vendor's number, one that serves all of them the smallest. Only marketing is
counted (`Prepared.uncounted`). What is beyond the vendor drops without a word, so it is not sent:
the account answers `window_closed`, and the conversation goes on by another channel.

Sources: getui's and Jiguang's pages on vendors' quotas, Tencent's of May 2026 (they agree).
Xiaomi's 5 and 8 are of public messages on a channel of one's own; on its default channel it is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from channels.push.vendors.settings import Vendor, VendorSettings


class PerDay(NamedTuple):
    """Marketing messages for one device in a day."""

    ordinary: int
    news: int


QUOTAS: Final[dict[Vendor, PerDay]] = {
    "huawei": PerDay(2, 5),
    "honor": PerDay(2, 5),
    "oppo": PerDay(2, 5),
    "vivo": PerDay(2, 5),
    "xiaomi": PerDay(5, 8),
    "meizu": PerDay(3, 5),
}


def documented(settings: VendorSettings) -> Mapping[str, tuple[str, ...]]:
    """The limits of an account, as they are written in `accounts.toml`."""
    served = [QUOTAS[settings.vendor]] if settings.vendor else QUOTAS.values()
    most = min(of.news if settings.news else of.ordinary for of in served)
    return {"recipient": (f"{most}/day",), "account": settings.documented_limits}
