"""CMPP as a provider: deliveries to SUBMITs, reports and customers' messages to events.

One SUBMIT always goes to one number: of several, one bad number would fail all. The id of a part is
its Msg_Id in decimal, which is what its status report names.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from channels.provider import (
    Answer,
    Callback,
    Events,
    Link,
    Prepared,
    Reply,
    Submission,
)
from channels.sms.alphabet import Coding
from channels.sms.cmpp import values
from channels.sms.cmpp.config import CmppConfig
from channels.sms.cmpp.inbox import METRIC, Inbox
from channels.sms.cmpp.layout import CmppError, UnencodableError
from channels.sms.cmpp.messages import V20, V30, Deliver, Submit, SubmitResp
from channels.sms.cmpp.results import STAT_CHARS, VERSION_TOO_HIGH, verdict_of
from channels.sms.cmpp.session import LostError, RefusedError, Session
from channels.sms.message import Sms, SmsConfig
from channels.sms.numbers import national
from channels.sms.segments import Concat, Segment
from hub.clock import Clock
from hub.contract.types import Delivery
from hub.errors import ConfigError

CODINGS: Final = (Coding.ASCII, Coding.UCS2)
"""Tried in this order unless the account names others (GBK is for carriers that want it)."""
FORMATS: Final = {Coding.ASCII: 0, Coding.UCS2: 8, Coding.GBK: 15}
"""Msg_Fmt."""

VALID_MS: Final = 30 * 24 * 3_600_000
"""The longest Valid_Time: carriers keep nothing for longer, and its year has two digits."""
GOODBYE_S: Final = 2.0
"""How long an ISMG may take to answer our TERMINATE."""

NO_ANSWER, NOT_SENT, NOT_CONNECTED = "CMPP_NO_ANSWER", "CMPP_NOT_SENT", "CMPP_NOT_CONNECTED"
UNENCODABLE = "CMPP_UNENCODABLE"

WITHOUT_ID: Final = "-"
"""Stands for the id of a part that the ISMG has taken without giving it one."""

_RANK: Final = {"accepted": 0, "retry": 1, "throttled": 2, "failed": 3, "unknown": 4}
"""What the whole is when its parts are answered differently: the worst. A message that may have
left in part is never sent again; one that is refused in part need not be."""

_log = structlog.get_logger(__name__)


class _Flight:
    """One submission whose parts are on their way."""

    __slots__ = ("delivery", "ids", "left", "worst")

    def __init__(self, delivery: str, ids: list[str]) -> None:
        self.delivery = delivery
        self.ids = ids
        self.left = ids.count("")
        self.worst = Answer("accepted")

    def note(self, answer: Answer) -> bool:
        """One part's answer. Whether it was the last."""
        if _RANK[answer.kind] > _RANK[self.worst.kind]:
            self.worst = answer
        self.left -= 1
        return self.left == 0


class CmppProvider:
    """One account at one ISMG."""

    resend = False

    def __init__(
        self,
        config: CmppConfig,
        sms_config: SmsConfig,
        events: Events,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        """`chance` draws the jitter of reconnecting. Raises ConfigError."""
        self._sms = _sms(sms_config)
        self._config = config
        self._events = events
        self._clock = clock
        self._chance = chance
        self._region = sms_config.region
        self._server = f"{config.host}:{config.port}"
        self._version = V20 if config.version == "2.0" else V30
        self._sessions: list[Session] = []
        """Those that have logged in."""
        self._keepers: list[asyncio.Task[None]] = []
        self._flights = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._link = Link(window=0)
        self._inbox = Inbox(config, self._sms, events, clock)

    # ---- for the account ---------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Never: receipts and customers come by the connection."""
        return False

    def prepare(self, delivery: Delivery) -> Prepared:
        """One SUBMIT for each segment. Raises Unsendable."""
        recipient, segmented = self._sms.prepare(delivery, concat=Concat.UDH8, codings=CODINGS)
        number = national(recipient, self._region)
        form = FORMATS[segmented.coding]
        parts = tuple(self._part(number, form, segment) for segment in segmented.segments)
        return Prepared(recipient, len(parts), parts)

    def _part(self, number: str, form: int, segment: Segment) -> Submit:
        config = self._config
        return Submit(
            pk_total=segment.total,
            pk_number=segment.number,
            registered_delivery=config.registered_delivery,
            msg_level=config.msg_level,
            service_id=config.service_id,
            fee_user_type=config.fee_user_type,
            fee_terminal_id=config.fee_terminal_id,
            tp_udhi=1 if segment.udh else 0,
            msg_fmt=form,
            msg_src=config.sp_id,
            fee_type=config.fee_type,
            fee_code=config.fee_code,
            src_id=config.src_id,
            dest_terminal_ids=(number,),
            content=segment.udh + segment.payload,
        )

    def start(self, _notes: Mapping[str, bytes]) -> None:
        """Connect, and stay connected."""
        self._keepers = [
            asyncio.create_task(self._keep(), name=f"cmpp-{number}")
            for number in range(self._config.connections)
        ]

    def submit(self, submission: Submission) -> None:
        """Write the parts that were not taken before, on the connection with the most room."""
        parts = submission.prepared.parts
        ids = list(submission.accepted) or [""] * len(parts)
        flight = _Flight(submission.delivery, ids)
        if not flight.left:
            self._soon(flight, Answer("accepted"))
            return
        if not self._sessions or self._stopping:
            self._soon(flight, Answer("retry", code=NOT_CONNECTED))
            return
        self._flights += 1
        self._idle.clear()
        until = ""
        if self._config.valid_time:
            latest_ms = self._clock.now_ms() + VALID_MS
            until = values.valid_time(min(submission.expires_ms, latest_ms))
        session = min(self._sessions, key=lambda one: one.load)
        for index, part in enumerate(parts):
            if not ids[index]:
                message = msgspec.structs.replace(part, valid_time=until)
                session.submit(message, (flight, index))

    def flush(self) -> None:
        """Write what was submitted, not at the end of the loop's pass."""
        for session in list(self._sessions):
            session.flush()

    async def callback(self, _request: Callback) -> Reply:
        """CMPP has none."""
        return Reply(404)

    async def stop(self, drain_s: float) -> None:
        """Wait for answers, say goodbye, disconnect. Safe to call twice."""
        self._stopping = True
        with contextlib.suppress(TimeoutError):  # what is left is answered `unknown` below
            async with asyncio.timeout(drain_s):
                await self._idle.wait()
        sessions = self._sessions[:]
        for session in sessions:
            session.terminate()
        if sessions:
            await asyncio.wait([session.closed for session in sessions], timeout=GOODBYE_S)
        for session in sessions:
            session.abort(LostError("the account was stopped"))
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()
        self._inbox.close()
        self._tell(Link(window=0, reason="stopped"))

    # ---- connections -------------------------------------------------------------------------

    async def _keep(self) -> None:
        """One connection after the other, until the account is stopped."""
        failures = 0
        while not self._stopping:
            loop = asyncio.get_running_loop()
            session = Session(self._config, self._version, self, self._clock, loop)
            error = await self._open(session)
            if error is None:
                failures = 0
                self._up(session)
                error = await asyncio.shield(session.closed)
                self._sessions.remove(session)
                if self._stopping:
                    return
            elif self._goes_down_to_2(error):
                continue
            self._down(error)
            failures += 1
            await asyncio.sleep(self._pause_s(failures, error))

    async def _open(self, session: Session) -> CmppError | None:
        """Connect and log in; what stood in the way, None when nothing did."""
        config = self._config
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(config.connect_timeout_s):
                await loop.create_connection(lambda: session, config.host, config.port)
                return await asyncio.shield(session.opened)
        except TimeoutError:
            error = LostError(f"no login at the ISMG within {config.connect_timeout_s:g} s")
        except (OSError, UnicodeError) as cause:
            error = LostError(f"no connection to the ISMG: {type(cause).__name__}")
        except asyncio.CancelledError:
            session.abort(LostError("the account was stopped"))
            raise
        session.abort(error)
        return error

    def _goes_down_to_2(self, error: CmppError) -> bool:
        """Whether the ISMG wants an older version, and may have it; remembered until the end."""
        if self._config.version != "auto" or error.facts.get("status") != VERSION_TOO_HIGH:
            return False
        before, self._version = self._version, V20
        return before != V20

    def _pause_s(self, failures: int, error: CmppError) -> float:
        """Doubling from the least to the most; what a person must settle waits the most."""
        config = self._config
        whole = config.reconnect_max_s
        if not error.facts.get("config"):
            whole = min(config.reconnect_min_s * 2 ** min(failures - 1, 30), whole)
        return whole * (0.5 + 0.5 * self._chance.random())

    def _up(self, session: Session) -> None:
        self._sessions.append(session)
        _log.info("cmpp.up", server=self._server, version=f"{session.version >> 4}.0")
        self.counted("connected")
        self._tell(Link(window=len(self._sessions) * self._config.window))

    def _down(self, error: CmppError) -> None:
        refused = isinstance(error, RefusedError)
        _log.warning("cmpp.down", server=self._server, reason=error.message, code=error.code)
        self.counted("refused" if refused else "disconnected")
        if self._sessions:  # others still work
            self._tell(Link(window=len(self._sessions) * self._config.window))
        else:
            config = bool(error.facts.get("config"))
            self._tell(Link(window=0, reason=error.message, config=config))

    def _tell(self, link: Link) -> None:
        if link != self._link:
            self._link = link
            self._events.link(link)

    # ---- what sessions tell ------------------------------------------------------------------

    def answered(self, token: Any, answer: SubmitResp | None) -> None:
        """Of one part."""
        flight, index = token
        if answer is None:
            self._note(flight, Answer("unknown", code=NO_ANSWER))
            return
        verdict = verdict_of(answer.result, self._config.results)
        if verdict.kind == "accepted":
            flight.ids[index] = str(answer.msg_id) if answer.msg_id else WITHOUT_ID
            if not answer.msg_id:
                self.counted("answer_without_id")
        elif not verdict.known:
            self.counted("unknown_result")
        self._note(flight, Answer(verdict.kind, failure=verdict.failure, code=verdict.code))

    def wanted(self, token: Any) -> bool:
        """A message of which one part is not taken goes no further."""
        return token[0].worst.kind == "accepted"

    def unsent(self, token: Any, error: CmppError) -> None:
        """One part has not left."""
        if isinstance(error, UnencodableError):
            answer = Answer("failed", failure="config", code=UNENCODABLE)
        else:
            answer = Answer("retry", code=NOT_SENT)
        self._note(token[0], answer)

    def _note(self, flight: _Flight, answer: Answer) -> None:
        if flight.note(answer):
            self._flights -= 1
            if not self._flights:
                self._idle.set()
            self._finish(flight)

    def _soon(self, flight: _Flight, answer: Answer) -> None:
        """Answer without the network, but not from within `submit`."""
        flight.worst = answer
        asyncio.get_running_loop().call_soon(self._finish, flight)

    def _finish(self, flight: _Flight) -> None:
        ids = tuple(flight.ids)
        receipts = len(ids) if self._config.registered_delivery else 0
        kind = flight.worst.kind
        pause_ms = round(self._config.throttle_pause_s * 1000)
        answer = msgspec.structs.replace(
            flight.worst,
            provider_ids=ids,
            receipts=receipts if kind == "accepted" else 0,
            retry_after_ms=pause_ms if kind == "throttled" else None,
        )
        self._events.answered(flight.delivery, answer)

    def counted(self, what: str) -> None:
        """One more of it in `tact_provider_total`."""
        self._events.counted(METRIC, what)

    def delivered(self, session: Session, sequence: int, deliver: Deliver) -> None:
        """A status report or a customer's message."""
        self._inbox.take(session, sequence, deliver)


def check(config: CmppConfig, sms_config: SmsConfig) -> None:
    """What the types of a configuration cannot say. Raises ConfigError, which names the key."""
    _sms(sms_config)
    if config.reconnect_max_s < config.reconnect_min_s:
        raise ConfigError(
            "reconnect_max_s: must not be below reconnect_min_s", key="reconnect_max_s"
        )
    for result in config.results:
        if not (result.isascii() and result.isdecimal() and result == str(int(result)) != "0"):
            raise ConfigError('results: write numbers above 0 as "132"', key="results")
    for stat in config.stats:
        if not stat or stat != stat.strip().upper() or len(stat) > STAT_CHARS:
            raise ConfigError('stats: write them in capitals, as "MK" or "MK:0005"', key="stats")


def _sms(config: SmsConfig) -> Sms:
    return Sms(config, codings=FORMATS, concats=(Concat.UDH8, Concat.UDH16))
