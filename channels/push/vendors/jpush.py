"""Push through JPush (REST API v3): one device a request, under an id (`cid`) of the delivery.

An unanswered push is sent again under its id, and JPush answers with the first one's result.
`channels.push.vendors.cids` says how an id survives a crash.

Sources: Jiguang's pages "REST API overview", "Push API v3", "advanced features".
"""

from __future__ import annotations

import random
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta, Struct

from channels.http import (
    RETRY_AFTER_MAX_MS,
    Confirmation,
    HttpReply,
    NotSent,
    Unanswered,
    answer_of_status,
    checked_url,
)
from channels.provider import (
    Answer,
    Bundle,
    Events,
    Prepared,
    Submission,
    Unsendable,
)
from channels.push import content
from channels.push.vendors.categories import check_labels, labels
from channels.push.vendors.cids import Cids
from channels.push.vendors.gateway import GatewayRefused, VendorPush
from channels.push.vendors.jpush_codes import RATE, WINDOW_MS, meaning_of
from channels.push.vendors.jpush_content import TABLE, body_of
from channels.push.vendors.settings import VendorSettings
from channels.sending import HttpProvider, Outcome, client_of
from hub.clock import Clock
from hub.contract.types import Delivery

TTL_MAX_S: Final = 3 * 86_400
"""Of an ordinary app; a VIP app's is 10 days, which no push needs."""
CIDS_MAX: Final = 1_000

_REGISTRATION: Final = re.compile(r"[0-9A-Za-z]{8,64}\Z")
"""Assumed; real ones are 18 or 19 hexadecimal digits."""
_CID: Final = re.compile(r"[0-9A-Za-z_-]{8,128}\Z")
_SECONDS: Final = re.compile(r"[0-9]{1,6}\Z")


class JpushConfig(VendorSettings, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """An app at JPush."""

    documented_limits: ClassVar[tuple[str, ...]] = ("540/min",)
    """Of the free plan's 600 calls a minute; one in ten fetches ids (assumed to be counted)."""

    base_url: str = "https://api.jpush.cn"
    app_key: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[0-9A-Za-z_-]+$")]
    master_secret: Annotated[str, Meta(min_length=1, max_length=128)]
    apns_production: bool = True
    """Whether iPhones are reached by Apple's production service."""
    cids: Annotated[int, Meta(ge=1, le=CIDS_MAX)] = 10
    """Push ids fetched at once; only VIP apps get more than 10."""

    def __repr__(self) -> str:
        return f"JpushConfig(base_url={self.base_url!r})"


def check(config: JpushConfig, sms: Any = None) -> None:
    """What types cannot say of the table. Raises ConfigError."""
    checked_url(config.base_url, "base_url")
    check_labels(config, TABLE)


class _Error(Struct):
    code: int = 0
    message: str = ""


class _Said(Struct):
    msg_id: str | int = ""
    error: _Error | None = None


class _Pool(Struct):
    cidlist: list[str] = []


_SAID_DECODER: Final = msgspec.json.Decoder(_Said)
_POOL_DECODER: Final = msgspec.json.Decoder(_Pool)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Answers:
    """The account's events; of an answer `after` is told once the account has it, so that nothing
    is forgotten before."""

    def __init__(self, events: Events, after: Callable[[str, Answer], None]) -> None:
        self._events = events
        self._after = after
        self.receipt, self.inbound, self.bundle = events.receipt, events.inbound, events.bundle
        self.link, self.counted = events.link, events.counted

    def answered(self, delivery: str, answer: Answer) -> None:
        """As `Events.answered`."""
        self._events.answered(delivery, answer)
        self._after(delivery, answer)


class JpushProvider(HttpProvider):
    """One account at JPush. Raises ConfigError when its configuration is not valid."""

    resend = True

    def __init__(
        self,
        config: JpushConfig,
        sms: Any,
        events: Events,
        clock: Clock,
        chance: random.Random,
        account: str,
    ) -> None:
        check(config)
        self._config = config
        self._url = config.base_url.rstrip("/")
        self._client = client_of(config)
        self._cids = Cids(self._fetch, self._stored, clock)
        answers = _Answers(events, self._cids.done)
        super().__init__(self._client, self._url, config.connections, answers, chance, account)
        self._clock = clock
        pair = f"{config.app_key}:{config.master_secret}".encode()
        self._headers = {
            "authorization": f"Basic {b64encode(pair).decode()}",
            "content-type": "application/json",
        }

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: the push, and whether vendors count it."""
        if _REGISTRATION.match(delivery.to) is None:
            raise Unsendable("no JPush registration id", failure="dead_address", code="malformed")
        marketing = self._config.is_marketing(delivery.category)
        body = body_of(
            content.read(delivery.content, "jpush"),
            content.collapse_id(delivery),
            marketing=marketing,
            production=self._config.apns_production,
            vendors=labels(self._config, marketing, TABLE),
        )
        return Prepared(delivery.to, units=1, parts=(VendorPush(body),), uncounted=not marketing)

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Take submissions; what was pushed before and not answered keeps its id."""
        self._cids.recall(notes)
        super().start(notes)

    async def stop(self, drain_s: float) -> None:
        """Wait for answers; what they make superfluous is forgotten."""
        await super().stop(drain_s)
        if notes := self._cids.forgotten():
            # If it is not stored any more it is forgotten when its delivery would have expired.
            self._events.bundle(Bundle(notes=notes), lambda stored: None)

    # ---- sending -------------------------------------------------------------------------------

    async def _send(self, submission: Submission) -> Outcome:
        try:
            cid = await self._cids.of(
                submission.delivery, submission.expires_ms, again=submission.again
            )
        except GatewayRefused as error:
            return error.outcome
        body = msgspec.json.encode(self._request(submission, cid))
        reply = await self._client.request(
            "POST", f"{self._url}/v3/push", body=body, headers=self._headers
        )
        return self.understood(reply)

    def _request(self, submission: Submission, cid: str) -> dict[str, Any]:
        push: VendorPush = submission.prepared.parts[0]
        options = push.body.get("options")
        ttl_s = content.ttl_s(submission.expires_ms, self._clock.now_ms(), TTL_MAX_S)
        return push.body | {
            "cid": cid,
            "audience": {"registration_id": [submission.prepared.recipient]},
            "options": (options if isinstance(options, dict) else {}) | {"time_to_live": ttl_s},
        }

    async def _fetch(self) -> list[str]:
        """New ids of the pool. Raises NotSent, GatewayRefused."""
        self._count("cids_fetched")
        query = {"count": str(self._config.cids), "type": "push"}
        try:
            reply = await self._client.request(
                "GET", f"{self._url}/v3/push/cid", query=query, headers=self._headers
            )
        except Unanswered as error:  # no push was in it: it may be asked again
            raise NotSent(f"no push ids: {error.message}") from None
        if reply.status == 200:
            try:
                listed = _POOL_DECODER.decode(reply.body).cidlist[:CIDS_MAX]
            except _UNREADABLE:
                listed = []
            return [cid for cid in listed if _CID.match(cid)]
        outcome = self.understood(reply)
        if outcome.answer.kind == "unknown":
            raise NotSent(f"no push ids: JPush answers {outcome.answer.code}")
        if outcome.answer.failure not in (None, "config"):
            # Whatever is wrong with fetching is not wrong with the push.
            outcome = Outcome(Answer("retry", code=outcome.answer.code))
        raise GatewayRefused("no push ids", outcome=outcome)

    async def _stored(self, bundle: Bundle) -> bool:
        confirmation = Confirmation()
        self._events.bundle(bundle, confirmation.expect())
        return await confirmation.all_stored()

    def understood(self, reply: HttpReply) -> Outcome:
        """What JPush meant. Its words stay here: they may quote the push."""
        try:
            said = _SAID_DECODER.decode(reply.body)
        except _UNREADABLE:
            said = _Said()
        if reply.status == 200 and said.error is None and said.msg_id:
            return Outcome(Answer("accepted", provider_ids=(str(said.msg_id)[:128],)))
        meaning = meaning_of(said.error.code, said.error.message) if said.error else None
        if said.error is not None and meaning is not None:
            pause_ms = _reset_ms(reply) if said.error.code == RATE else None
            answer, stop = meaning.answer(said.error.code, pause_ms), meaning.stop
        else:
            answer = answer_of_status(reply, self._clock.now_ms())
            if answer.kind == "throttled" and answer.retry_after_ms is None:
                answer = msgspec.structs.replace(answer, retry_after_ms=_reset_ms(reply))
            stop = answer.failure == "config"
        reason = f"JPush refuses with {answer.code}: check app_key, master_secret and its console"
        return Outcome(answer, stop=reason if stop else "")


def _reset_ms(reply: HttpReply) -> int:
    """Until calls are counted anew, as JPush says; else a whole window."""
    value = reply.headers.get("x-rate-limit-reset", "").strip()
    if _SECONDS.match(value) is None:
        return WINDOW_MS
    return min(max(int(value), 1) * 1_000, RETRY_AFTER_MAX_MS)
