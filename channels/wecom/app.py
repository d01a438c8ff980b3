"""Messages of a self-built application to members of the corp, and its internal groups.

`message/send` takes a thousand members at once and says of each that it did not reach: those are
told apart here. Nothing is heard of a message after that; WeCom drops in silence what is over its
limits per member, so they are limits of the account (`channels.registry`), kept before it sends.

WeCom can drop repeats (`enable_duplicate_check`), but knows them by the whole request: the same
text to the same member is a repeat to it, also when it was meant. So it is asked to only

- for cards that a member answers: each has a task of its own, so the same request is a repeat;
- where the content asks for it (`"duplicate_check": seconds`): that message goes by itself, since
  with other recipients beside it a request would never be the same again.

An unanswered message is never sent again: `resend` is False. An unanswered order about a group is,
where doing it twice is doing it once: the group has the id that we gave it.

Sources: WeCom's pages 90236 (message/send), 90244 to 90248 (appchat), 90240 and 90241 (callbacks).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from channels.http import MALFORMED, NOT_STORED, Confirmation, Unanswered
from channels.provider import (
    Answer,
    Bundle,
    Callback,
    Events,
    Prepared,
    Reply,
    Submission,
    Unsendable,
)
from channels.sending import HttpProvider, Outcome
from channels.wecom.app_batches import Batches, Part
from channels.wecom.app_events import happened
from channels.wecom.app_groups import (
    CHAT_ID,
    USERID,
    ClosedGroups,
    GroupMessage,
    GroupOrder,
    closing,
    group_order,
)
from channels.wecom.app_rates import GroupRates, KnownMembers
from channels.wecom.callbacks import Event
from channels.wecom.client import WecomClient
from channels.wecom.config import AppConfig, ms
from channels.wecom.config import check as check_table
from channels.wecom.contacts import heard
from channels.wecom.content import DUPLICATE_CHECK_MAX_S, asks, content_of, is_command, render
from channels.wecom.errors import WecomError, answer_of, stop_of
from hub.clock import Clock
from hub.contract.types import Delivery
from hub.errors import ConfigError, TactError

__all__ = ["AppConfig", "AppProvider", "check"]

WINDOW: Final = 16
"""Messages that may be unanswered at once for each connection: enough that a campaign fills its
requests, and few enough that what is urgent does not stand behind seconds of messages that go by
themselves (each 50 ms: 0.8 s)."""
COLLECT_MAX_S: Final = 10
"""What is collected for longer holds a place in the window that others could leave by."""
ALL_INVALID: Final = 81013
"""None of the recipients can be written to."""
WRONG_MEMBERS: Final = (40003, 40031, 60111, 86005, 86006, 86007, 86207, 86216)
"""Of an order about a group: a member, the owner or their number is wrong, not the group."""
TOO_FEW: Final = 86006
"""A group would have too few members (or too many)."""
GROUP_CLOSED: Final = "group-closed"


def check(config: AppConfig, sms: object = None) -> None:
    """What types cannot say of the table. Raises ConfigError naming the key."""
    check_table(config, sms)
    for key, most_s in (("collect", COLLECT_MAX_S), ("duplicate_check", DUPLICATE_CHECK_MAX_S)):
        if ms(config, key) > most_s * 1_000:
            raise ConfigError(f"{key}: at most {most_s}s", key=key)


class MemberMessage(Struct, frozen=True):
    """One message for one member, as message/send is given it but for `touser`."""

    user: str
    """As the application spelt it."""
    body: dict[str, Any]
    key: bytes
    """The same for the same content; b"" for one that goes by itself."""

    @property
    def recipient(self) -> str:
        return self.user.lower()

    def __repr__(self) -> str:
        return f"MemberMessage({self.body.get('msgtype')!r})"


class AppProvider(HttpProvider):
    """One application. Raises ConfigError when its configuration is not valid."""

    def __init__(
        self,
        config: AppConfig,
        sms_config: object,
        events: Events,
        clock: Clock,
        chance: random.Random,
        account: str,
        client: WecomClient | None = None,
    ) -> None:
        check(config)
        self._config = config
        self._clock = clock
        self._duplicates_s = ms(config, "duplicate_check") // 1_000
        self._closed = ClosedGroups({})
        self._rates = GroupRates(
            per_min=config.group_per_min,
            per_hour=config.group_per_hour,
            member_per_min=config.group_member_per_min,
        )
        self._known = KnownMembers()
        self._client = client or WecomClient(config, clock, chance, counted=self._count)
        self._batches = Batches(
            self._request,
            requests=config.connections,
            collect_s=ms(config, "collect") / 1_000,
        )
        super().__init__(
            self._client, config.base_url, WINDOW * config.connections, events, chance, account
        )

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Take submissions from now on. The notes say which groups are closed."""
        self._closed = ClosedGroups(notes)
        super().start(notes)

    async def stop(self, drain_s: float) -> None:
        """Begin no request, wait for answers, then end."""
        await self._batches.stop()
        await super().stop(drain_s)
        await self._batches.close()

    # ---- what would be sent ----------------------------------------------------------------------

    def prepare(self, delivery: Delivery) -> Prepared:
        """For a conversation `~…` a message or an order to an internal group, else a message to a
        member. Only the groups that are closed are known from elsewhere."""
        content = content_of(delivery)
        if delivery.customer.startswith("~"):
            part: Part = self._to_group(delivery, content)
        else:
            part = self._to_member(delivery, content)
        return Prepared(part.recipient, units=1, parts=(part,))

    def _to_group(self, delivery: Delivery, content: dict[str, Any]) -> GroupMessage | GroupOrder:
        chat = delivery.to.removeprefix("~")
        if CHAT_ID.match(chat) is None:
            raise Unsendable("this is no id of a group", failure="dead_address", code="chatid")
        if chat in self._closed:
            raise Unsendable("this group was dissolved", failure="dead_address", code=GROUP_CLOSED)
        if is_command(content):
            return group_order(content, chat)
        return GroupMessage(
            chat, {"chatid": chat, **render(content, "appchat", self._config.content)}
        )

    def _to_member(self, delivery: Delivery, content: dict[str, Any]) -> MemberMessage:
        if USERID.match(delivery.to) is None:
            raise Unsendable("this is no userid of a member", failure="dead_address", code="userid")
        body = render(content, "app", self._config.content)
        if asks(body):
            body = self._with_task(body, delivery.id)
        alone = "enable_duplicate_check" in body
        key = b"" if alone else hashlib.blake2b(msgspec.json.encode(body), digest_size=16).digest()
        return MemberMessage(delivery.to, {"agentid": self._config.agent_id, **body}, key)

    def _with_task(self, body: dict[str, Any], delivery: str) -> dict[str, Any]:
        """A card that is answered, with a task of its own unless the application gave it one."""
        card = body["template_card"]
        if "task_id" in card:
            return body
        task = hashlib.blake2b(delivery.encode(), digest_size=16).hexdigest()
        body = {**body, "template_card": {**card, "task_id": task}}
        if not self._duplicates_s:
            # By itself all the same: no other delivery has this task.
            return body
        return {
            "enable_duplicate_check": 1,
            "duplicate_check_interval": self._duplicates_s,
            **body,
        }

    # ---- sending ---------------------------------------------------------------------------------

    async def _send(self, submission: Submission) -> Outcome:
        return await self._batches.send(submission.prepared.parts[0])

    async def _request(self, parts: Sequence[Part]) -> list[Outcome]:
        """One request: to members, or to one group."""
        self._count("request")
        first = parts[0]
        if isinstance(first, GroupMessage):
            return [await self._tell_group(first)]
        if isinstance(first, GroupOrder):
            return [await self._order(first)]
        members = [part for part in parts if isinstance(part, MemberMessage)]
        body = {"touser": "|".join(part.user for part in members), **members[0].body}
        try:
            reply = await self._client.call("message/send", body)
        except WecomError as error:
            return [self._refusal(error, several=len(parts) > 1)] * len(parts)
        return told_apart(reply, members)

    def _refusal(self, error: WecomError, *, several: bool) -> Outcome:
        answer = answer_of(error, self._clock)
        if several and answer.failure == "dead_address" and error.errcode != ALL_INVALID:
            # It does not say whose: nobody's address is given up for it.
            answer = replace(answer, failure="provider")
        return Outcome(answer, stop=stop_of(error))

    async def _tell_group(self, message: GroupMessage) -> Outcome:
        if message.chat in self._closed:
            return Outcome(Answer("failed", failure="dead_address", code=GROUP_CLOSED))
        try:
            try:
                members = await self._members_of(message.chat)
            except Unanswered as error:
                return Outcome(Answer("retry", code=error.code))  # nothing is sent by asking
            at_s = self._clock.steady_s()
            wait_s = self._rates.wait_s(members, at_s)
            if wait_s:
                wait_ms = math.ceil(wait_s * 1_000)
                code = "group-rate"
                return Outcome(
                    Answer("throttled", code=code, retry_after_ms=wait_ms, scope="recipient")
                )
            self._rates.add(members, at_s)
            await self._client.call("appchat/send", message.body)
        except WecomError as error:
            return self._group_refusal(error)
        return Outcome(Answer("accepted"))

    async def _members_of(self, chat: str) -> tuple[str, ...]:
        """Who is told what the group is told."""
        known = self._known.get(chat, self._clock.steady_s())
        if known is not None:
            return known
        reply = await self._client.call("appchat/get", chatid=chat)
        return self._known.learn(chat, reply, self._clock.steady_s())

    async def _order(self, order: GroupOrder) -> Outcome:
        self._known.forget(order.chat)
        try:
            if order.api:
                await self._client.call(order.api, order.body)
                return Outcome(Answer("accepted"))
            return await self._dissolve(order.chat)
        except Unanswered as error:
            if not order.repeatable:
                raise
            return Outcome(Answer("retry", code=error.code))
        except WecomError as error:
            outcome = self._group_refusal(error)
            if error.errcode in WRONG_MEMBERS:
                answer = replace(outcome.answer, failure="rejected_content")
                outcome = replace(outcome, answer=answer)
            return outcome

    def _group_refusal(self, error: WecomError) -> Outcome:
        """A group that must wait holds up no others: the client knows which API must rest. Nor does
        an application that may not have groups stop: its messages to members are another matter."""
        answer = answer_of(error, self._clock)
        if answer.kind == "throttled":
            answer = replace(answer, scope="recipient")
        return Outcome(answer)

    async def _dissolve(self, chat: str) -> Outcome:
        """Remove all members but the owner, and remember that it is closed. Asked again after a
        crash it does what is left."""
        members = await self._client.call("appchat/get", chatid=chat)
        for keep in (1, 2):
            update = closing(chat, members, keep)
            if update is None:
                break
            try:
                await self._client.call("appchat/update", update)
                break
            except WecomError as error:
                if keep == 2 or error.errcode != TOO_FEW:
                    raise
        confirmation = Confirmation()
        note = self._closed.add(chat)
        self._events.bundle(Bundle(notes=note), confirmation.expect())
        if not await confirmation.all_stored():
            self._closed.discard(chat)
            return Outcome(Answer("retry", code="not-stored"))
        return Outcome(Answer("accepted"))

    # ---- being called ----------------------------------------------------------------------------

    async def callback(self, request: Callback) -> Reply:
        """An event of the application, deciphered at the endpoint: stored before it is answered."""
        if request.method != "EVENT":
            return Reply(status=404)
        try:
            event = Event.decode(request.body)
        except TactError:
            self._count("callback_malformed")
            return MALFORMED
        confirmation = Confirmation()
        if event.name == "change_external_chat":
            # Of a customer group whose owner is none of our accounts, or is not told.
            bundle = heard(event, self._account)
            if bundle is not None:
                self._count("event")
                self._events.bundle(bundle, confirmation.expect())
        elif (inbound := happened(event, self._clock.now_ms())) is not None:
            self._count("event" if "event" in inbound.content else "inbound")
            self._events.inbound(inbound, confirmation.expect())
        else:
            self._count("event_ignored")  # it concerns no member
        if not await confirmation.all_stored():
            self._count("not_stored")
            return NOT_STORED
        return Reply()


def told_apart(reply: Mapping[str, Any], members: Sequence[MemberMessage]) -> list[Outcome]:
    """What a request that WeCom took means for each: those it names were not reached.

    It names them in lower case.
    """
    invalid, unlicensed = _names(reply, "invaliduser"), _names(reply, "unlicenseduser")
    told = reply.get("msgid")
    ids = (told,) if isinstance(told, str) and 0 < len(told) <= 128 else ()
    accepted = Outcome(Answer("accepted", provider_ids=ids))
    dead = Outcome(Answer("failed", failure="dead_address", code="invaliduser"))
    barred = Outcome(Answer("failed", failure="config", code="unlicenseduser"))
    return [
        dead if one.recipient in invalid else barred if one.recipient in unlicensed else accepted
        for one in members
    ]


def _names(reply: Mapping[str, Any], field: str) -> set[str]:
    text = reply.get(field)
    return set(text.lower().split("|")) - {""} if isinstance(text, str) else set()
