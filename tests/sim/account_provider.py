"""The other side of accounts in a simulation: what it takes, answers, reports and repeats.

A `Carrier` outlives hosts, a `ModelProvider` is one host's connection to it. What becomes of a
submission is drawn from the carrier's seed, the delivery and how often it has come.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass

import msgspec

from channels.provider import (
    Answer,
    Callback,
    Events,
    Link,
    Prepared,
    ProviderInbound,
    ProviderReceipt,
    Reply,
    Submission,
    Unsendable,
)
from hub.contract.types import Delivery, FailureClass, ReceiptStatus
from tests.sim.account_scenario import Letter, Manner
from tests.support.network import Network
from tests.support.virtual_loop import Process, VirtualClock, current_process

TIMEOUT_S = 5.0
"""After this a submission without an answer is answered `unknown`."""
REPEAT_S = 20.0
"""What is not confirmed is reported again after this."""
RECEIPTS: tuple[tuple[ReceiptStatus, ...], ...] = (
    (), ("delivered",), ("delivered",), ("delivered", "delivered"), ("failed",), ("sent", "read"),
    ("failed", "delivered"), ("delivered", "failed"), ("unknown", "delivered"), ("sent",),
)  # fmt: skip
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


@dataclass
class Report:
    """A receipt or a customer's message until it is confirmed."""

    receipt: ProviderReceipt | None = None
    inbound: ProviderInbound | None = None
    delivery: str = ""
    part: int = 0
    confirmed: bool = False


class Carrier:
    """What serves one account."""

    def __init__(
        self,
        name: str,
        manner: Manner,
        network: Network,
        clock: VirtualClock,
        broken: list[str],
        confirmed: Callable[[str, Report], None],
    ) -> None:
        self.name = name
        self.manner = manner
        self.network = network
        self.clock = clock
        self.broken = broken
        self.seen: list[Seen] = []
        self.open_reports = 0
        self.up = True
        self.admits = True
        self.calm = False
        """The world has healed: nothing goes wrong any more."""
        self.happened: Counter[str] = Counter()
        self.links: list[ModelProvider] = []
        self._confirmed = confirmed
        self._tries: Counter[str] = Counter()
        self._taken: dict[tuple[str, int], str] = {}
        """Of (delivery, part) the id, where repeats are removed by it."""
        self._ids = 0

    # ---- submissions -------------------------------------------------------------------------

    def chance_of(self, delivery: str) -> random.Random:
        """For one try of one delivery."""
        self._tries[delivery] += 1
        return random.Random(f"{self.manner.seed} {delivery} {self._tries[delivery]}")

    def arrived(self, submission: Submission) -> list[Seen]:
        """Note what was put on the wire."""
        accepted = submission.accepted or ("",) * len(submission.prepared.parts)
        now, recipient = self.clock.now_ms(), submission.prepared.recipient
        new = [
            Seen(now, self.name, submission.delivery, recipient, part)
            for part, known in enumerate(accepted)
            if not known
        ]
        self.seen.extend(new)
        return new

    def take(self, delivery: str, part: int, chance: random.Random) -> str:
        """Take a part: its id. Receipts follow."""
        known = self._taken.get((delivery, part))
        if known is not None and self.manner.resend:
            self.happened["repeat removed"] += 1
            return known
        self._ids += 1
        name = self._taken[delivery, part] = f"{self.name}{self._ids}"
        if self.manner.receipts:
            at_s = 0.0
            for status in chance.choice(RECEIPTS):
                at_s += chance.choice(DELAYS_S)
                by = {"delivery": delivery} if self.manner.echoes else {"provider_id": name}
                failure: FailureClass | None = "dead_address" if status == "failed" else None
                receipt = ProviderReceipt(status, self.clock.now_ms(), failure=failure, **by)
                self._report_later(at_s, Report(receipt, delivery=delivery, part=part))
        return name

    # ---- reports -----------------------------------------------------------------------------

    def write(self, letter: Letter) -> None:
        """A customer's message."""
        self._report_later(0.0, Report(inbound=letter.inbound))

    def _report_later(self, delay_s: float, report: Report) -> None:
        self.open_reports += 1
        self.network.later(max(0.0, delay_s), self._report, report)

    def _report(self, report: Report) -> None:
        """To the newest connection, until it is confirmed."""
        if report.confirmed:
            return
        self.network.later(REPEAT_S, self._report, report)
        if self.links:
            link = self.links[-1]
            link.process_soon(link.hear, report)

    def stored(self, report: Report, is_stored: bool) -> None:
        """The hub's word about a report."""
        self.happened["confirmed" if is_stored else "not stored"] += 1
        if is_stored and not report.confirmed:
            report.confirmed = True
            self.open_reports -= 1
            self._confirmed(self.name, report)

    # ---- the connection ------------------------------------------------------------------------

    def set_up(self, up: bool, admits: bool) -> None:
        """The link goes or comes, or it refuses whoever connects."""
        self.up, self.admits = up, admits
        for link in list(self.links):
            link.process_soon(link.changed)


class ModelProvider:
    """`channels.provider.Provider` of one host."""

    def __init__(self, carrier: Carrier, events: Events) -> None:
        self.resend = carrier.manner.resend
        self.carrier = carrier
        self.events = events
        self.told = 0
        """The window last told."""
        self._word = (0, True)
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._process: Process | None = current_process()
        self._stopped = False
        self._waiting: dict[str, tuple[Submission, list[Seen]]] = {}
        self._idle = asyncio.Event()

    @property
    def alive(self) -> bool:
        return not self._stopped and (self._process is None or self._process.alive)

    def process_soon(self, call: Callable[..., None], *args: object) -> None:
        """In this host, when it makes steps."""
        self._loop.call_soon(call, *args, context=self._context)

    # ---- the port --------------------------------------------------------------------------------

    def prepare(self, delivery: Delivery) -> Prepared:
        content = msgspec.json.decode(delivery.content)
        if "text" not in content:
            raise Unsendable("no text", failure="rejected_content", code="no-text")
        units = int(content.get("units", 1))
        return Prepared(delivery.to, units, tuple(range(units)))

    def start(self, _notes: Mapping[str, bytes]) -> None:
        self._loop.call_later(0.02, self._connect)

    def _connect(self) -> None:
        if self.alive:
            self.carrier.links.append(self)
            self.changed()

    @property
    def idle(self) -> bool:
        return False

    def flush(self) -> None:
        """What is submitted is on its way at once."""

    def submit(self, submission: Submission) -> None:
        if self._process is not None and not self._process.alive:
            return  # a killed process does nothing, whatever its timers say
        carrier = self.carrier
        if self._stopped:
            carrier.broken.append(f"submitted after the end: {submission.delivery}")
        if submission.delivery in self._waiting:
            carrier.broken.append(f"submitted while unanswered: {submission.delivery}")
        fault = carrier.network.faults.draw("submit")
        if fault == "crash-before" and self._process is not None:
            carrier.network.killed(self._process)
            return
        chance = carrier.chance_of(submission.delivery)
        how = self._how(chance)
        if not self.told:  # the account has not heard of it yet
            how = "not left"
            carrier.happened["submitted as the link was lost"] += 1
        if how == "not left":
            self._waiting[submission.delivery] = submission, []
            self._answer_later(chance, submission, Answer("retry"))
            return
        parts = carrier.arrived(submission)
        self._waiting[submission.delivery] = submission, parts
        carrier.happened[f"answer: {how}"] += 1
        self._fate(how, submission, parts, chance)
        if fault and self._process is not None:
            network = carrier.network
            (network.killed if fault == "crash-after" else network.paused)(self._process)

    async def callback(self, request: Callback) -> Reply:
        return Reply(404)

    async def stop(self, drain_s: float) -> None:
        self._leave()
        if self._process is None or self._process.alive:
            self._idle.clear()
            if self._waiting and drain_s:
                try:
                    async with asyncio.timeout(drain_s):
                        await self._idle.wait()
                except TimeoutError:
                    pass  # what is left is answered below
            for delivery in list(self._waiting):
                self._answer(delivery, Answer("unknown", code="stopped"))
        self._stopped = True

    # ---- answers -----------------------------------------------------------------------------

    def _how(self, chance: random.Random) -> str:
        manner = self.carrier.manner
        if self.carrier.calm:
            return "accepted"
        drawn = chance.random()
        for how, share in (
            ("silent", manner.silent),
            ("busy", manner.busy),
            ("throttle", manner.throttle),
            ("refuse", manner.refuse),
            ("broken", manner.broken),
            ("half", manner.half),
            ("not left", 0.03),
        ):
            drawn -= share
            if drawn < 0:
                return how
        return "accepted"

    def _fate(
        self, how: str, submission: Submission, parts: list[Seen], chance: random.Random
    ) -> None:
        carrier, delivery = self.carrier, submission.delivery
        ids = list(submission.accepted or ("",) * len(submission.prepared.parts))
        if how == "silent":
            if chance.random() < 0.5:
                for part in parts:
                    carrier.take(delivery, part.part, chance)
            self._loop.call_later(
                TIMEOUT_S, self._answer, delivery, Answer("unknown", code="timeout"), submission
            )
            return
        if how in ("accepted", "half"):
            taken = parts if how == "accepted" else parts[: len(parts) // 2]
            for part in taken:
                ids[part.part] = carrier.take(delivery, part.part, chance)
        retry_ms = chance.choice((None, None, 700, 30_000))
        answer = {
            "accepted": Answer(
                "accepted", tuple(ids), receipts=len(ids) if carrier.manner.receipts else 0
            ),
            "half": Answer("retry", tuple(ids), code="half", retry_after_ms=retry_ms),
            "busy": Answer("retry", tuple(ids), code="busy", retry_after_ms=retry_ms),
            "throttle": Answer(
                "throttled",
                tuple(ids),
                code="slow",
                retry_after_ms=retry_ms,
                scope=chance.choice(("account", "app", "recipient")),
            ),
            "refuse": Answer("failed", tuple(ids), failure="dead_address", code="no"),
            "broken": Answer("failed", tuple(ids), failure="provider", code="down"),
        }[how]
        self._answer_later(chance, submission, answer)

    def _answer_later(self, chance: random.Random, submission: Submission, answer: Answer) -> None:
        delay_s = chance.choice(self.carrier.manner.latency_s)
        self._loop.call_later(delay_s, self._answer, submission.delivery, answer, submission)

    def _answer(self, delivery: str, answer: Answer, submission: Submission | None = None) -> None:
        found = self._waiting.get(delivery)
        if not self.alive or found is None:
            return
        if submission is not None and found[0] is not submission:
            return  # of an earlier try, answered when the connection was lost
        del self._waiting[delivery]
        if answer.kind in ("retry", "throttled"):
            ids = answer.provider_ids
            for part in found[1]:
                part.refused = not (ids and ids[part.part])
        self.events.answered(delivery, answer)
        if not self._waiting:
            self._idle.set()

    # ---- reports and the connection ----------------------------------------------------------

    def hear(self, report: Report) -> None:
        """What the carrier reports."""
        if not self.alive or report.confirmed or not self.told:
            return
        called: list[bool] = []

        def stored(is_stored: bool) -> None:
            called.append(is_stored)
            if len(called) > 1:
                self.carrier.broken.append("stored() was called twice")
            self.carrier.stored(report, is_stored)

        if report.receipt is not None:
            self.events.receipt(report.receipt, stored)
        elif report.inbound is not None:
            self.events.inbound(report.inbound, stored)

    def changed(self) -> None:
        """The carrier's side of the connection is another."""
        if not self.alive:
            self._leave()
            return
        carrier = self.carrier
        window = carrier.manner.window if carrier.up and carrier.admits else 0
        if (window, carrier.admits) == self._word:
            return
        self.told, self._word = window, (window, carrier.admits)
        if window:
            self.events.link(Link(window))
            return
        carrier.happened["link lost" if carrier.admits else "not admitted"] += 1
        config = not carrier.admits
        self.events.link(Link(0, "wrong password" if config else "gone", config=config))
        for delivery in list(self._waiting):  # it may have been taken
            self._answer(delivery, Answer("unknown", code="lost"))

    def _leave(self) -> None:
        if self in self.carrier.links:
            self.carrier.links.remove(self)
