"""One bind and a centre that does what it should not: each test one fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from channels.provider import Stored
from channels.sms.smpp import session
from channels.sms.smpp.codec import encode, header
from channels.sms.smpp.pdu import (
    PDU_BYTES_MAX,
    RESPONSE,
    BindResp,
    Command,
    Message,
    MessageResp,
    Plain,
)
from channels.sms.smpp.provider import SmppProvider
from channels.sms.smpp.status import Status
from tests.support.smpp import (
    Account,
    Centre,
    account_at,
    centre,
    config,
    delivery,
    send,
    submission,
)

RECEIPT = Message(
    command=Command.DELIVER_SM,
    sequence=1,
    source="8613800138000",
    dest="10690001",
    esm_class=0x04,
    short_message=b"id:m1 stat:DELIVRD err:000",
)
WRITTEN = msgspec.structs.replace(RECEIPT, esm_class=0, short_message=b"hello")


@asynccontextmanager
async def bound(**changes: Any) -> AsyncIterator[tuple[SmppProvider, Account, Centre]]:
    """A provider, its account, and the other end of its one bind."""
    async with (
        centre() as (port, next_one),
        account_at(port, **({"reconnect_min_s": 600, "reconnect_max_s": 600} | changes)) as (
            provider,
            account,
        ),
    ):
        other = await next_one()
        await other.admit()
        await account.up()
        yield provider, account, other
        other.close()  # it would not answer the unbind


@pytest.mark.parametrize(
    ("status", "config"),
    [(Status.RINVPASWD, True), (Status.RINVSYSID, True), (Status.RBINDFAIL, True),
     (Status.RALYBND, True), (Status.RSYSERR, False), (Status.RTHROTTLED, False)],
)  # fmt: skip
async def test_a_refused_bind(status: Status, config: bool) -> None:
    async with (
        centre() as (port, next_one),
        account_at(port, reconnect_min_s=600, reconnect_max_s=600) as (_, account),
    ):
        other = await next_one()
        bind = await other.read()
        # as most centres do: an answer without a body
        other.write(header(bind.command | RESPONSE, status, bind.sequence, 0))
        await account.until(lambda: account.links)
        link = account.links[-1]
        assert (link.window, link.config) == (0, config)
        assert link.reason == f"the bind was refused: ESME_{status.name}"
        await other.gone()


@pytest.mark.parametrize(
    "answer", [None, b"\0\0\0\x10\x80\0\0\0\0\0\0\x0e\0\0\0\1", b"HTTP/1.1 400"]
)
async def test_a_bind_that_gets_no_answer_of_sense(answer: bytes | None) -> None:
    async with (
        centre() as (port, next_one),
        account_at(port, connect_timeout_s=0.1, reconnect_min_s=600, reconnect_max_s=600) as (
            _,
            account,
        ),
    ):
        other = await next_one()
        await other.read()
        if answer:
            other.write(answer)
        await account.until(lambda: account.links)
        assert account.links[-1].window == 0
        await other.gone()


async def test_no_answer_is_unknown_and_a_late_one_changes_nothing() -> None:
    async with bound(response_timeout_s=0.1, enquire_link_s=60) as (provider, account, other):
        send(provider)
        message = await other.read(Message)
        await account.until(lambda: account.answers)
        assert account.answers["d-1"].kind == "unknown"
        other.accept(message)
        await account.until(lambda: account.counts["unexpected_answer"])


async def test_a_centre_that_stops_answering_loses_the_connection() -> None:
    async with bound(response_timeout_s=0.1, enquire_link_s=60) as (provider, account, other):
        for number in range(session.SILENT_MAX + 2):
            send(provider, f"d-{number}")
        await other.gone()
        await account.until(lambda: len(account.answers) == session.SILENT_MAX + 2)
        assert {answer.kind for answer in account.answers.values()} == {"unknown"}
        assert account.links[-1].window == 0


async def test_a_silent_centre_is_asked_and_dropped() -> None:
    async with bound(enquire_link_s=0.05, response_timeout_s=0.2) as (_, account, other):
        asked = await other.read(Plain)
        assert asked.command == Command.ENQUIRE_LINK
        other.write(Plain(command=Command.ENQUIRE_LINK_RESP, status=0, sequence=asked.sequence))
        await other.read(Plain)
        await account.until(lambda: account.links[-1].window == 0)
        assert account.links[-1].reason == "the other side is silent"


async def test_an_answer_twice_and_one_that_nobody_asked_for() -> None:
    async with bound() as (provider, account, other):
        send(provider)
        message = await other.read(Message)
        other.accept(message)
        other.accept(message, "m2")
        other.write(MessageResp(command=Command.SUBMIT_SM_RESP, status=0, sequence=999))
        other.write(BindResp(command=Command.BIND_TRANSCEIVER_RESP, status=0, sequence=1))
        await account.until(lambda: account.counts["unexpected_answer"] == 3)
        assert account.answers["d-1"].provider_ids == ("m1",)


async def test_a_generic_nack_refuses_the_submission_it_names() -> None:
    async with bound() as (provider, account, other):
        send(provider)
        message = await other.read(Message)
        other.write(header(Command.GENERIC_NACK, Status.RTHROTTLED, message.sequence, 0))
        other.write(header(Command.GENERIC_NACK, Status.RINVCMDID, 4711, 0))
        await account.until(lambda: account.answers and account.counts["unexpected_answer"])
        assert account.answers["d-1"].kind == "throttled"


async def test_an_answer_without_an_id_is_taken_all_the_same() -> None:
    async with bound() as (provider, account, other):
        send(provider)
        other.accept(await other.read(Message), "")
        await account.until(lambda: account.answers)
        assert account.answers["d-1"].kind == "accepted"
        assert account.answers["d-1"].provider_ids == ("-",)


async def test_an_answer_that_cannot_be_read_is_unknown() -> None:
    async with bound() as (provider, account, other):
        send(provider)
        message = await other.read(Message)
        body = b"x" * 300  # an id without end
        other.write(header(Command.SUBMIT_SM_RESP, 0, message.sequence, len(body)) + body)
        await account.until(lambda: account.answers)
        assert account.answers["d-1"].kind == "unknown"


async def test_statuses_of_a_vendor() -> None:
    async with bound(statuses={"0x0400": "throttled"}) as (provider, account, other):
        for number, status in enumerate((0x400, 0x401, Status.RINVDSTADR)):
            send(provider, f"d-{number}")
            other.accept(await other.read(Message), status=status)
        await account.until(lambda: len(account.answers) == 3)
        told = [(one.kind, one.failure, one.code) for one in account.answers.values()]
        assert told == [
            ("throttled", None, "0x00000400"),
            ("failed", "provider", "0x00000401"),
            ("failed", "dead_address", "ESME_RINVDSTADR"),
        ]
        assert account.counts["unknown_status"] == 1


async def test_a_connection_lost_after_the_write_is_unknown() -> None:
    async with bound() as (provider, account, other):
        send(provider)
        await other.read(Message)
        other.write(encode(RECEIPT)[:20])  # in the middle of a PDU
        other.close()
        await account.until(lambda: account.answers and not account.links[-1].window)
        assert account.answers["d-1"].kind == "unknown"
        assert account.receipts == []


async def test_parts_that_never_left_are_for_another_try_unless_one_is_unknown() -> None:
    async with bound(window=2) as (provider, account, other):
        prepared = provider.prepare(delivery(text="x" * 500))
        assert prepared.units == 4
        provider.submit(submission(prepared))
        first = await other.read(Message)
        second = await other.read(Message)
        other.accept(first, "m1")
        other.write(header(Command.SUBMIT_SM_RESP, Status.RSYSERR, second.sequence, 0))
        third = await other.read(Message)  # left before the refusal came
        other.accept(third, "m3")
        await account.until(lambda: account.answers)
        answer = account.answers["d-1"]
        assert (answer.kind, answer.code) == ("retry", "ESME_RSYSERR")
        assert answer.provider_ids == ("m1", "", "m3", "")

        provider.submit(submission(prepared, "again", answer.provider_ids))
        again = [await other.read(Message), await other.read(Message)]
        assert [one.short_message[:6] for one in again] == [
            second.short_message[:6],
            second.short_message[:5] + b"\4",
        ]
        other.accept(again[0], "m2")
        other.close()
        await account.until(lambda: "again" in account.answers)
        assert account.answers["again"].kind == "unknown"
        assert account.answers["again"].provider_ids == ("m1", "m2", "m3", "")


async def test_a_malformed_message_gets_its_status_and_the_rest_goes_on() -> None:
    async with bound() as (_, account, other):
        octets = bytearray(encode(RECEIPT))
        octets[octets.index(b"id:m1") - 1] = 255  # sm_length
        other.write(bytes(octets))
        answer = await other.read()
        assert (answer.command, answer.status) == (Command.DELIVER_SM_RESP, Status.RINVMSGLEN)
        other.write(header(0x77, 0, 5, 0))
        answer = await other.read()
        assert (answer.command, answer.status, answer.sequence) == (
            Command.GENERIC_NACK,
            Status.RINVCMDID,
            5,
        )
        other.write(msgspec.structs.replace(WRITTEN, command=Command.SUBMIT_SM))
        assert (await other.read()).status == Status.RINVBNDSTS
        other.write(header(Command.ENQUIRE_LINK, 0, 6, 0))
        assert (await other.read()).command == Command.ENQUIRE_LINK_RESP
        other.write(RECEIPT)
        assert (await other.read()).status == Status.ROK
        assert len(account.receipts) == 1
        assert account.counts["bad_pdu"] == 2


@pytest.mark.parametrize("length", [4, PDU_BYTES_MAX + 1, 0x48545450])
async def test_a_length_out_of_bounds_ends_the_connection(length: int) -> None:
    async with bound() as (_, account, other):
        other.write(length.to_bytes(4, "big") + encode(RECEIPT)[4:])
        nack = await other.read(Plain)
        assert (nack.command, nack.status) == (Command.GENERIC_NACK, Status.RINVCMDLEN)
        await other.gone()
        await account.until(lambda: not account.links[-1].window)
        assert account.links[-1].reason == "the other side sent what is no SMPP"


async def test_a_receipt_in_single_octets() -> None:
    async with bound() as (_, account, other):
        for octet in encode(RECEIPT):
            other.write(bytes((octet,)))
            await other.flushed()
        assert (await other.read()).status == Status.ROK
        assert account.receipts[0].provider_id == "m1"


@pytest.mark.parametrize(
    "changes",
    [
        {"short_message": b"no id in it"},
        {"short_message": b""},
        {"esm_class": 0x08},
        {"esm_class": 0x10, "short_message": b"\xff\xff"},
    ],
)
async def test_what_reports_on_nothing_is_confirmed_and_counted(changes: dict[str, Any]) -> None:
    async with bound() as (_, account, other):
        other.write(msgspec.structs.replace(RECEIPT, **changes))
        assert (await other.read()).status == Status.ROK
        assert not account.receipts and not account.inbound_messages
        assert account.counts.total() == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"short_message": b""}, ""),
        ({"short_message": b"\xff"}, "\ufffd"),
        ({"short_message": b"\x00\x1be"}, "@€"),
        ({"data_coding": 3, "short_message": b"\xe9"}, "é"),
        ({"data_coding": 8, "short_message": b"\x4f\x60\x59"}, "你\ufffd"),
        ({"data_coding": 0xF0}, "hello"),
        ({"data_coding": 0x18, "short_message": b"\x4f\x60"}, "你"),
        ({"esm_class": 0x40, "short_message": b"\5\0\3\1\2"}, "é@¥£$"),
        ({"esm_class": 0x40, "short_message": b"\5\0\3\1\2\3hi"}, "hi"),
        ({"tlvs": {0x424: b"payload"}, "short_message": b""}, "payload"),
        ({"command": Command.DATA_SM, "tlvs": {0x424: b"data"}, "short_message": b""}, "data"),
    ],
)
async def test_customers_texts_of_every_kind(changes: dict[str, Any], text: str) -> None:
    async with bound() as (_, account, other):
        other.write(msgspec.structs.replace(WRITTEN, **changes))
        assert (await other.read()).status == Status.ROK
        assert account.inbound_messages[0].content == {"text": text}
        assert account.inbound_messages[0].sender == "+8613800138000"


async def test_parts_are_confirmed_with_the_whole_and_not_before() -> None:
    async with bound() as (_, account, other):
        for number in (2, 1):
            other.write(
                msgspec.structs.replace(
                    WRITTEN,
                    sequence=number,
                    esm_class=0x40,
                    short_message=b"\5\0\3\7\2" + bytes((number,)) + b"part %d " % number,
                )
            )
            other.write(header(Command.ENQUIRE_LINK, 0, 100 + number, 0))
        answers = [await other.read() for _ in range(4)]
        assert [answer.sequence for answer in answers] == [102, 2, 1, 101]
        assert account.inbound_messages[0].content == {"text": "part 1 part 2 "}


async def test_too_much_that_is_not_stored_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "UNSTORED_MAX", 5)
    async with bound(response_timeout_s=0.1, enquire_link_s=60) as (provider, account, other):
        waiting: list[Stored] = []
        account.storing = waiting.append
        send(provider)
        message = await other.read(Message)
        for sequence in range(1, 21):
            other.write(msgspec.structs.replace(RECEIPT, sequence=sequence))
        other.accept(message)
        await account.until(lambda: account.counts["reading_paused"])
        assert len(waiting) == 5
        # the answer is in the socket, unread: it is not late for that
        while len(account.receipts) < 20 or not account.answers:
            await account.until(lambda: waiting)
            waiting.pop(0)(True)
        confirmed = [(await other.read()).sequence for _ in range(15)]
        assert confirmed == list(range(1, 16))
        assert account.answers["d-1"].kind == "accepted"


async def test_the_other_side_unbinds() -> None:
    async with bound() as (provider, account, other):
        send(provider)
        message = await other.read(Message)
        other.write(header(Command.UNBIND, 0, 9, 0))
        assert (await other.read()).command == Command.UNBIND_RESP
        send(provider, "after")
        other.accept(message)  # what is under way is still answered
        await other.gone()
        await account.until(lambda: len(account.answers) == 2 and not account.links[-1].window)
        kinds = {name: answer.kind for name, answer in account.answers.items()}
        assert kinds == {"d-1": "accepted", "after": "retry"}
        assert account.links[-1].reason == "the other side unbound"


async def test_a_part_that_never_left_goes_by_the_other_bind() -> None:
    async with (
        centre() as (port, next_one),
        account_at(port, binds=2, window=1, reconnect_min_s=600, reconnect_max_s=600) as (
            provider,
            account,
        ),
    ):
        one, two = await next_one(), await next_one()
        await one.admit()
        await two.admit()
        await account.until(lambda: account.links and account.links[-1].window == 2)
        send(provider, text="x" * 400)  # three parts: two are written, one waits
        first, second = await one.read(Message), await two.read(Message)
        one.accept(first, "a")
        third = await one.read(Message)
        two.accept(second, "b")
        one.accept(third, "c")
        await account.until(lambda: account.answers)
        assert account.answers["d-1"].kind == "accepted"
        assert sorted(account.answers["d-1"].provider_ids) == ["a", "b", "c"]
        two.close()
        await account.until(lambda: account.links[-1].window == 1)
        send(provider, "rest")
        one.accept(await one.read(Message))
        await account.until(lambda: "rest" in account.answers)
        one.close()


class Pipe(asyncio.Transport):
    """A transport that takes nothing once it is full."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (1, 0)

    def write(self, data: Any) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


class Owner:
    """Keeps what a session tells."""

    def __init__(self) -> None:
        self.lost: list[tuple[Any, bool]] = []

    def unanswered(self, session: Any, ticket: Any, *, written: bool, reason: str) -> None:
        self.lost.append((ticket, written))

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


async def piped() -> tuple[session.Session, Pipe, Owner]:
    pipe, owner = Pipe(), Owner()
    one = session.Session(Command.BIND_TRANSCEIVER, config(2775), owner)
    one.connection_made(pipe)
    await asyncio.sleep(0)
    one.data_received(encode(BindResp(command=Command.BIND_TRANSCEIVER_RESP, status=0, sequence=1)))
    return one, pipe, owner


async def test_what_the_transport_never_took_did_not_leave() -> None:
    one, pipe, owner = await piped()
    one.submit("taken", b"")
    one.submit("too", b"")
    await asyncio.sleep(0)
    assert len(pipe.written) == 2  # the bind; both submissions in one write
    one.pause_writing()
    one.submit("waits", b"")
    await asyncio.sleep(0)
    one.submit("never seen", b"")
    one.connection_lost(None)
    assert owner.lost == [("taken", True), ("too", True), ("waits", False), ("never seen", False)]


async def test_a_flood_of_requests_by_one_who_reads_nothing_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "OUT_PDUS_MAX", 100)
    one, pipe, _ = await piped()
    one.pause_writing()
    one.data_received(header(Command.ENQUIRE_LINK, 0, 1, 0) * 500)
    assert pipe.aborted and one.reason == "the other side does not read"
    one.connection_lost(None)
