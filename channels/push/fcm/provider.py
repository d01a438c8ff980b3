"""Push through Firebase Cloud Messaging, HTTP v1: one request for each device.

FCM removes no repeats, so what was not answered is never sent again. It tells nothing of a message
that it took: `sent` is the last word.

Sources: FCM's reference of projects.messages:send; "Authorize send requests".
"""

from __future__ import annotations

import random
from typing import Final

from channels.http import HttpClient, HttpReply
from channels.provider import Answer, Events, Prepared, Submission
from channels.push.content import read
from channels.push.fcm.config import FcmConfig, check
from channels.push.fcm.errors import answer_of, said, sent_id
from channels.push.fcm.message import body_of, template_of
from channels.push.grant import Grant
from channels.push.service_account import GrantRefused, parse_service_account
from channels.sending import HttpProvider, Outcome, client_of
from channels.sms.message import SmsConfig
from channels.tokens import Line
from hub.clock import Clock
from hub.contract.types import Delivery

__all__ = ["FcmConfig", "FcmProvider", "check"]

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"


class FcmProvider(HttpProvider):
    """One project at FCM. Raises ConfigError when its configuration is not valid."""

    def __init__(
        self,
        config: FcmConfig,
        sms_config: SmsConfig,
        events: Events,
        clock: Clock,
        chance: random.Random,
        *,
        account: str,
    ) -> None:
        check(config, sms_config)
        service = parse_service_account(config.credentials)
        self._config = config
        self._url = (
            f"{config.base_url.rstrip('/')}/v1/projects/{config.project or service.project}"
            "/messages:send"
        )
        self._clock = clock
        self._http = client_of(config)
        # Of its own: it must not wait until a message's connection is free.
        asking = HttpClient(connections=1, connect_s=config.connect_s, answer_s=config.answer_s)
        self._grant = Grant(
            service, SCOPE, asking, clock, chance, account=account, counted=self._count
        )
        line = Line(self._http, asking, self._grant.tokens)
        super().__init__(line, config.base_url, config.connections, events, chance, account)

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: the request's JSON, all but how long it may be kept. One unit."""
        config = self._config
        note = read(delivery.content, "fcm")
        template = template_of(delivery, note, config.android_channel, config.id_key)
        return Prepared(delivery.to, units=1, parts=(template,))

    async def stop(self, drain_s: float) -> None:
        """What waits for a token has not left, and is handed back at once; the rest is waited for,
        and ends."""
        await self._grant.close()
        await super().stop(drain_s)

    async def _send(self, submission: Submission) -> Outcome:
        body = body_of(submission.prepared.parts[0], submission.expires_ms, self._clock.now_ms())
        try:
            reply = await self._asked(body)
        except GrantRefused as error:
            # Nothing left, and nothing is wrong with it: it waits until this is put right.
            return Outcome(Answer("retry"), stop=error.message)
        return self.understood(reply)

    async def _asked(self, body: bytes) -> HttpReply:
        """The answer to a message; asked once more with a new token when the old one is not taken
        (401): the message was not."""
        reply, refused = await self._once(body)
        if refused:
            reply, _ = await self._once(body)
        return reply

    async def _once(self, body: bytes) -> tuple[HttpReply, bool]:
        """The answer to one request, and whether its token was not taken."""
        token = await self._grant.token()
        reply = await self._http.request("POST", self._url, body=body, headers=token.headers)
        refused = reply.status == 401 and _is_refused_token(reply)
        if refused:
            self._grant.spoil(token)
        else:
            self._grant.worked(token)
        return reply, refused

    def understood(self, reply: HttpReply) -> Outcome:
        """What FCM meant. Its words stay here: they may quote token and text."""
        if reply.status == 200:
            found = sent_id(reply.body)
            if found is None:  # HTML of something in between, or half an answer
                return Outcome(Answer("unknown", code="HTTP 200"))
            return Outcome(Answer("accepted", provider_ids=(found,)))
        what = said(reply)
        answer = answer_of(what, reply, self._clock.now_ms())
        if what.meaning is None:
            stop = answer.failure == "config"
            reason = f"FCM's address answers {what.code} and not as FCM: check base_url and project"
            return Outcome(answer, stop=reason if stop else "")
        if not what.meaning.known:
            self._count("unknown_code")
        if what.meaning.kind == "token":
            # Not by us, nor by the message: without a code it uses up no try.
            return Outcome(
                Answer("retry"),
                stop="FCM takes no access token of this service account, not even a new one: see"
                " whether it belongs to the project",
            )
        return Outcome(answer, stop=what.meaning.stop)


def _is_refused_token(reply: HttpReply) -> bool:
    """Whether a 401 is about our token, not about the keys that FCM holds for Apple or the web."""
    meaning = said(reply).meaning
    return meaning is None or meaning.kind == "token"
