"""The people at WeCom in the demo: customers who write, a clerk who takes over, sellers, a team.

What they do, they do in the fake, over HTTP; the shop's answers to it are commands and intents like
any other. Each part of it goes by the clock, or waits for what it has to come after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.demo.cdnow import addresses, chosen, mark
from benchmarks.demo.ear import Ear
from benchmarks.demo.wecom import CLERKS, SELLERS, Wecom
from hub.ledger.connection import Connection
from hub.ledger.port import LedgerUnavailable
from hub.ledger.publishing import publish

DESK, CRM = "desk", "crm"
"""The applications: one makes groups and writes to them, one sends campaigns."""
WRITERS = 300
WRITE_S = 1 / 8
"""Between two of them."""
PRICES = ("What is the price of a CD?", "How much is that one?", "这张唱片多少钱？")
OTHERS = ("Where is my order?", "Do you have it on vinyl?", "Is it out of print?")
WANT_PERSON = "May I talk to a person, please?"
TALKS = 20
"""Conversations that a person takes over, one after another."""
TALK_EVERY_S = 0.5
TALK_S = 2.0
"""From the clerk's answer to the end."""
THANKS, THANKS_S = "Thank you!", 0.2
"""What the customer says so long after the end."""
FRIENDS, FRIEND_S = 60, 1 / 8
"""Customers who add a seller at once, and get a mass message. Its task is at WeCom before a host is
killed: what a host leaves unanswered there is looked for after a minute and a half only."""
VISITORS, VISIT_S = 40, 1.0
"""And those who do while hosts are killed."""
TEAMS = 3
REPORTS = 4
REPORT_S = 5.0
"""Between two messages to each team's group."""
PATIENCE_S = 60.0
"""How long something may take that the people wait for: two hosts are killed meanwhile."""
TRIES, AGAIN_S = 20, 0.5


class People:
    """Everybody; `run()` until they have done their part."""

    def __init__(
        self, wecom: Wecom, ear: Ear, connection: Connection, customers: Sequence[str]
    ) -> None:
        self.acknowledged: set[tuple[str, str]] = set()
        """(application, intent) of what the stream has acknowledged."""
        self._wecom = wecom
        self._ear = ear
        self._connection = connection
        self._talkers = customers[:TALKS]
        self._writers = customers[TALKS : TALKS + WRITERS]

    async def run(self) -> None:
        """Raises ChildFailed, TimeoutError, LedgerError."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                group.create_task(self._visit())
                for number in range(TEAMS):
                    group.create_task(self._team(number))
                for number, customer in enumerate(self._talkers):
                    group.create_task(self._talk(number, customer))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    # ---- customers -----------------------------------------------------------------------------

    async def _write(self) -> None:
        """Two of three ask for a price, which a rule answers."""
        for number, customer in enumerate(self._writers):
            texts = PRICES if chosen(f"{customer} asks", 3) else OTHERS
            text = texts[number % len(texts)]
            await self._wecom.do("customer-writes", external_userid=customer, text=text)
            await asyncio.sleep(WRITE_S)

    async def _talk(self, number: int, customer: str) -> None:
        """A clerk takes over; a campaign waits until the conversation has ended."""
        clerk = CLERKS[number % len(CLERKS)]
        who = {"external_userid": customer, "userid": clerk}
        await asyncio.sleep(number * TALK_EVERY_S)
        await self._wecom.do("customer-writes", external_userid=customer, text=WANT_PERSON)
        await self._wecom.do("agent", do="accept", **who)
        await self._ear.until(lambda: self._ear.sessions.get(customer) == "human", PATIENCE_S)
        campaign = f"campaign-{number}"
        text = f"Only this week: every second CD is free. {mark(campaign)} "
        content = {"sms": {"text": text}, "wecom": {"text": text}}
        to = addresses(customer)
        await self._send(CRM, campaign, customer, "campaign", content, to=to)
        states = self._ear.states
        await self._ear.until(lambda: (CRM, campaign) in states, PATIENCE_S)
        hello = f"This is {clerk.title()}. What can I do for you?"
        await self._wecom.do("agent-writes", text=hello, **who)
        await asyncio.sleep(TALK_S)
        await self._wecom.do("agent", do="end", **who)
        await asyncio.sleep(THANKS_S)  # after it: else WeCom lets nobody write to her any more
        await self._wecom.do("customer-writes", external_userid=customer, text=THANKS)

    async def _visit(self) -> None:
        """They add a seller, who is asked to write to all of the first."""
        friends = await self._added(range(FRIENDS), FRIEND_S)
        content = {"text": "Our summer catalogue is here."}
        for number, (customer, seller) in enumerate(friends.items()):
            await self._send(
                CRM,
                f"catalogue-{number}",
                customer,
                "mass",
                content,
                account=seller,
                to={"wecom": customer},
            )

        await self._added(range(FRIENDS, FRIENDS + VISITORS), VISIT_S)

    async def _added(self, numbers: range, pause_s: float) -> dict[str, str]:
        """Customers, each with the seller she has added."""
        added = {f"wmnew{number:05}": SELLERS[number % len(SELLERS)] for number in numbers}
        for customer, seller in added.items():
            await self._wecom.do("add-contact", external_userid=customer, userid=seller)
            await asyncio.sleep(pause_s)
        return added

    # ---- members -------------------------------------------------------------------------------

    async def _team(self, number: int) -> None:
        """A group is made by command, and written to."""
        group, name = f"~team{number}", f"make-team-{number}"
        members = [*SELLERS, CLERKS[number % len(CLERKS)]]
        command: dict[str, Any] = {"id": name, "app": DESK, "customer": group, "op": "group.create"}
        command |= {"name": f"Team {number}", "members": members, "account": "office"}
        await self._publish(f"hub.to.command.{DESK}.{group}", command, name)
        await self._ear.until(lambda: "sent" in self._ear.states.get((DESK, name), ()), PATIENCE_S)
        for report in range(REPORTS):
            text = f"Report {report + 1} of today for team {number}."
            await self._send(DESK, f"report-{number}-{report}", group, "group", {"text": text})
            await asyncio.sleep(REPORT_S)

    # ---- the shop's part -----------------------------------------------------------------------

    async def _send(
        self, app: str, name: str, customer: str, category: str, content: Any, **more: Any
    ) -> None:
        """Publish an intent."""
        intent = {"id": name, "app": app, "customer": customer, "category": category}
        intent |= {"content": content, **more}
        await self._publish(f"hub.to.normal.{app}.{customer}", intent, f"{app}:{name}")
        self.acknowledged.add((app, name))

    async def _publish(self, subject: str, fields: dict[str, Any], message_id: str) -> None:
        """Until it is acknowledged. Raises LedgerUnavailable."""
        payload = msgspec.json.encode(fields)
        for left in range(TRIES - 1, -1, -1):
            try:
                await publish(self._connection, subject, payload, msg_id=message_id)
            except LedgerUnavailable:
                if not left:
                    raise
                await asyncio.sleep(AGAIN_S)
            else:
                return
