"""What providers report, from the moment it is heard until a turn has committed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from channels.provider import Answer, Bundle, Link, ProviderInbound, ProviderReceipt, Stored


class Answered(NamedTuple):
    """The answer to a submission."""

    mailbox: Mailbox
    delivery: str
    answer: Answer


class Reported(NamedTuple):
    """A receipt; confirmed to the provider when it is stored."""

    mailbox: Mailbox
    receipt: ProviderReceipt
    stored: Stored


class Written(NamedTuple):
    """A customer's message; confirmed to the provider when it is stored."""

    mailbox: Mailbox
    inbound: ProviderInbound
    stored: Stored


class Bundled(NamedTuple):
    """What belongs together; confirmed to the provider when all of it is stored."""

    mailbox: Mailbox
    bundle: Bundle
    stored: Stored


class Linked(NamedTuple):
    """The connection has changed."""

    mailbox: Mailbox
    link: Link


Letter = Answered | Reported | Written | Bundled | Linked
Count = Callable[..., None]


class Mailbox:
    """`channels.provider.Events` of one account: puts everything into the runner's inbox.

    The inbox is bounded by the windows of the providers and by what they leave unconfirmed.
    """

    __slots__ = ("_count", "_inbox", "_look", "account", "closed", "number")

    def __init__(
        self,
        number: int,
        account: str,
        inbox: deque[Letter],
        look: Callable[[], None],
        count: Count,
    ) -> None:
        self.number = number
        """Of the partition."""
        self.account = account
        self.closed = False
        """The partition is not ours any more: nothing that is reported can be stored."""
        self._inbox = inbox
        self._look = look
        self._count = count

    def answered(self, delivery: str, answer: Answer) -> None:
        self._put(Answered(self, delivery, answer))

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None:
        if self.closed:
            stored(False)
        else:
            self._put(Reported(self, receipt, stored))

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None:
        if self.closed:
            stored(False)
        else:
            self._put(Written(self, inbound, stored))

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        if self.closed:
            stored(False)
        else:
            self._put(Bundled(self, bundle, stored))

    def link(self, link: Link) -> None:
        self._put(Linked(self, link))

    def counted(self, name: str, *labels: str) -> None:
        self._count(name, (self.account, labels[-1]))  # a provider need not know its name

    def _put(self, letter: Letter) -> None:
        if not self.closed:
            self._inbox.append(letter)
            self._look()


def taken_out(inbox: deque[Letter], number: int) -> deque[Letter]:
    """The letters for one partition, in their order; the others stay, in theirs."""
    found: deque[Letter] = deque()
    for _ in range(len(inbox)):
        letter = inbox.popleft()
        (found if letter.mailbox.number == number else inbox).append(letter)
    return found
