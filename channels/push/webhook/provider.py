"""The signed webhook (Standard Webhooks): the carrier-internal grid push, and any system of the
user's own that takes deliveries by HTTP.

Sending. A delivery is posted under an id made of its own (`webhook-id`), and posted again under it
until the system answers: at least once, and once for a system that remembers the ids. When again is
the schedule's matter, and how often `tries` of the account. A 410 disables the endpoint: nothing
is sent to it any more, in this process or the next, until its url or `reenabled` changes.

Being called. The same scheme verifies what the system posts to `/v1/callbacks/<account>`. What was
sent to it cannot be played back at the hub although one secret may sign both directions: a delivery
is none of the types that are understood here.

Sources: Standard Webhooks 1.0.0; docs/push.md.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from channels.http import NOT_STORED, Confirmation, NotAllowed, Unanswered
from channels.provider import (
    Answer,
    Bundle,
    Callback,
    Events,
    Link,
    Prepared,
    Reply,
    Submission,
)
from channels.push.guard import guarded_client
from channels.push.webhook.answers import GONE, outcome_of, step_ms, unanswered
from channels.push.webhook.config import (
    WebhookConfig,
    check,
    headers_of,
    signer_of,
    steps_of,
    verifier_of,
    why_not,
)
from channels.push.webhook.inbox import BODY_BYTES, bundle_of
from channels.push.webhook.message import Posted, prepared
from channels.push.webhook.signing import Refused
from channels.sending import HttpProvider, Outcome
from hub.clock import Clock
from hub.contract.types import Delivery

__all__ = ["WebhookConfig", "WebhookProvider", "check"]

DISABLED: Final = "disabled"
"""The note of an endpoint that answered 410: which one it was (`WebhookConfig.mark`)."""
WHY_DISABLED: Final = (
    "the endpoint answered 410 Gone, so nothing is sent to it: change url, "
    "or write a date into reenabled to use it again"
)

_log = structlog.get_logger(__name__)


class WebhookProvider(HttpProvider):
    """One system. Raises ConfigError when its configuration is not valid."""

    resend = True

    def __init__(
        self,
        settings: WebhookConfig,
        sms: object,
        events: Events,
        clock: Clock,
        chance: random.Random,
        *,
        account: str,
    ) -> None:
        check(settings)
        self._config = settings
        self._signer = signer_of(settings)
        self._verifier = verifier_of(settings)
        self._steps = steps_of(settings)
        self._fixed = headers_of(settings)
        self._clock = clock
        self._chance = chance
        self._client = guarded_client(settings, private_networks=settings.private_networks)
        self._ending: asyncio.Task[None] | None = None
        """After a 410: requests under way come to their end."""
        super().__init__(self._client, settings.url, settings.connections, events, chance, account)

    @property
    def idle(self) -> bool:
        """Between two requests; the end after a 410 is waited for."""
        return super().idle and (self._ending is None or self._ending.done())

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: the body. Raises Unsendable."""
        return prepared(delivery)

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Send from now on, unless the endpoint was disabled before."""
        noted = notes.get(DISABLED)
        if noted == self._config.mark.encode():
            self._events.link(Link(window=0, reason=WHY_DISABLED, config=True))
            return
        if noted is not None:
            self._events.bundle(Bundle(notes={DISABLED: None}), _whether_or_not)
        super().start(notes)

    async def stop(self, drain_s: float) -> None:
        """Wait for answers, then end."""
        await super().stop(drain_s)
        if self._ending is not None:
            await self._ending

    # ---- sending -------------------------------------------------------------------------------

    async def _send(self, submission: Submission) -> Outcome:
        """One try. Raises NotSent, Unanswered."""
        part: Posted = submission.prepared.parts[0]
        again_ms = step_ms(self._steps, submission, self._chance.random())
        headers = self._signer.headers(part.id, self._clock.now_ms() // 1_000, part.body)
        try:
            reply = await self._client.request(
                "POST", self._config.url, body=part.body, headers=headers | self._fixed
            )
        except NotAllowed as error:
            # It never left, and waits until a person has looked.
            return Outcome(Answer("retry"), stop=f"url: {why_not(error)}")
        except Unanswered:
            if not submission.again:
                raise
            return unanswered(again_ms)
        if reply.status == GONE:
            self._disable()
        return outcome_of(reply, self._taken(part), again_ms, self._clock.now_ms())

    def _taken(self, part: Posted) -> Answer:
        if self._config.receipts:
            return Answer("accepted", provider_ids=(part.id,), receipts=1)
        return Answer("accepted")

    def _disable(self) -> None:
        """Send nothing more; said to whoever owns the account next, too."""
        if self._ending is not None:
            return
        _log.warning("webhook.disabled", account=self._account)
        self._count("webhook_disabled")
        self._events.link(Link(window=0, reason=WHY_DISABLED, config=True))
        note = Bundle(notes={DISABLED: self._config.mark.encode()})
        self._events.bundle(note, _whether_or_not)
        self._ending = asyncio.create_task(self._end(), name=f"{self._account}-webhook-end")

    async def _end(self) -> None:
        # Not cut short: what is under way may have been taken.
        await self._sender.stop(self._config.connect_s + self._config.answer_s)
        # Again: a recovery that came to its end meanwhile has said that all is well.
        self._events.link(Link(window=0, reason=WHY_DISABLED, config=True))

    # ---- being called --------------------------------------------------------------------------

    async def callback(self, request: Callback) -> Reply:
        """Receipts and customers' messages, answered 2xx once they are stored."""
        try:
            bundle = self._opened(request)
        except Refused as error:
            self._count("callback_refused" if error.status == 401 else "callback_malformed")
            return _json(error.status, {"error": error.message})
        things = len(bundle.receipts) + len(bundle.inbound)
        confirmation = Confirmation()
        if things:
            self._events.bundle(bundle, confirmation.expect())
        if not await confirmation.all_stored():
            self._count("not_stored")
            return NOT_STORED
        for what, how_many in (("receipt", bundle.receipts), ("inbound", bundle.inbound)):
            for _ in how_many:
                self._count(what)
        return _json(200, {"stored": things})

    def _opened(self, request: Callback) -> Bundle:
        if not self._verifier.any:
            raise Refused(
                "this account has no key to verify with: receive_secret, receive_public_keys",
                status=404,
            )
        if request.method != "POST":
            raise Refused("POST is needed", status=405)
        if len(request.body) > BODY_BYTES:  # before it is signed: a computation costs
            raise Refused(f"more than {BODY_BYTES} bytes", status=413)
        now_ms = self._clock.now_ms()
        id = self._verifier.verified(request.headers, request.body, now_ms / 1_000)
        return bundle_of(id, request.body, now_ms)


def _whether_or_not(stored: bool) -> None:
    """A note that is not stored is made again by the next 410."""


def _json(status: int, value: dict[str, Any]) -> Reply:
    return Reply(status, msgspec.json.encode(value), "application/json")
