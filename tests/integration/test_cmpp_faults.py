"""A CMPP account at an ISMG that does what no ISMG should."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from channels.sms.cmpp import messages as cmpp
from channels.sms.cmpp import values
from channels.sms.cmpp.pdu import PDU_BYTES, Frame, decode, encode
from channels.sms.cmpp.session import UNSTORED, LostError, RefusedError
from hub.clock import SystemClock
from tests.support.cmpp import (
    Rough,
    Told,
    account,
    answering,
    header,
    rough,
    submission,
    until,
)

Command = cmpp.Command
LONG = "尊敬的客户，您的订单已经发货。" * 10


@pytest.mark.parametrize(
    ("how", "config", "words"),
    [
        ({"status": 3}, True, "secret"),
        ({"status": 2}, True, "sp_id"),
        ({"status": 4}, True, "version"),
        ({"status": 5}, False, "reason"),
        ({"status": 77}, False, "77"),
        ({"secret": "wrong"}, True, "secret"),
    ],
)
async def test_a_login_that_fails(how: dict[str, object], config: bool, words: str) -> None:
    told = Told()
    async with rough(**how) as server, account(server.port, told):
        await until(lambda: len(server.connections) > 2)  # it goes on trying
    assert told.links[0].window == 0
    assert told.links[0].config == config
    assert words in told.links[0].reason
    assert told.counts["refused"] >= 1


async def test_an_ismg_that_cannot_prove_itself_may_be_allowed() -> None:
    told = Told()
    async with rough(secret="wrong") as server, account(server.port, told, verify_ismg=False):
        await until(lambda: told.up)


async def test_a_proof_with_a_status_of_one_byte() -> None:
    told = Told()
    async with rough(form=cmpp.V20) as server, account(server.port, told):
        await until(lambda: told.up)


async def test_nobody_listens_and_then_somebody_does() -> None:
    told = Told()
    async with rough() as server:
        port = server.port
    async with account(port, told) as provider:
        await until(lambda: told.links)
        assert (told.links[0].window, told.links[0].config) == (0, False)
        provider.submit(submission(provider))
        await until(lambda: told.answers)
        assert (told.answer.kind, told.answer.code) == ("retry", "CMPP_NOT_CONNECTED")


async def test_an_ismg_that_never_answers_the_login() -> None:
    async def silence(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    told = Told()
    port = server.sockets[0].getsockname()[1]
    async with account(port, told, connect_timeout_s=0.05):
        await until(lambda: told.links)
        assert "no login" in told.links[0].reason
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        header(PDU_BYTES + 1, Command.CONNECT_RESP, 1),
        header(13, Command.CONNECT_RESP, 1) + b"\0",
        header(12, Command.ACTIVE_TEST, 1),
    ],
)
async def test_something_else_than_an_ismg(first: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    told = Told()
    async with account(server.sockets[0].getsockname()[1], told):
        await until(lambda: told.links)
        assert told.links[0].window == 0
    server.close()
    await server.wait_closed()


def wrong(octets: bytes, connection: Rough, frame: Frame) -> None:
    """Says something before the right answer."""
    connection.write(octets)
    connection.say(cmpp.SubmitResp(7), frame.sequence)


@pytest.mark.parametrize(
    ("octets", "counted"),
    [
        (header(12, 0x99, 5), "unknown_command"),
        (header(12, Command.SUBMIT, 5), "malformed"),
        (header(13, Command.DELIVER, 5) + b"x", "malformed"),
        (encode(cmpp.Connect(), 5, cmpp.V30), "unexpected_command"),
        (encode(cmpp.SubmitResp(9), 999, cmpp.V30), "unknown_sequence"),
        (encode(cmpp.ActiveTestResp(), 999, cmpp.V30), "unknown_sequence"),
    ],
)
async def test_what_can_be_passed_over(octets: bytes, counted: str) -> None:
    told = Told()
    async with (
        rough(answering(partial(wrong, octets))) as server,
        account(server.port, told) as provider,
    ):
        await until(lambda: told.up)
        provider.submit(submission(provider))
        await until(lambda: told.answers)
        assert told.answer.provider_ids == ("7",)
        assert told.counts[counted] == 1
        assert told.up
        if octets[4:8] == Command.DELIVER.to_bytes(4, "big"):
            await until(lambda: server.results() == [1])


@pytest.mark.parametrize(
    "octets",
    [
        header(PDU_BYTES + 1, Command.DELIVER, 5),
        header(0, 0, 0),
        header(200, Command.DELIVER, 5) + b"the connection ends in the middle",
    ],
)
async def test_what_ends_the_connection_leaves_what_was_sent_unknown(octets: bytes) -> None:
    def break_off(connection: Rough, _frame: Frame) -> None:
        connection.write(octets)
        connection.close()

    told = Told()
    async with (
        rough(answering(break_off)) as server,
        account(server.port, told) as provider,
    ):
        await until(lambda: told.up)
        provider.submit(submission(provider))
        await until(lambda: len(told.links) == 3)
        assert told.answer.kind == "unknown"
        assert told.answer.provider_ids == ("",)
        assert [link.window for link in told.links] == [16, 0, 16]  # and it is back
        assert len(server.submits()) == 1  # never repeated


async def test_answers_in_pieces_and_twice() -> None:
    def dribble(connection: Rough, frame: Frame) -> None:
        octets = encode(cmpp.SubmitResp(7), frame.sequence, cmpp.V30) * 2
        loop = asyncio.get_running_loop()
        for place in range(0, len(octets), 5):
            piece = octets[place : place + 5]
            loop.call_later(place * 0.0005, connection.write, piece)

    told = Told()
    async with (
        rough(answering(dribble)) as server,
        account(server.port, told) as provider,
    ):
        await until(lambda: told.up)
        provider.submit(submission(provider))
        await until(lambda: told.counts["unknown_sequence"])
        assert told.answer.kind == "accepted"


async def test_no_answer_is_unknown_and_the_link_lives_on() -> None:
    """Only the SUBMIT is not answered; the ISMG answers that it is there."""
    told = Told()
    async with (
        rough(answering(lambda _c, _f: None)) as server,
        account(server.port, told, response_timeout_s=0.05) as provider,
    ):
        await until(lambda: told.up)
        provider.submit(submission(provider))
        await until(lambda: any(f.command == Command.ACTIVE_TEST for f in server.frames))
        assert (told.answer.kind, told.answer.code) == ("unknown", "CMPP_NO_ANSWER")
        assert told.up
        assert len(server.submits()) == 1
        server.connections[0].say(cmpp.SubmitResp(7), server.frames[1].sequence)  # too late
        await until(lambda: told.counts["unknown_sequence"])
        assert len(told.answers) == 1


async def test_an_active_test_that_is_not_answered_ends_the_connection() -> None:
    told = Told()
    async with (
        rough(answering(tests=False)) as server,
        account(server.port, told, active_test_s=0.02, response_timeout_s=0.02, tries=3),
    ):
        await until(lambda: len(told.links) >= 2)
        tests = [f for f in server.frames if f.command == Command.ACTIVE_TEST]
        assert len(tests) >= 3
        assert "silent" in told.links[1].reason
        await until(lambda: len(server.connections) == 2)


async def test_our_active_test_and_theirs() -> None:
    told = Told()
    async with rough() as server, account(server.port, told, active_test_s=0.02):
        await until(lambda: sum(f.command == Command.ACTIVE_TEST for f in server.frames) > 2)
        server.connections[0].say(cmpp.ActiveTest(), 77)
        answer = (Command.ACTIVE_TEST_RESP, 77, b"\0")
        await until(lambda: any(tuple(frame) == answer for frame in server.frames))
        assert told.up


async def test_flow_control_in_the_middle_keeps_what_was_taken() -> None:
    """Of three parts the second is refused: the third stays here, and later only two go out."""
    results = iter([0, 8, 0, 0])
    ids = iter(range(100, 200))

    def second(connection: Rough, frame: Frame) -> None:
        result = next(results)
        connection.say(cmpp.SubmitResp(0 if result else next(ids), result), frame.sequence)

    told = Told()
    async with (
        rough(answering(second)) as server,
        account(server.port, told, window=1) as provider,
    ):
        await until(lambda: told.up)
        provider.submit(submission(provider, LONG))
        await until(lambda: told.answers)
        assert told.answer.kind == "throttled"
        assert told.answer.provider_ids == ("100", "", "")
        assert len(server.submits()) == 2
        provider.submit(submission(provider, LONG, accepted=told.answer.provider_ids))
        await until(lambda: len(told.answers) == 2)
        again = told.answers[1][1]
        assert (again.kind, again.provider_ids) == ("accepted", ("100", "101", "102"))
        assert again.receipts == 3
        assert [submit.pk_number for submit in server.submits()] == [1, 2, 2, 3]


async def test_a_part_without_an_answer_makes_the_whole_unknown() -> None:
    sequence = iter([True, False, True])

    def middle(connection: Rough, frame: Frame) -> None:
        if next(sequence):
            connection.say(cmpp.SubmitResp(frame.sequence), frame.sequence)

    told = Told()
    async with (
        rough(answering(middle)) as server,
        account(server.port, told, response_timeout_s=0.05) as provider,
    ):
        await until(lambda: told.up)
        provider.submit(submission(provider, LONG))
        await until(lambda: told.answers)
        assert told.answer.kind == "unknown"
        assert [bool(name) for name in told.answer.provider_ids] == [True, False, True]


async def test_what_never_left_may_go_again() -> None:
    """The window has room for one: the other is still here when the connection ends."""
    told = Told()
    async with (
        rough(answering(lambda connection, _frame: connection.close())) as server,
        account(server.port, told, window=1) as provider,
    ):
        await until(lambda: told.up)
        provider.submit(submission(provider, name="first"))
        provider.submit(submission(provider, name="second"))
        await until(lambda: len(told.answers) == 2)
        kinds = {name: answer.kind for name, answer in told.answers}
        assert kinds == {"first": "unknown", "second": "retry"}
        assert len(server.submits()) == 1


async def test_a_receipt_for_an_id_that_nobody_knows_is_told_all_the_same() -> None:
    told, before = Told(), SystemClock().now_ms()
    minute = values.minute_text(before)
    async with rough() as server, account(server.port, told):
        await until(lambda: told.up)
        for form, stat, done in (
            (cmpp.V20, "MB:0012", "9999999999"),
            (cmpp.V30, "EXPIRED", "2001010000"),
            (cmpp.V30, "DELIVRD", minute),
        ):
            report = values.Report(42, stat, "2611220930", done, "13800138000")
            content = values.encode_report(report, form)
            deliver = cmpp.Deliver(1, registered_delivery=1, content=content)
            server.connections[0].say(deliver, 5)
        broken = cmpp.Deliver(1, registered_delivery=1, content=b"id:1 stat:DELIVRD")
        server.connections[0].say(broken, 6)
        await until(lambda: len(server.results()) == 4)
        assert [(r.provider_id, r.status, r.failure, r.code) for r in told.receipts] == [
            ("42", "unknown", None, "MB:0012"),
            ("42", "failed", "expired", "EXPIRED"),
            ("42", "delivered", None, "DELIVRD"),
        ]
        # Done_times that cannot be are the clock of the ISMG: ours counts then.
        assert all(receipt.at_ms >= before for receipt in told.receipts[:2])
        assert told.receipts[2].at_ms == values.minute_ms(minute)
        assert server.results() == [0, 0, 0, 1]
        assert told.counts["receipt_unreadable"] == 1


async def test_reading_stops_while_too_much_is_not_stored() -> None:
    """DELIVERs beyond any window: taken up to a bound, the rest left to TCP, none lost."""
    told = Told(stores=False)
    async with rough() as server, account(server.port, told) as provider:
        await until(lambda: told.up)
        for number in range(1, 1001):
            server.connections[0].say(
                cmpp.Deliver(number, src_terminal_id="13800138000", content=b"hello"), number
            )
        await until(lambda: told.counts["reading_held"])
        assert len(told.inbounds) == UNSTORED
        provider.submit(submission(provider))  # writing goes on
        await until(server.submits)
        for _ in range(1000):
            await until(lambda: told.stored)
            told.stored.pop()(True)
        await until(lambda: len(server.results()) == 1000 and told.answers)
    assert [int(inbound.id) for inbound in told.inbounds] == list(range(1, 1001))
    assert told.answer.kind == "accepted"


async def test_the_ismg_says_goodbye() -> None:
    told = Told()
    async with rough() as server, account(server.port, told):
        await until(lambda: told.up)
        server.connections[0].say(cmpp.Terminate(), 9)
        answer = (Command.TERMINATE_RESP, 9, b"")
        await until(lambda: any(tuple(frame) == answer for frame in server.frames))
        await until(lambda: [link.window for link in told.links] == [16, 0, 16])


async def test_stopping_waits_for_answers_and_gives_the_rest_up() -> None:
    held: list[tuple[Rough, Frame]] = []

    def hold(connection: Rough, frame: Frame) -> None:
        held.append((connection, frame))

    told = Told()
    async with rough(answering(hold)) as server, account(server.port, told) as provider:
        await until(lambda: told.up)
        provider.submit(submission(provider, name="answered"))
        await until(lambda: held)
        stopping = asyncio.create_task(provider.stop(30))
        await until(lambda: provider._stopping)
        provider.submit(submission(provider, name="late"))
        await until(lambda: told.answers)
        held[0][0].say(cmpp.SubmitResp(7), held[0][1].sequence)
        await stopping
        kinds = {name: answer.kind for name, answer in told.answers}
        assert kinds == {"late": "retry", "answered": "accepted"}
        assert any(frame.command == Command.TERMINATE for frame in server.frames)
        assert told.links[-1].window == 0

    told = Told()
    async with rough(answering(hold, goodbyes=True)) as server:
        async with account(server.port, told) as provider:
            await until(lambda: told.up)
            provider.submit(submission(provider))
            await until(lambda: len(held) == 2)
        assert told.answer.kind == "unknown"


async def test_a_refusal_that_a_person_must_settle_is_not_tried_often() -> None:
    async with (
        rough() as server,
        account(server.port, Told(), reconnect_min_s=1, reconnect_max_s=64) as provider,
    ):
        config = RefusedError("no", status=3, config=True)
        lost = LostError("gone")
        assert 32 <= provider._pause_s(1, config) <= 64
        for failures, most in ((1, 1), (2, 2), (5, 16), (7, 64), (1000, 64)):
            assert most / 2 <= provider._pause_s(failures, lost) <= most


async def test_no_secret_and_no_customer_is_shown() -> None:
    told = Told()
    async with rough(secret="wrong") as server, account(server.port, told) as provider:
        await until(lambda: told.links)
        prepared = submission(provider, "密语").prepared
        shown = f"{told.links} {provider._config!r} {prepared.parts!r}"
        for word in ("888888", "密语", "13800138000"):
            assert word not in shown
        connect = decode(server.frames[0], cmpp.V30)
        assert "900001" not in repr(connect)
