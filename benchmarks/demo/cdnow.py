"""The CDNOW log: 69,659 purchases of 23,570 customers of an online shop, 1997-01 to 1998-06.

And what the demo adds to it, each chosen by a hash: where a customer can be reached.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from pathlib import Path

WECHAT = "wm"
"""How WeCom's names of customers begin."""
WECHAT_EVERY = 20
"""One of so many customers came by WeChat: the shop knows them by what WeCom calls them."""
CLUB = 3
"""Two of so many customers are members of the club."""
_MARK = re.compile(r"#([a-z]+-[0-9-]+)")


@dataclass(frozen=True)
class Purchase:
    number: int
    customer: str
    day: str
    cds: int
    dollars: str

    @property
    def week(self) -> int:
        """A number that grows from week to week."""
        return date.fromisoformat(self.day).toordinal() // 7


def find_log() -> Path:
    """The log inside the installed Lifetimes wheel, which is not imported. FileNotFoundError."""
    for directory in sys.path:
        path = Path(directory, "lifetimes", "datasets", "CDNOW_master.txt")
        if path.is_file():
            return path
    raise FileNotFoundError("the CDNOW log is missing: `make demo` installs it (wheel Lifetimes)")


def read_log(path: Path) -> list[Purchase]:
    """All purchases in the order of their days."""
    lines = path.read_text(encoding="ascii").splitlines()[1:]
    rows = sorted((line.split() for line in lines if line.strip()), key=lambda row: row[1])
    return [
        Purchase(number, known_as(customer), day, int(cds), dollars)
        for number, (customer, day, cds, dollars) in enumerate(rows, start=1)
    ]


def chosen(what: str, of: int) -> int:
    """A number below `of` that belongs to `what` for ever."""
    return int.from_bytes(blake2b(what.encode(), digest_size=4).digest()) % of


def known_as(customer: str) -> str:
    """The key of a customer's conversation."""
    return customer if chosen(f"{customer} wechat", WECHAT_EVERY) else f"{WECHAT}{customer}"


def in_club(customer: str) -> bool:
    """Whether a customer is a member of the club."""
    return chosen(f"{customer} club", CLUB) > 0


def by_wechat(purchases: list[Purchase]) -> list[str]:
    """Those who came by WeChat, in an order of no meaning."""
    keys = {purchase.customer for purchase in purchases if purchase.customer.startswith(WECHAT)}
    return sorted(keys, key=lambda key: chosen(f"{key} writes", 10**9))


def mark(intent: str) -> str:
    """What ends every text: by it, whoever sees the SMS knows which intent it is."""
    return f"#{intent}"


def marked(text: str) -> str | None:
    """The intent that a text names."""
    found = _MARK.search(text)
    return None if found is None else found[1]


def addresses(customer: str) -> dict[str, str]:
    """Where a customer can be reached beside the app: many by SMS; those who came by WeChat there,
    and by SMS."""
    if customer.startswith(WECHAT):
        return {"wecom": customer, "sms": number_of(customer)}
    return {"sms": number_of(customer)} if chosen(f"{customer} sms", 10) < 4 else {}


def number_of(customer: str) -> str:
    """The customer's phone."""
    return f"+86139{customer.removeprefix(WECHAT).zfill(8)}"
