"""A customer service account (微信客服): what customers write in WeChat, and the answers to them.

Sending. A message carries an id made of our delivery's: WeCom takes each id once for an account, so
an unanswered call may be repeated, and the refusal of the repeat says that the first had arrived.
That WeCom took a message is not that the customer got it: `msg_send_fail` among what is read says
so, mostly within seconds. As that is seldom, nothing is waited for (`receipts` is 0): the account
remembers the ids of what it sent for a while, and a failure read within it corrects `sent`.

Contents are messages (channels.wecom.content, kind kf), and besides:
- `{"welcome_code": "…", …}` or `{"code": "…", …}`: text or menu in answer to an event
  (`send_msg_on_event`), also when the window is closed; `welcome_until` is when the code ends;
- `{"op": "kf.transfer", "to": "<userid>" | "queue"}`: a person takes over; without `to` one of
  `servicers`, or the queue;
- `{"op": "kf.release"}`: the session with the person ends. WeCom gives no session back to the
  program: the customer's next message opens a new one, and until then nothing may be sent.

Reading. A callback says only that there is something to read. It is acknowledged as soon as the
reader knows: nothing is in it that could be lost, for what there is to read stays at WeCom (three
days), the place up to which it was read is stored with it, and a reader that is made anew, here or
by another owner, begins by reading.

Sources: WeCom's pages 94670 (reading), 96427 (sending), 95122 (answers to events), 94669 (states).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from channels.http import MALFORMED, Confirmation, NotSent
from channels.provider import (
    Answer,
    Bundle,
    Callback,
    Events,
    Prepared,
    ProviderCommand,
    ProviderInbound,
    Reply,
    Submission,
    Unsendable,
)
from channels.sending import HttpProvider, Outcome
from channels.wecom.callbacks import Event
from channels.wecom.client import WecomClient
from channels.wecom.config import KfConfig, check
from channels.wecom.content import content_of, render
from channels.wecom.crypto import CallbackRefused
from channels.wecom.errors import WecomError, answer_of, stop_of
from channels.wecom.kf_messages import ADDRESS, TAKEOVER_MS
from channels.wecom.kf_reader import KfReader
from hub.clock import Clock
from hub.contract.times import parse_rfc3339, rfc3339
from hub.contract.types import Delivery
from hub.errors import TactError

__all__ = ["KfConfig", "KfProvider", "check"]

HINT: Final = "kf_msg_or_event"
REPEATED: Final = frozenset((95033,))
"""Codes that say nothing but that an id was used before."""
AMBIGUOUS: Final = frozenset((40058, 41051))
"""Codes that may say it: a wrong parameter, a code that was used. WeCom documents that a repeat is
an error, not which; so these (and unknown ones) count as a repeat if the call may be one."""
WRONG_MOVE: Final = 95016
NO_ACCOUNT: Final = (95000, 95004)
"""There is no such account (any more): of ours, not of the customer's."""
QUEUE: Final = "queue"
QUEUED, HUMAN, ENDED = 2, 3, 4
"""States of a session; 0 is new, 1 served by the program."""

_MEMBER = re.compile(r"[A-Za-z0-9._@-]{1,64}\Z")
_CODE = re.compile(r"[!-~]{1,256}\Z")


class KfPart(Struct, frozen=True):
    """One delivery, as it is sent."""

    does: Literal["message", "answer", "transfer", "release"]
    body: Mapping[str, Any]
    """What the call is given, apart from ids."""
    until_ms: int = 0
    """When its code ends, Unix ms; 0: not known."""

    def __repr__(self) -> str:
        return f"KfPart({self.does!r})"


class KfProvider(HttpProvider):
    """One customer service account. Raises ConfigError when its configuration is not valid."""

    resend = True
    idle = False
    """It reads also when no callback comes."""

    def __init__(
        self,
        settings: KfConfig,
        sms: object,
        events: Events,
        clock: Clock,
        chance: random.Random,
        *,
        account: str,
        client: WecomClient | None = None,
    ) -> None:
        check(settings)
        self._config = settings
        self._clock = clock
        self._client = client or WecomClient(settings, clock, chance, counted=self._count)
        self._reader = KfReader(
            settings, self._client, events, clock, chance, account, failed=self._not_read
        )
        super().__init__(
            self._client, settings.base_url, settings.connections, events, chance, account
        )

    # ---- sending -------------------------------------------------------------------------------

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: the customer, and what will be sent. Raises Unsendable."""
        if ADDRESS.match(delivery.to) is None:
            raise Unsendable("not an external_userid", failure="dead_address", code="address")
        part = part_of(content_of(delivery), self._config, delivery.id)
        return Prepared(delivery.to, units=1, parts=(part,), free=part.does != "message")

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Read and send from now on."""
        super().start(notes)
        self._reader.start(notes)

    async def stop(self, drain_s: float) -> None:
        """Read no more, wait for answers, then end."""
        await self._reader.stop()
        await super().stop(drain_s)

    async def _send(self, submission: Submission) -> Outcome:
        """One delivery. Raises NotSent, Unanswered."""
        part: KfPart = submission.prepared.parts[0]
        if 0 < part.until_ms <= self._clock.now_ms():
            return Outcome(Answer("failed", failure="expired", code="code-expired"))
        msgid, customer = msgid_of(submission.delivery), submission.prepared.recipient
        try:
            match part.does:
                case "message" | "answer":
                    answer = await self._say(part, msgid, customer, submission.again)
                case "transfer":
                    answer = await self._transfer(part, msgid, customer)
                case "release":
                    answer = await self._release(msgid, customer)
        except WecomError as error:
            if error.errcode in NO_ACCOUNT:
                failed = Answer("failed", failure="config", code=str(error.errcode))
                return Outcome(failed, stop="WeCom has no account of this open_kfid")
            return Outcome(answer_of(error, self._clock), stop=stop_of(error))
        return Outcome(answer)

    async def _say(self, part: KfPart, msgid: str, customer: str, again: bool) -> Answer:
        name, body = "kf/send_msg_on_event", {"msgid": msgid, **part.body}
        if part.does == "message":
            name = "kf/send_msg"
            body |= {"touser": customer, "open_kfid": self._config.open_kfid}
        try:
            await self._client.call(name, body)
        except WecomError as error:
            if not _had_arrived(error, again):
                raise
            self._count("kf_had_arrived")
        return Answer("accepted", provider_ids=(msgid,))

    def _not_read(self, error: TactError) -> None:
        """What keeps it from reading keeps it from sending too, and may show there only."""
        if isinstance(error, NotSent):
            self._sender.down(error.message, config=False)
        elif stop := stop_of(error):
            self._sender.down(stop, config=True)

    # ---- sessions ------------------------------------------------------------------------------

    async def _transfer(self, part: KfPart, msgid: str, customer: str) -> Answer:
        """To a member, or to the queue that members take from. What is so already is done."""
        agent: str = part.body.get("servicer_userid", "")
        try:
            said = await self._move(customer, part.body)
        except WecomError as error:
            if error.errcode != WRONG_MOVE:
                raise
            state, has_it = await self._state(customer)
            if state == ENDED:
                return Answer("failed", failure="window_closed", code=str(WRONG_MOVE))
            if not (state == HUMAN and agent in ("", has_it)) and not (
                state == QUEUED and not agent
            ):
                return Answer("failed", failure="provider", code=str(WRONG_MOVE))
            said, agent = {}, has_it if state == HUMAN else ""
        return await self._changed(msgid, customer, "human" if agent else "queued", agent, said)

    async def _release(self, msgid: str, customer: str) -> Answer:
        """From the member or the queue. A session that neither has stays as it is."""
        state, _ = await self._state(customer)
        said: Mapping[str, Any] = {}
        if state in (QUEUED, HUMAN):
            said = await self._move(customer, {"service_state": ENDED})
            state = ENDED
        return await self._changed(
            msgid, customer, "ended" if state == ENDED else "program", "", said
        )

    async def _move(self, customer: str, body: Mapping[str, Any]) -> dict[str, Any]:
        session = {"open_kfid": self._config.open_kfid, "external_userid": customer}
        return await self._client.call("kf/service_state/trans", session | dict(body))

    async def _state(self, customer: str) -> tuple[int, str]:
        """Of the session, and the member who has it."""
        session = {"open_kfid": self._config.open_kfid, "external_userid": customer}
        said = await self._client.call("kf/service_state/get", session)
        state, agent = said.get("service_state"), said.get("servicer_userid")
        return state if isinstance(state, int) else -1, agent if isinstance(agent, str) else ""

    async def _changed(
        self, msgid: str, customer: str, state: str, agent: str, said: Mapping[str, Any]
    ) -> Answer:
        """Tell the conversation: WeCom reports only what members do in the client. The answer
        comes after that is stored; repeated, it is the same command."""
        now_ms = self._clock.now_ms()
        event = {"event": "session_changed", "state": state}
        event |= {"agent": agent} if agent else {}
        code = said.get("msg_code")
        event |= {"code": code} if isinstance(code, str) and _CODE.match(code) else {}
        commands: tuple[ProviderCommand, ...] = ()
        if state == "human":
            fields = {"agent": agent[:64], "until": rfc3339(now_ms + TAKEOVER_MS)}
            commands = (ProviderCommand(msgid, customer, "takeover", fields),)
        elif state != "queued":
            commands = (ProviderCommand(msgid, customer, "release"),)
        told = ProviderInbound(msgid, customer, event, now_ms)
        confirmation = Confirmation()
        self._events.bundle(Bundle(inbound=(told,), commands=commands), confirmation.expect())
        if not await confirmation.all_stored(None):
            return Answer("unknown", code="not-stored")  # it is asked for again
        return Answer("accepted")

    # ---- being called --------------------------------------------------------------------------

    async def callback(self, request: Callback) -> Reply:
        """WeCom's hint that there is something to read, as the hub's endpoint passes it on."""
        try:
            event = Event.decode(request.body)
        except CallbackRefused:
            self._count("callback_malformed")
            return MALFORMED
        if event.name != HINT or event.fields.get("OpenKfId") not in (None, self._config.open_kfid):
            self._count("callback_ignored")
            return Reply()
        self._count("kf_hint")
        self._reader.hint(event.fields.get("Token", ""))
        return Reply()


# ---- contents ------------------------------------------------------------------------------------


def _had_arrived(error: WecomError, again: bool) -> bool:
    """Whether a refusal says that the message was taken before; `again`: it may have been."""
    if error.errcode in REPEATED:
        return True
    return again and (error.errcode in AMBIGUOUS or not error.verdict.known)


def msgid_of(delivery: str) -> str:
    """The id of a message at WeCom, at most 32 of 0-9 a-z: the same for the same delivery."""
    return hashlib.blake2b(delivery.encode(), digest_size=16).hexdigest()


def part_of(content: Mapping[str, Any], config: KfConfig, delivery: str) -> KfPart:
    """What a content asks for. Raises Unsendable."""
    op = content.get("op")
    if op == "kf.release":
        return KfPart("release", {})
    if op == "kf.transfer":
        return KfPart("transfer", _transfer_of(content, config, delivery))
    codes = [content[key] for key in ("welcome_code", "code") if key in content]
    if not codes:
        return KfPart("message", render(content, "kf", config.content))
    if len(codes) > 1 or not isinstance(codes[0], str) or _CODE.match(codes[0]) is None:
        raise Unsendable("needs one code", failure="rejected_content", code="code")
    said = {k: v for k, v in content.items() if k not in ("welcome_code", "code", "welcome_until")}
    body = {"code": codes[0], **render(said, "event", config.content)}
    return KfPart("answer", body, _until_of(content.get("welcome_until")))


def _transfer_of(content: Mapping[str, Any], config: KfConfig, delivery: str) -> dict[str, Any]:
    to = content.get("to", "")
    if to == "" and config.servicers:
        # The same one when it is asked for again.
        to = config.servicers[int(msgid_of(delivery), 16) % len(config.servicers)]
    if to in ("", QUEUE):
        return {"service_state": QUEUED}
    if not isinstance(to, str) or _MEMBER.match(to) is None:
        raise Unsendable("to: a userid or queue", failure="rejected_content", code="to")
    return {"service_state": HUMAN, "servicer_userid": to}


def _until_of(value: Any) -> int:
    if value is None:
        return 0
    try:
        return max(parse_rfc3339(value), 1)
    except (ValueError, TypeError, OverflowError):
        raise Unsendable(
            "welcome_until: a time as RFC 3339", failure="rejected_content", code="welcome_until"
        ) from None
