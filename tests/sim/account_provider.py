"""One host's side of a carrier in a simulation: a `channels.provider.Provider`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextvars import copy_context

import msgspec

from channels.provider import (
    Answer,
    Bundle,
    Callback,
    Events,
    Link,
    Prepared,
    Reply,
    Submission,
    Unsendable,
)
from hub.contract.types import Delivery
from tests.sim.account_carrier import Carrier, Report, Seen
from tests.sim.account_reader import ModelReader
from tests.support.virtual_loop import Process, current_process

TIMEOUT_S = 5.0
"""After this a submission without an answer is answered `unknown`."""


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
        self._reader: ModelReader | None = None
        if carrier.manner.reads:
            self._reader = ModelReader(carrier, events, lambda: self.alive, self._later)

    @property
    def alive(self) -> bool:
        return not self._stopped and (self._process is None or self._process.alive)

    def process_soon(self, call: Callable[..., None], *args: object) -> None:
        """In this host, when it makes steps."""
        self._loop.call_soon(call, *args, context=self._context)

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        self._loop.call_later(delay_s, call, context=self._context)

    # ---- the port --------------------------------------------------------------------------------

    def prepare(self, delivery: Delivery) -> Prepared:
        content = msgspec.json.decode(delivery.content)
        if "text" not in content:
            raise Unsendable("no text", failure="rejected_content", code="no-text")
        units = int(content.get("units", 1))
        free = bool(content.get("free", False))
        return Prepared(delivery.to, units, tuple(range(units)), free)

    def start(self, notes: Mapping[str, bytes]) -> None:
        self._loop.call_later(0.02, self._connect)
        if self._reader is not None:
            self._reader.start(notes)

    def _connect(self) -> None:
        if self.alive:
            self.carrier.links.append(self)
            self.changed()

    @property
    def idle(self) -> bool:
        if self.carrier.connects or self._waiting or not self.told:
            return False
        return self._reader is None or self._reader.done

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
        how = self._followed(submission, how, chance)
        parts = carrier.arrived(submission)
        self._waiting[submission.delivery] = submission, parts
        carrier.happened[f"answer: {how}"] += 1
        self._fate(how, submission, parts, chance)
        if fault and self._process is not None:
            network = carrier.network
            (network.killed if fault == "crash-after" else network.paused)(self._process)

    def _followed(self, submission: Submission, how: str, chance: random.Random) -> str:
        """Whether it may follow the customer's last message, by the carrier's count. What it has
        already, or was told not to count, may."""
        carrier, who = self.carrier, submission.prepared.recipient
        if carrier.manner.resend and carrier.has_all(
            submission.delivery, len(submission.prepared.parts)
        ):
            return "accepted" if how in ("refuse", "broken") else how  # it knows the repeat
        if submission.prepared.free or carrier.has(submission.delivery):
            return how
        if not carrier.counted.allows(who, carrier.clock.now_ms()):
            if not submission.again:  # only we know whether that has arrived
                carrier.broken.append(f"sent into a closed window: {submission.delivery} to {who}")
            return "closed"
        if not carrier.calm and chance.random() < carrier.manner.closed:
            carrier.counted.refused[who] = submission.delivery
            return "closed"
        return how

    async def callback(self, request: Callback) -> Reply:
        return Reply(404)

    async def stop(self, drain_s: float) -> None:
        self.carrier.happened["put away"] += not drain_s and self.idle
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
                    carrier.take(submission, part.part, chance)
            self._loop.call_later(
                TIMEOUT_S, self._answer, delivery, Answer("unknown", code="timeout"), submission
            )
            return
        if how in ("accepted", "half"):
            taken = parts if how == "accepted" else parts[: len(parts) // 2]
            for part in taken:
                ids[part.part] = carrier.take(submission, part.part, chance)
        retry_ms = chance.choice((None, None, 700, 30_000))
        accepted = Answer(
            "accepted", tuple(ids), receipts=len(ids) if carrier.manner.receipts else 0
        )
        if carrier.manner.confirms:
            accepted = Answer("accepted", receipts=1, status=None)
        answer = {
            "accepted": accepted,
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
            "closed": Answer("failed", tuple(ids), failure="window_closed", code="95001"),
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
        if not self.alive or report.confirmed or (self.carrier.connects and not self.told):
            return
        if self._reader is not None:
            self._reader.hint()
            return
        called: list[bool] = []

        def stored(is_stored: bool) -> None:
            called.append(is_stored)
            if len(called) > 1:
                self.carrier.broken.append("stored() was called twice")
            self.carrier.stored(report, is_stored)

        if report.bundle:
            inbound = () if report.inbound is None else (report.inbound,)
            commands = () if report.command is None else (report.command,)
            self.events.bundle(Bundle(report.bundle, (), inbound, commands), stored)
        elif report.receipt is not None:
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
