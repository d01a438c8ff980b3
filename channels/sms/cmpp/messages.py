"""Every message of CMPP, and the one table that says how its fields stand in 2.x and in 3.0.

Messages never show themselves, because they carry numbers and contents of customers.
Source: QB-GF-028-2003 (CMPP 3.0.0), chapter 8; CMPP 2.0, the same chapter.
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

from channels.sms.cmpp.layout import AUTHENTICATOR, CONTENT, NONE, NUMBERS, U8, U32, U64, Row

V20, V21, V30 = 0x20, 0x21, 0x30
"""The Version of a CONNECT. 2.1 has the layouts of 2.0."""


class Command(IntEnum):
    """Command_Id; an answer has the highest bit set."""

    CONNECT = 0x1
    CONNECT_RESP = 0x8000_0001
    TERMINATE = 0x2
    TERMINATE_RESP = 0x8000_0002
    SUBMIT = 0x4
    SUBMIT_RESP = 0x8000_0004
    DELIVER = 0x5
    DELIVER_RESP = 0x8000_0005
    QUERY = 0x6
    QUERY_RESP = 0x8000_0006
    CANCEL = 0x7
    CANCEL_RESP = 0x8000_0007
    ACTIVE_TEST = 0x8
    ACTIVE_TEST_RESP = 0x8000_0008


class Message(Struct, frozen=True, gc=False):
    """Any PDU without its header."""

    def __repr__(self) -> str:
        return f"<CMPP {type(self).__name__}>"


class Connect(Message):
    """Login. `timestamp` is MMDDHHMMSS read as a number; see `values.authenticator_source`."""

    source_addr: str = ""
    authenticator: bytes = bytes(16)
    version: int = V30
    timestamp: int = 0


class ConnectResp(Message):
    """The answer to it. `version` is the highest that the ISMG speaks."""

    status: int = 0
    authenticator: bytes = bytes(16)
    version: int = V30


class Terminate(Message):
    """The sender will close the connection."""


class TerminateResp(Message):
    """The other side has heard it."""


class Submit(Message):
    """One short message to mobile phones. `link_id` is 3.0's; in 2.0 its place is reserved."""

    msg_id: int = 0
    pk_total: int = 1
    pk_number: int = 1
    registered_delivery: int = 1
    msg_level: int = 0
    service_id: str = ""
    fee_user_type: int = 2
    fee_terminal_id: str = ""
    fee_terminal_type: int = 0
    tp_pid: int = 0
    tp_udhi: int = 0
    msg_fmt: int = 0
    msg_src: str = ""
    fee_type: str = "01"
    fee_code: str = "000000"
    valid_time: str = ""
    at_time: str = ""
    src_id: str = ""
    dest_terminal_ids: tuple[str, ...] = ()
    dest_terminal_type: int = 0
    content: bytes = b""
    link_id: str = ""


class SubmitResp(Message):
    """Result 0: taken under this Msg_Id. Others: `results.SUBMIT`."""

    msg_id: int = 0
    result: int = 0


class Deliver(Message):
    """A customer's message; with `registered_delivery` 1, a status report (`values.Report`)."""

    msg_id: int = 0
    dest_id: str = ""
    service_id: str = ""
    tp_pid: int = 0
    tp_udhi: int = 0
    msg_fmt: int = 0
    src_terminal_id: str = ""
    src_terminal_type: int = 0
    registered_delivery: int = 0
    content: bytes = b""
    link_id: str = ""


class DeliverResp(Message):
    """Result 0: it is ours now."""

    msg_id: int = 0
    result: int = 0


class Query(Message):
    """Statistics of a day, YYYYMMDD; type 0 all, 1 by service."""

    time: str = ""
    query_type: int = 0
    query_code: str = ""
    reserve: str = ""


class QueryResp(Message):
    """Counts of messages to phones (mt) and from them (mo): done, waiting, failed."""

    time: str = ""
    query_type: int = 0
    query_code: str = ""
    mt_messages: int = 0
    mt_users: int = 0
    mt_done: int = 0
    mt_waiting: int = 0
    mt_failed: int = 0
    mo_done: int = 0
    mo_waiting: int = 0
    mo_failed: int = 0


class Cancel(Message):
    """Take back a message that has not left the ISMG."""

    msg_id: int = 0


class CancelResp(Message):
    """0: taken back. 1: not."""

    success_id: int = 0


class ActiveTest(Message):
    """Is anybody there?"""


class ActiveTestResp(Message):
    """Yes. Some leave its one reserved byte out: both are taken."""

    reserved: int = 0


TABLE: dict[Command, tuple[type[Message], tuple[Row, ...]]] = {
    Command.CONNECT: (
        Connect,
        (
            ("source_addr", 6, 6),
            ("authenticator", AUTHENTICATOR, AUTHENTICATOR),
            ("version", U8, U8),
            ("timestamp", U32, U32),
        ),
    ),
    Command.CONNECT_RESP: (
        ConnectResp,
        (
            ("status", U8, U32),
            ("authenticator", AUTHENTICATOR, AUTHENTICATOR),
            ("version", U8, U8),
        ),
    ),
    Command.TERMINATE: (Terminate, ()),
    Command.TERMINATE_RESP: (TerminateResp, ()),
    Command.SUBMIT: (
        Submit,
        (
            ("msg_id", U64, U64),
            ("pk_total", U8, U8),
            ("pk_number", U8, U8),
            ("registered_delivery", U8, U8),
            ("msg_level", U8, U8),
            ("service_id", 10, 10),
            ("fee_user_type", U8, U8),
            ("fee_terminal_id", 21, 32),
            ("fee_terminal_type", NONE, U8),
            ("tp_pid", U8, U8),
            ("tp_udhi", U8, U8),
            ("msg_fmt", U8, U8),
            ("msg_src", 6, 6),
            ("fee_type", 2, 2),
            ("fee_code", 6, 6),
            ("valid_time", 17, 17),
            ("at_time", 17, 17),
            ("src_id", 21, 21),
            ("dest_terminal_ids", NUMBERS, NUMBERS),
            ("dest_terminal_type", NONE, U8),
            ("content", CONTENT, CONTENT),
            ("link_id", 8, 20),
        ),
    ),
    Command.SUBMIT_RESP: (SubmitResp, (("msg_id", U64, U64), ("result", U8, U32))),
    Command.DELIVER: (
        Deliver,
        (
            ("msg_id", U64, U64),
            ("dest_id", 21, 21),
            ("service_id", 10, 10),
            ("tp_pid", U8, U8),
            ("tp_udhi", U8, U8),
            ("msg_fmt", U8, U8),
            ("src_terminal_id", 21, 32),
            ("src_terminal_type", NONE, U8),
            ("registered_delivery", U8, U8),
            ("content", CONTENT, CONTENT),
            ("link_id", 8, 20),
        ),
    ),
    Command.DELIVER_RESP: (DeliverResp, (("msg_id", U64, U64), ("result", U8, U32))),
    Command.QUERY: (
        Query,
        (("time", 8, 8), ("query_type", U8, U8), ("query_code", 10, 10), ("reserve", 8, 8)),
    ),
    Command.QUERY_RESP: (
        QueryResp,
        (
            ("time", 8, 8),
            ("query_type", U8, U8),
            ("query_code", 10, 10),
            ("mt_messages", U32, U32),
            ("mt_users", U32, U32),
            ("mt_done", U32, U32),
            ("mt_waiting", U32, U32),
            ("mt_failed", U32, U32),
            ("mo_done", U32, U32),
            ("mo_waiting", U32, U32),
            ("mo_failed", U32, U32),
        ),
    ),
    Command.CANCEL: (Cancel, (("msg_id", U64, U64),)),
    Command.CANCEL_RESP: (CancelResp, (("success_id", U8, U32),)),
    Command.ACTIVE_TEST: (ActiveTest, ()),
    Command.ACTIVE_TEST_RESP: (ActiveTestResp, (("reserved", U8, U8),)),
}
COMMAND_OF: dict[type[Message], Command] = {kind: command for command, (kind, _) in TABLE.items()}
