"""Push through getui (RestAPI v2): one device a request, under a `request_id` of the delivery.

An unanswered push is sent again under its id: getui documents that the message of a repeated
`request_id` is lost. How long it remembers one is not documented, nor what it answers to a repeat:
success (or 20001 naming `request_id`) is taken for the first one's success. That a push which was
refused (10001, 10005, 500) may come again under its id is what getui's own Java client does.

Sources: getui's pages "auth", "push", "return codes" of RestAPI v2; its Java client v2.
"""

from __future__ import annotations

import random
import re
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta, Raw, Struct

from channels.http import HttpClient, HttpReply, answer_of_status, checked_url
from channels.provider import (
    Answer,
    Events,
    Prepared,
    Submission,
    Unsendable,
)
from channels.push import content
from channels.push.vendors import getui_tokens
from channels.push.vendors.categories import check_labels, labels
from channels.push.vendors.gateway import GatewayRefused, VendorPush
from channels.push.vendors.getui_codes import DEAD, STALE, is_repeat, meaning_of
from channels.push.vendors.getui_content import TABLE, TITLE_CHARS, body_of
from channels.push.vendors.settings import VendorSettings
from channels.sending import HttpProvider, Outcome, client_of
from channels.tokens import Line, Tokens, identity_of
from hub.clock import Clock
from hub.contract.types import Delivery

TTL_MAX_MS: Final = 3 * 86_400_000
ONLINE_ONLY: Final = -1
"""A `ttl`: not kept for a device that is not connected."""
IGNORED: Final = "successed_ignore"
"""The device was not seen for 90 days: nothing was sent."""

_CID: Final = re.compile(r"[0-9A-Za-z]{16,64}\Z")
"""Assumed; real ones are 32 hexadecimal digits."""


class GetuiConfig(VendorSettings, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """An app at getui."""

    documented_limits: ClassVar[tuple[str, ...]] = ("2500000/day",)

    base_url: str = "https://restapi.getui.com/v2"
    app_id: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[0-9A-Za-z_-]+$")]
    app_key: Annotated[str, Meta(min_length=1, max_length=128)]
    master_secret: Annotated[str, Meta(min_length=1, max_length=128)]
    title: Annotated[str, Meta(max_length=TITLE_CHARS)] = ""
    """Shown of a message that has none: getui needs one."""

    def __repr__(self) -> str:
        return f"GetuiConfig(base_url={self.base_url!r})"


def check(config: GetuiConfig, sms: Any = None) -> None:
    """What types cannot say of the table. Raises ConfigError."""
    checked_url(config.base_url, "base_url")
    check_labels(config, TABLE)


class _Said(Struct):
    code: int
    msg: str = ""
    data: Raw = Raw()


_SAID_DECODER: Final = msgspec.json.Decoder(_Said)
_DATA_DECODER: Final = msgspec.json.Decoder(dict[str, dict[str, str]])
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class GetuiProvider(HttpProvider):
    """One account at getui. Raises ConfigError when its configuration is not valid."""

    resend = True

    def __init__(
        self,
        config: GetuiConfig,
        sms: Any,
        events: Events,
        clock: Clock,
        chance: random.Random,
        account: str,
    ) -> None:
        check(config)
        self._config = config
        self._url = f"{config.base_url.rstrip('/')}/{config.app_id}"
        self._client = client_of(config)
        self._clock = clock
        # Of its own: it must not wait until a push's connection is free.
        self._asking = HttpClient(
            connections=1, connect_s=config.connect_s, answer_s=config.answer_s
        )
        self._tokens: Tokens[str] = Tokens(
            identity_of("getui", self._url, config.app_key, config.master_secret),
            self._ask,
            clock,
            chance,
            account=account,
            counted=self._count,
            pause_of=getui_tokens.pause_of,
        )
        line = Line(self._client, self._asking, self._tokens)
        super().__init__(line, self._url, config.connections, events, chance, account)

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: the push, and whether vendors count it."""
        if _CID.match(delivery.to) is None:
            raise Unsendable("no getui cid", failure="dead_address", code="malformed")
        note = content.read(delivery.content, "getui")
        marketing = self._config.is_marketing(delivery.category)
        body = body_of(
            note,
            self._config.title,
            content.collapse_id(delivery),
            labels(self._config, marketing, TABLE),
        )
        return Prepared(delivery.to, units=1, parts=(VendorPush(body),), uncounted=not marketing)

    async def stop(self, drain_s: float) -> None:
        """What waits for a token has not left, and is handed back at once; the rest is waited for,
        and ends."""
        await self._tokens.close()
        await super().stop(drain_s)

    # ---- sending -------------------------------------------------------------------------------

    async def _send(self, submission: Submission) -> Outcome:
        body = msgspec.json.encode(self._request(submission))
        try:
            reply = await self._pushed(body)
            if (said := _said(reply)) is not None and said.code == STALE:
                # It ended early: once more with another. A third is left to the account.
                reply = await self._pushed(body)
        except GatewayRefused as error:
            return error.outcome
        return self.understood(reply, submission)

    def _request(self, submission: Submission) -> dict[str, Any]:
        push: VendorPush = submission.prepared.parts[0]
        settings = push.body.get("settings")
        ttl_ms = TTL_MAX_MS
        if submission.expires_ms:
            ttl_ms = min(submission.expires_ms - self._clock.now_ms(), TTL_MAX_MS)
        return push.body | {
            "request_id": request_id(submission.delivery),
            "audience": {"cid": [submission.prepared.recipient]},
            "settings": (settings if isinstance(settings, dict) else {})
            | {"ttl": ttl_ms if ttl_ms > 0 else ONLINE_ONLY},
        }

    async def _pushed(self, body: bytes) -> HttpReply:
        """Raises NotSent, Unanswered, GatewayRefused."""
        token = await self._tokens.get()
        headers = {"content-type": "application/json;charset=utf-8", "token": token}
        reply = await self._client.request(
            "POST", f"{self._url}/push/single/cid", body=body, headers=headers
        )
        said = _said(reply)
        if said is not None and said.code == STALE:
            self._tokens.spoil(token, getui_tokens.not_taken())
        elif said is not None:
            self._tokens.worked(token)
        return reply

    async def _ask(self) -> tuple[str, float]:
        config = self._config
        return await getui_tokens.ask(
            self._asking, self._url, config.app_key, config.master_secret, self._clock
        )

    def understood(self, reply: HttpReply, submission: Submission) -> Outcome:
        """What getui meant. Its words stay here: they may quote the push."""
        said = _said(reply)
        if said is None:
            answer = answer_of_status(reply, self._clock.now_ms())
            stop = answer.failure == "config"
        elif said.code == 0:
            return Outcome(self._taken(said, submission.prepared.recipient))
        elif submission.again and is_repeat(said.code, said.msg):
            self._count("repeat")
            return Outcome(Answer("accepted"))
        else:
            meaning = meaning_of(said.code, said.msg)
            if meaning is not None:
                answer, stop = meaning.answer(said.code), meaning.stop
            else:
                answer = answer_of_status(reply, self._clock.now_ms())
                stop = answer.failure == "config"
                answer = msgspec.structs.replace(answer, code=str(said.code))
        reason = f"getui refuses with {answer.code}: see its console for the app and its plan"
        return Outcome(answer, stop=reason if stop else "")

    def _taken(self, said: _Said, cid: str) -> Answer:
        """By the device's own status; without one the code 0 is believed."""
        try:
            tasks = _DATA_DECODER.decode(said.data) if said.data else {}
        except _UNREADABLE:
            tasks = {}
        for task, statuses in tasks.items():
            status = statuses.get(cid)
            if status == IGNORED:
                self._count("ignored")
                return Answer("failed", failure=DEAD.failure, code=IGNORED)
            if status is not None:
                return Answer("accepted", provider_ids=(task[:128],), code=_code(status))
        return Answer("accepted")


def request_id(delivery: str) -> str:
    """10 to 32 characters: the same for every try of a delivery, on whatever machine."""
    return blake2b(delivery.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _said(reply: HttpReply) -> _Said | None:
    """None when it is not getui that speaks."""
    try:
        return _SAID_DECODER.decode(reply.body)
    except _UNREADABLE:
        return None


def _code(status: str) -> str:
    return status if status in ("successed_online", "successed_offline") else ""
