"""Web Push: one account sends to browsers, wherever their push services are.

The address is the browser's subscription (`subscription.py`), the message JSON for the site's
service worker (`payload`), encrypted for that browser alone. No push service says whether it was
shown: taken is the last word, and a request that was not answered is never repeated.

Sources: RFC 8030, RFC 8291, RFC 8292.
"""

from __future__ import annotations

import random
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

from channels.http import (
    CONNECT_S,
    CONNECTIONS,
    CONNECTIONS_MAX,
    NotAllowed,
    NotSent,
    Unanswered,
)
from channels.provider import Answer, Events, Prepared, Submission
from channels.push.content import Note, check_size, collapse_id, merged, read, ttl_s
from channels.push.guard import Guard, guarded_client
from channels.push.webpush.answers import understood
from channels.push.webpush.encryption import PLAIN_BYTES, Keys, encrypt
from channels.push.webpush.origins import Origins
from channels.push.webpush.subscription import Subscription, read_subscription
from channels.push.webpush.vapid import Vapid
from channels.sending import HttpProvider, Outcome
from hub.clock import Clock
from hub.contract.types import Delivery

ANSWER_S: Final = 10.0
"""Push services answer within a second. Some other server that somebody registered as one holds a
connection no longer than this."""
TTL_MAX_S: Final = 28 * 86_400
"""Google keeps a message for four weeks, Mozilla for longer."""
HOSTS: Final = 256
"""Hosts of an account's `hosts`; there are about ten."""
REFUSALS: Final = 5
"""Browsers in a row whose push service does not take the key, until it is the key's fault: a few
may have subscribed with another."""
PROVEN_S: Final = 600.0
"""A key that was taken within this time is good, however many browsers refuse it: a site that has
changed its key meets those of the old one for months."""
URGENCIES: Final = ("very-low", "very-low", "low", "low", "normal", "normal", "high")
"""By the priority; 6 and above are high (RFC 8030, 5.3)."""


class WebPushConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One site's key, and where its browsers may be."""

    private_key: Annotated[str, Meta(min_length=1)]
    """The VAPID key whose public half the site subscribes with."""
    subject: Annotated[str, Meta(max_length=256)]
    """`mailto:…` or `https://…`, for the people of push services."""
    hosts: Annotated[list[str], Meta(max_length=HOSTS)] = field(default_factory=list)
    """Endpoints may be on these hosts and what is below them; on any if it is empty."""
    private_networks: bool = False
    """Endpoints may be in private networks, and http: for a push service of one's own."""
    connections: Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)] = CONNECTIONS
    connect_s: Annotated[float, Meta(gt=0, le=60)] = CONNECT_S
    answer_s: Annotated[float, Meta(gt=0, le=300)] = ANSWER_S

    def __repr__(self) -> str:
        return f"WebPushConfig(subject={self.subject!r})"


class Push(Struct, frozen=True):
    """One message, not yet encrypted: that is done anew for each request."""

    subscription: Subscription
    plain: bytes
    urgency: str
    topic: str

    def __repr__(self) -> str:
        return f"Push({len(self.plain)} bytes)"


def check(settings: WebPushConfig, sms: Any) -> None:
    """What types cannot say. Raises ConfigError."""
    Vapid(settings.private_key, settings.subject)
    Guard(hosts=settings.hosts)


class WebPushProvider(HttpProvider):
    """One account. Raises ConfigError when its configuration is not valid."""

    def __init__(
        self,
        config: WebPushConfig,
        sms_config: object,
        events: Events,
        clock: Clock,
        chance: random.Random,
        account: str,
    ) -> None:
        self._vapid = Vapid(config.private_key, config.subject)
        self._guard = Guard(private_networks=config.private_networks, hosts=config.hosts)
        self._client = guarded_client(
            config, private_networks=config.private_networks, hosts=config.hosts
        )
        self._origins = Origins(self._client, clock, chance)
        super().__init__(self._origins, "", config.connections, events, chance, account)
        self._clock = clock
        self._refusing: set[str] = set()
        """Endpoints that refused the key since it was last taken, REFUSALS at most."""
        self._taken_s = float("-inf")
        """When the key was last taken."""

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: the subscription, and what its service worker will read."""
        subscription = read_subscription(delivery.to, self._guard)
        topic = collapse_id(delivery)
        plain = msgspec.json.encode(payload(read(delivery.content, "webpush"), topic))
        check_size(len(plain), PLAIN_BYTES)
        urgency = URGENCIES[min(max(delivery.priority, 0), len(URGENCIES) - 1)]
        part = Push(subscription, plain, urgency, topic)
        return Prepared(delivery.to, units=1, parts=(part,))

    # ---- sending -----------------------------------------------------------------------------

    async def _send(self, submission: Submission) -> Outcome:
        push: Push = submission.prepared.parts[0]
        origin = push.subscription.origin
        wait_ms = self._origins.enter(origin)
        if wait_ms:  # without a code: it did not leave, and used up no try
            return Outcome(Answer("retry", retry_after_ms=wait_ms))
        try:
            return await self._request(push, submission.expires_ms)
        except NotAllowed as error:
            # A name that leads into a private network: the name's owner, or our own DNS, is
            # up to something. The device is not forgotten for it.
            self._origins.unreached(origin)
            return Outcome(Answer("retry", code=f"endpoint-{error.reason}"))
        except NotSent:
            wait_ms = self._origins.unreached(origin)
            if self._origins.lost:
                raise
            return Outcome(Answer("retry", retry_after_ms=wait_ms))
        except Unanswered:
            self._origins.unanswered(origin)
            raise
        finally:
            self._origins.leave(origin)

    async def _request(self, push: Push, expires_ms: int) -> Outcome:
        subscription, now_ms = push.subscription, self._clock.now_ms()
        headers = {
            "authorization": self._vapid.header(subscription.origin, now_ms),
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(ttl_s(expires_ms, now_ms, TTL_MAX_S)),
            "urgency": push.urgency,
        }
        if push.topic:
            headers["topic"] = push.topic
        body = encrypt(push.plain, subscription, Keys.fresh())
        reply = await self._client.request(
            "POST", subscription.endpoint, body=body, headers=headers
        )
        answer = understood(reply, now_ms)
        self._learn(subscription.origin, answer, reply.status)
        return Outcome(answer, stop=self._refused(answer, subscription.endpoint))

    def _learn(self, origin: str, answer: Answer, status: int) -> None:
        """What an answer says of its push service."""
        if answer.kind == "unknown" or answer.failure == "provider":
            self._origins.unanswered(origin)
        elif answer.kind == "throttled":
            one = status == 429  # 503 is about all of its messages
            self._origins.answered(origin, throttled=one, rest_ms=answer.retry_after_ms or 0)
        else:
            self._origins.answered(origin)

    def _refused(self, answer: Answer, endpoint: str) -> str:
        """Why a person must do something; "" while that is not certain."""
        now_s = self._clock.steady_s()
        if answer.kind == "accepted":
            self._refusing.clear()
            self._taken_s = now_s
        if answer.failure != "config":
            return ""
        if len(self._refusing) < REFUSALS:
            self._refusing.add(endpoint)
        if len(self._refusing) < REFUSALS or now_s - self._taken_s < PROVEN_S:
            return ""
        return (
            f"push services refuse the VAPID key ({answer.code}): private_key must be the one "
            "that browsers subscribed with, subject a real address, and the clock right"
        )


def payload(note: Note, topic: str) -> dict[str, Any]:
    """What the service worker finds in `event.data.json()`. `tag` makes a newer message replace
    the shown one, as its topic replaces what still waits at the push service."""
    base = {
        "title": note.title,
        "body": note.text,
        "image": note.image,
        "link": note.link,
        "sound": note.sound,
        "badge": note.badge,
        "tag": topic,
        "silent": note.silent or None,
        "data": note.data,
    }
    said = {key: value for key, value in base.items() if value not in ("", None, {})}
    return merged(said, note.own)
