"""The other side of an account in a simulation: what it takes, reports, keeps to be read, counts.

A `Carrier` outlives hosts. It pushes its reports by a connection or by callbacks until they are
confirmed, or keeps them in an order to be read with a cursor. What becomes of a submission is drawn
from its seed, the delivery and how often it has come.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from channels.provider import ProviderCommand, ProviderInbound, ProviderReceipt, Submission
from channels.registry import Kind, Window
from hub.contract.types import FailureClass, ReceiptStatus
from tests.sim.account_talks import Letter, Manner
from tests.support.network import Network
from tests.support.virtual_loop import VirtualClock

if TYPE_CHECKING:
    from tests.sim.account_provider import ModelProvider

REPEAT_S = 20.0
"""What is not confirmed is reported again after this, then after twice that, three times …"""
REPEAT_MORE = 30
RECEIPTS: tuple[tuple[ReceiptStatus, ...], ...] = (
    (), ("delivered",), ("delivered",), ("delivered", "delivered"), ("failed",), ("sent", "read"),
    ("failed", "delivered"), ("delivered", "failed"), ("unknown", "delivered"), ("sent",),
)  # fmt: skip
CONFIRMATIONS: tuple[tuple[ReceiptStatus, ...], ...] = (
    ("sent",), ("sent",), ("failed",), ("sent", "failed"), ("sent", "read"), ("unknown", "sent"),
    (),
)  # fmt: skip
"""Of what was accepted without saying that it is sent."""
DELAYS_S = (-0.001, 0.05, 1.0, 40.0, 4_000.0, 50_000.0)
"""Of a receipt; negative: before the answer."""


@dataclass
class Seen:
    """One part as it came to the carrier."""

    at_ms: int
    account: str
    delivery: str
    recipient: str
    part: int
    refused: bool = False


@dataclass(eq=False)
class Report:
    """A receipt, or what a customer says, until it is confirmed."""

    receipt: ProviderReceipt | None = None
    inbound: ProviderInbound | None = None
    command: ProviderCommand | None = None
    bundle: str = ""
    """The id of the bundle it is pushed in."""
    delivery: str = ""
    part: int = 0
    confirmed: bool = False
    tries: int = 0


class Carrier:
    """What serves one account. `call` makes a request to whoever serves it."""

    def __init__(
        self,
        name: str,
        manner: Manner,
        kind: Kind,
        network: Network,
        clock: VirtualClock,
        broken: list[str],
        confirmed: Callable[[str, Report], None],
        call: Callable[[str, Report], None],
    ) -> None:
        self.name = name
        self.manner = manner
        self.connects = kind.connects
        self.network = network
        self.clock = clock
        self.broken = broken
        self.seen: list[Seen] = []
        self.said: list[Report] = []
        """All that customers have said and done, in its order."""
        self.kept: list[Report] = []
        """What is there to be read, in its order."""
        self.told: set[tuple[str, str]] = set()
        """(delivery, status) of receipts that are due."""
        self.counted = Follows(kind.window)
        self.open_reports = 0
        self.up = True
        self.admits = True
        self.calm = False
        """The world has healed: nothing goes wrong any more."""
        self.gone = False
        """Nobody has an account here any more: it keeps what it would say."""
        self.happened: Counter[str] = Counter()
        self.links: list[ModelProvider] = []
        self._call = call
        self._confirmed = confirmed
        self._tries: Counter[str] = Counter()
        self._chance = random.Random(f"{manner.seed} reports")
        self._taken: dict[tuple[str, int], str] = {}
        """Of (delivery, part) the id."""
        self._ids = 0

    # ---- submissions -------------------------------------------------------------------------

    def chance_of(self, delivery: str) -> random.Random:
        """For one try of one delivery."""
        self._tries[delivery] += 1
        return random.Random(f"{self.manner.seed} {delivery} {self._tries[delivery]}")

    def arrived(self, submission: Submission) -> list[Seen]:
        """Note what was put on the wire. What may be a repeat must say so."""
        accepted = submission.accepted or ("",) * len(submission.prepared.parts)
        now, recipient = self.clock.now_ms(), submission.prepared.recipient
        new = [
            Seen(now, self.name, submission.delivery, recipient, part)
            for part, known in enumerate(accepted)
            if not known
        ]
        parts = {one.part for one in new}
        before = [s for s in self.seen if s.delivery == submission.delivery and s.part in parts]
        if not submission.again and not all(one.refused for one in before):
            self.broken.append(f"a repeat that is not said to be one: {submission.delivery}")
        self.seen.extend(new)
        return new

    def has(self, delivery: str) -> bool:
        """Whether any part of it was taken."""
        return any(known == delivery for known, _ in self._taken)

    def has_all(self, delivery: str, parts: int) -> bool:
        """Whether so many parts of it were."""
        return all((delivery, part) in self._taken for part in range(parts))

    def take(self, submission: Submission, part: int, chance: random.Random) -> str:
        """Take a part: its id. Receipts follow."""
        delivery = submission.delivery
        known = self._taken.get((delivery, part))
        if known is not None and self.manner.resend:
            if submission.again:
                self.happened["repeat removed"] += 1
                return known
            self.broken.append(f"taken twice: {delivery}")
        first = not self.has(delivery)
        if first and not submission.prepared.free:
            self.counted.took(submission.prepared.recipient, delivery)
        self._ids += 1
        name = self._taken[delivery, part] = f"{self.name}{self._ids}"
        if self.manner.confirms:
            if first:
                self._say(chance.choice(CONFIRMATIONS), {"delivery": delivery}, part, chance)
        elif self.manner.receipts:
            by = {"delivery": delivery} if self.manner.echoes else {"provider_id": name}
            self._say(chance.choice(RECEIPTS), by, part, chance, delivery)
        return name

    def _say(
        self,
        statuses: tuple[ReceiptStatus, ...],
        by: dict[str, str],
        part: int,
        chance: random.Random,
        delivery: str = "",
    ) -> None:
        at_s = 0.0
        for status in statuses:
            at_s += chance.choice(DELAYS_S)
            failure: FailureClass | None = "dead_address" if status == "failed" else None
            receipt = ProviderReceipt(status, self.clock.now_ms(), failure=failure, **by)
            report = Report(receipt, delivery=delivery or by["delivery"], part=part)
            self._report_later(at_s, report)

    # ---- reports -----------------------------------------------------------------------------

    def write(self, letter: Letter) -> None:
        """What a customer says or does. WeCom's times are of whole seconds, like these."""
        now, inbound = self.clock.now_ms(), letter.inbound
        if inbound is not None:
            at_ms = now - now % 1_000 if self.manner.reads else now
            inbound = replace(inbound, at_ms=at_ms)
            if not inbound.agent and "event" not in inbound.content:
                self.counted.wrote(inbound.sender, now)
        report = Report(inbound=inbound, command=letter.command, bundle=letter.bundle)
        self.said.append(report)
        self._report_later(0.0, report)

    def _report_later(self, delay_s: float, report: Report) -> None:
        self.open_reports += 1
        if delay_s > 0.0:
            self.network.later(delay_s, self._begin, report)
        else:
            self._begin(report)

    def _begin(self, report: Report) -> None:
        if report.receipt is not None:
            self.told.add((report.delivery, report.receipt.status))
        if self.manner.reads:
            self.kept.append(report)
        self._report(report)

    def _report(self, report: Report) -> None:
        """To the newest connection or by a callback, until it is confirmed."""
        if report.confirmed or self.gone:
            return
        report.tries += 1
        self.network.later(REPEAT_S * min(report.tries, REPEAT_MORE), self._report, report)
        if not self.connects:
            self._call(self.name, report)
        elif self.links:
            link = self.links[-1]
            link.process_soon(link.hear, report)

    def stored(self, report: Report, is_stored: bool) -> None:
        """The hub's word about a report. It may get lost on its way."""
        self.happened["confirmed" if is_stored else "not stored"] += 1
        if not is_stored or report.confirmed:
            return
        if not self.calm and not self.manner.reads and self._chance.random() < self.manner.loses:
            self.happened["confirmation lost"] += 1
            return
        report.confirmed = True
        self.open_reports -= 1
        self._confirmed(self.name, report)

    # ---- the connection ------------------------------------------------------------------------

    def set_up(self, up: bool, admits: bool) -> None:
        """The link goes or comes, or it refuses whoever connects."""
        self.up, self.admits = up, admits
        for link in list(self.links):
            link.process_soon(link.changed)


class Follows:
    """What a carrier lets follow a customer's message, by its own count."""

    def __init__(self, window: Window | None) -> None:
        self._window = window
        self._wrote: dict[str, int] = {}
        self._followed: dict[str, set[str]] = {}
        self.refused: dict[str, str] = {}
        """Customer to the delivery that was refused because somebody else has used the rest."""
        self.shut: set[str] = set()
        """Whose account knows of that."""

    def wrote(self, who: str, at_ms: int) -> None:
        self._wrote[who], self._followed[who] = at_ms, set()
        self.refused.pop(who, None)
        self.shut.discard(who)

    def took(self, who: str, delivery: str) -> None:
        self._followed.setdefault(who, set()).add(delivery)

    def allows(self, who: str, now: int) -> bool:
        """Whether one more may follow now."""
        if self._window is None:
            return True
        if who not in self._wrote or now - self._wrote[who] >= self._window.within_ms:
            return False
        return len(self._followed[who]) < self._window.messages and who not in self.shut
