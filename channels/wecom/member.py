"""The provider `wecom-member`: one member who serves customers. Mass messages, messages to customer
groups and moments are tasks that the member confirms; a welcome message goes out at once; what
customers and groups do comes in as events.

An account's deliveries go to an external userid, or (`~…`) to a customer group. A mass message is
told to be `sent` when the member has confirmed it and WeCom says so of this customer, not before.

Repeats: a delivery is in the account's notes, by name, before it is answered, and WeCom is asked
for what a call without an answer has made before the call is made again. So `resend` is true
although WeCom removes no repeats itself.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
import structlog

from channels.http import NOT_STORED, Confirmation, NotSent, Unanswered
from channels.provider import (
    Answer,
    Callback,
    Events,
    Link,
    Prepared,
    Reply,
    Submission,
    Unsendable,
)
from channels.wecom.callbacks import Event
from channels.wecom.client import WecomClient
from channels.wecom.config import MemberConfig, check, ms
from channels.wecom.contacts import (
    NO_GROUPS,
    Order,
    group_address,
    group_transfer_of,
    heard,
    is_id,
    join_way_of,
    transfer_of,
)
from channels.wecom.content import ContentLimits, render
from channels.wecom.crypto import CallbackRefused
from channels.wecom.errors import WecomError, answer_of, stop_of
from channels.wecom.member_intake import WINDOW, Intake, Job, Shelf
from channels.wecom.member_orders import (
    AnyOrder,
    Cancel,
    GroupTransfer,
    JoinWay,
    Orders,
    Welcome,
)
from channels.wecom.member_tasks import Driver
from channels.wecom.member_work import MassWork, MomentWork, TransferWork
from channels.wecom.moments import moment_of
from channels.wecom.tasks import BODY_BYTES, key_of, names_of
from hub.clock import Clock
from hub.contract.times import parse_rfc3339
from hub.contract.types import Delivery
from hub.errors import TactError
from hub.limits import ROUTE_CHANNELS

__all__ = ["MemberConfig", "MemberProvider", "check"]

ORDERS: Final = 64
"""Orders (welcome messages among them) under way at once; each is one or two calls."""
STORED_S: Final = 1.0
"""An event is confirmed within this time or repeated: WeCom waits for a second."""
DOWN_FIRST_S: Final = 0.5
DOWN_MAX_S: Final = 30.0
"""After calls that could not leave nothing is taken for so long; it doubles."""
CONFIG_PAUSE_S: Final = 300.0
"""And for so long after a refusal that a person must put right."""

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder(order="deterministic").encode
_pack_order = msgspec.msgpack.Encoder().encode
_unpack_order = msgspec.msgpack.Decoder(Order).decode


class MemberProvider:
    """One member's account. Raises ConfigError when its configuration is not valid."""

    resend = True

    def __init__(
        self,
        config: MemberConfig,
        sms: object,
        events: Events,
        clock: Clock,
        chance: random.Random,
        *,
        account: str,
    ) -> None:
        self._config = config
        self._events = events
        self._clock = clock
        self._account = account
        self._chance = chance
        self._shelf = Shelf(events, account)
        self._client = WecomClient(config, clock, chance, counted=self._shelf.count)
        mass = MassWork(self._client, clock, config.userid)
        self._driver = Driver(
            self._shelf,
            {
                "single": mass,
                "group": mass,
                "moment": MomentWork(self._client, clock, config.userid),
                "transfer": TransferWork(self._client, clock, _unpack_order),
            },
            clock,
            remind=mass.remind,
            remind_ms=ms(config, "remind"),
            trouble=self._trouble,
        )
        self._intake = Intake(
            self._shelf,
            clock,
            collect_ms=ms(config, "collect"),
            give_up_ms=ms(config, "give_up"),
            token=lambda: f"{chance.getrandbits(32):08x}",
        )
        self._orders = Orders(
            self._client, clock, store=self._shelf.store, cancel=self._driver.cancel
        )
        self._open: dict[asyncio.Task[None], str] = {}
        """Orders under way, and their deliveries."""
        self._started = False
        self._down: asyncio.Task[None] | None = None
        self._down_s = DOWN_FIRST_S

    @property
    def idle(self) -> bool:
        """No task waits for its member, and nothing is under way: events come by callbacks."""
        under_way = self._shelf.tasks or self._shelf.unstored or self._open or self._down
        return self._intake.idle and not under_way

    # ---- what would be sent ----------------------------------------------------------------------

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: a task's content, or an order. Raises Unsendable."""
        to = delivery.to.removeprefix("~")
        group = delivery.customer.startswith("~")
        if not is_id(to):
            raise Unsendable("not an id of WeCom", failure="dead_address", code="address")
        content = msgspec.json.decode(delivery.content)
        if not isinstance(content, dict):
            raise Unsendable("not an object", failure="rejected_content", code="content")
        recipient = group_address(to) if group else to
        if "op" in content:
            return Prepared(recipient, 0, (self._ordered(content, delivery, to, group),))
        if "welcome_code" in content:
            if group:
                raise _unsendable("a welcome message is for a customer, not for a group")
            return Prepared(recipient, 0, (_welcome(content, self._config.content),))
        body = _mass(bytes(delivery.content), self._config.content)
        key = key_of(delivery.app, delivery.customer, delivery.collapse_key)
        at_ms = parse_rfc3339(delivery.at) if key else 0
        job = Job("group" if group else "single", body, to, True, key, at_ms)
        return Prepared(recipient, 1, (job,))

    def _ordered(
        self, content: dict[str, Any], delivery: Delivery, to: str, group: bool
    ) -> Job | AnyOrder:
        op = content["op"]
        if op == "moment.create" and not group:
            return Job("moment", _bounded(moment_of(content, self._config.userid)), to)
        if op == "mass.cancel":
            intent = content.get("intent")
            if not isinstance(intent, str) or not intent:
                raise _unsendable("mass.cancel needs intent, the id of one of its messages")
            names = names_of(delivery.app, intent, delivery.customer, ROUTE_CHANNELS)
            return Cancel(frozenset(names))
        if op == "customer.transfer" and not group:
            order = transfer_of(content, to, self._config.userid)
            return Job("transfer", _pack_order(order), to)
        if group and op == "group.invite":
            return JoinWay(to, join_way_of(content, to))
        if group and op in ("group.update", "group.transfer"):
            return GroupTransfer(to, group_transfer_of(content, to))
        if group and op in ("group.create", "group.dissolve"):
            raise Unsendable(NO_GROUPS, failure="rejected_content", code="no-api")
        raise _unsendable("not an operation of a member's account")

    # ---- sending ---------------------------------------------------------------------------------

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Take submissions, and go on with the tasks in the notes."""
        self._started = True
        self._intake.start(self._shelf.load(notes))
        self._driver.start()
        self._up()

    def submit(self, submission: Submission) -> None:
        """Into a task, or carried out at once."""
        if isinstance(submission.prepared.parts[0], Job):
            self._intake.take(submission)
        elif not self._started or len(self._open) >= ORDERS:
            self._answer(submission.delivery, Answer("retry"))
        else:
            task = asyncio.create_task(self._carry_out(submission))
            self._open[task] = submission.delivery
            task.add_done_callback(self._ended)

    def flush(self) -> None:
        """Everything is a task: it goes on when the loop comes to it."""

    async def stop(self, drain_s: float) -> None:
        """Take nothing more, wait for what is under way, end. Tasks stay in the notes."""
        self._started = False
        if self._down is not None:
            self._down.cancel()
            await asyncio.wait([self._down])
        self._intake.stop()
        if self._open:
            await asyncio.wait(self._open, timeout=drain_s)
        for task in list(self._open):
            task.cancel()
        while self._open:
            await asyncio.wait(list(self._open))
        await self._driver.stop()
        await self._client.close()

    async def _carry_out(self, submission: Submission) -> None:
        answer = Answer("unknown", code="stopped")
        try:
            answer = await self._orders.carry_out(submission)
            self._trouble(None)
        except (NotSent, Unanswered, WecomError) as error:
            self._trouble(error)
            answer = answer_of(error, self._clock)
        except Exception as error:
            # A bug is an answer too. Its text may quote the message: not told.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename}:{frame.lineno}"
            _log.error("member.bug", account=self._account, error=type(error).__name__, at=place)
            answer = Answer("failed", failure="provider", code="internal")
        finally:
            self._answer(submission.delivery, answer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._open[task]

    def _answer(self, delivery: str, answer: Answer) -> None:
        self._shelf.count(answer.kind)
        self._events.answered(delivery, answer)

    # ---- the connection --------------------------------------------------------------------------

    def _trouble(self, error: TactError | None) -> None:
        """How calls end says whether the account can work."""
        if error is None:
            self._down_s = DOWN_FIRST_S
        elif reason := stop_of(error):
            self._pause(reason, CONFIG_PAUSE_S, config=True)
        elif isinstance(error, NotSent):
            pause_s = self._down_s * (0.5 + self._chance.random() / 2)
            self._down_s = min(self._down_s * 2, DOWN_MAX_S)
            self._pause(error.message, pause_s, config=False)

    def _pause(self, reason: str, seconds: float, *, config: bool) -> None:
        if self._down is not None or not self._started:
            return
        _log.warning("member.down", account=self._account, reason=reason, config=config)
        self._events.link(Link(0, reason, config))
        self._down = asyncio.create_task(self._again(seconds), name=f"{self._account}-down")

    async def _again(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._down = None
        self._up()

    def _up(self) -> None:
        self._events.link(Link(WINDOW))

    # ---- being called ----------------------------------------------------------------------------

    async def callback(self, request: Callback) -> Reply:
        """An event of a customer or a group: 200 once it is stored, 503 to have it repeated."""
        if request.method != "EVENT":
            return Reply(status=404)
        try:
            event = Event.decode(request.body)
        except CallbackRefused as error:
            return Reply(status=error.status)
        bundle = heard(event, self._account)
        if bundle is None:
            self._shelf.count("event_ignored")
            return Reply()
        confirmation = Confirmation()
        self._events.bundle(bundle, confirmation.expect())
        if not await confirmation.all_stored(STORED_S):
            self._shelf.count("not_stored")
            return NOT_STORED
        self._shelf.count("event")
        return Reply()


# ---- content -----------------------------------------------------------------------------------


def _unsendable(problem: str) -> Unsendable:
    return Unsendable(problem, failure="rejected_content", code="content")


@lru_cache(maxsize=32)
def _mass(content: bytes, limits: ContentLimits) -> bytes:
    """What WeCom is given of a mass message. Ten thousand of the same share one."""
    return _bounded(render(msgspec.json.decode(content), "external", limits))


def _bounded(body: dict[str, Any]) -> bytes:
    packed = _encode(body)
    if len(packed) > BODY_BYTES:
        raise _unsendable(f"larger than {BODY_BYTES} bytes in all")
    return packed


def _welcome(content: dict[str, Any], limits: ContentLimits) -> Welcome:
    code, until = content.pop("welcome_code"), content.pop("welcome_until", None)
    if not isinstance(code, str) or not code or len(code) > 256:
        raise _unsendable("welcome_code must be the code of the event")
    until_ms = 0
    if until is not None:
        try:
            until_ms = parse_rfc3339(until)
        except (ValueError, TypeError):
            raise _unsendable("welcome_until must be a time with an offset") from None
    return Welcome(code, until_ms, render(content, "external", limits))
