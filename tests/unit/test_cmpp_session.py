"""A CMPP session in virtual time: when it tests the line, gives up, and stops reading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from channels.sms.cmpp import messages as cmpp
from channels.sms.cmpp.config import CmppConfig
from channels.sms.cmpp.messages import Command
from channels.sms.cmpp.session import UNSTORED, Session
from hub.clock import SystemClock
from tests.support.cmpp import Owner, Wire, welcome
from tests.support.virtual_loop import VirtualLoop

CONFIG = CmppConfig(host="h", sp_id="900001", secret="888888")
"""C 180 s, T 60 s, N 3."""
SUBMIT = cmpp.Submit(dest_terminal_ids=("13800138000",))

Scenario = Callable[[Session, Wire, Owner], Coroutine[Any, Any, None]]


def play(scenario: Scenario, *, stores: bool = True, config: CmppConfig = CONFIG) -> None:
    """A session that has logged in at 0 s."""

    async def main() -> None:
        owner = Owner(stores=stores)
        session = Session(config, cmpp.V30, owner, SystemClock(), asyncio.get_running_loop())
        wire = Wire(session)
        await asyncio.sleep(0)
        session.data_received(welcome(wire))
        await scenario(session, wire, owner)
        wire.abort()
        await session.closed

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


async def to(second: float) -> None:
    """Let time pass up to shortly after it."""
    await asyncio.sleep(second + 0.01 - asyncio.get_running_loop().time())


def commands(wire: Wire) -> list[int]:
    return [frame.command for frame in wire.said()]


def test_an_idle_line_is_tested_and_given_up() -> None:
    async def scenario(session: Session, wire: Wire, _owner: Owner) -> None:
        await to(179)
        assert commands(wire) == []
        await to(180)
        assert commands(wire) == [Command.ACTIVE_TEST]
        await to(240)
        assert commands(wire) == [Command.ACTIVE_TEST]
        await to(300)
        assert commands(wire) == [Command.ACTIVE_TEST]
        await to(359)
        assert wire.open
        await to(360)
        assert not wire.open
        assert "silent" in session.closed.result().message

    play(scenario)


def test_an_answered_test_begins_the_wait_anew() -> None:
    async def scenario(_session: Session, wire: Wire, _owner: Owner) -> None:
        for round_s in (180, 371, 562, 753):
            await to(round_s)
            (test,) = wire.said()
            await to(round_s + 10)
            wire.hear(cmpp.ActiveTestResp(), test.sequence)
        assert wire.open

    play(scenario)


def test_submits_without_answers_on_a_line_that_lives() -> None:
    """However many: as long as tests are answered the ISMG is there."""

    async def scenario(session: Session, wire: Wire, owner: Owner) -> None:
        for number in range(5):
            start = asyncio.get_running_loop().time()
            session.submit(SUBMIT, number)
            await to(start + 59)
            assert commands(wire) == [Command.SUBMIT]
            await to(start + 60)
            (test,) = wire.said()
            assert test.command == Command.ACTIVE_TEST
            wire.hear(cmpp.ActiveTestResp(), test.sequence)
        assert wire.open
        assert [token for _, token in owner.unanswered] == [0, 1, 2, 3, 4]

    play(scenario)


def test_the_window_is_kept() -> None:
    async def scenario(session: Session, wire: Wire, owner: Owner) -> None:
        for number in range(40):
            session.submit(SUBMIT, number)
        await to(1)
        sent = wire.said()
        assert len(sent) == 16
        for frame in sent[:3]:
            wire.hear(cmpp.SubmitResp(frame.sequence), frame.sequence)
        await to(2)
        assert len(wire.said()) == 3
        assert session.load == 37
        assert list(owner.back) == [0, 1, 2]

    play(scenario)


def test_reading_stops_and_goes_on_and_no_time_runs_out_between() -> None:
    async def scenario(session: Session, wire: Wire, owner: Owner) -> None:
        session.submit(SUBMIT, "one")
        for number in range(UNSTORED + 10):
            wire.hear(cmpp.Deliver(number), number)
        assert len(owner.delivers) == UNSTORED
        assert not wire.reading
        await to(1_000)  # far beyond T, C and N: we do not listen, so silence means nothing
        assert wire.open
        assert not owner.unanswered
        for _ in range(UNSTORED // 2 - 1):
            session.settle()
        await to(1_030)
        assert not wire.reading
        session.settle()
        await to(1_031)
        assert wire.reading
        assert len(owner.delivers) == UNSTORED + 10
        await to(1_089)
        assert not owner.unanswered
        await to(1_090)
        assert [token for _, token in owner.unanswered] == ["one"]

    play(scenario, stores=False)


def test_what_the_socket_does_not_take_has_not_left() -> None:
    class Later(Owner):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[Any] = []

        def unsent(self, token: Any, error: Exception) -> None:
            self.kept.append(token)

    async def main() -> None:
        owner = Later()
        session = Session(CONFIG, cmpp.V30, owner, SystemClock(), asyncio.get_running_loop())
        wire = Wire(session)
        await asyncio.sleep(0)
        session.data_received(welcome(wire))
        session.pause_writing()
        session.submit(SUBMIT, "blocked")
        await to(1)
        assert wire.said() == []
        wire.abort()
        await session.closed
        assert owner.kept == ["blocked"]
        assert not owner.unanswered
        session.submit(SUBMIT, "late")
        await to(2)
        assert owner.kept == ["blocked", "late"]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_an_ismg_that_asks_and_does_not_read() -> None:
    async def scenario(session: Session, wire: Wire, _owner: Owner) -> None:
        session.pause_writing()
        for number in range(1_100):
            if wire.open:
                wire.hear(cmpp.ActiveTest(), number)
        assert not wire.open
        assert "does not read" in session.closed.result().message

    play(scenario)
