"""The account's log, followed while the hub runs: snapshots purge what is behind them.

Pushed, not polled: what a snapshot makes superfluous is gone half a second after it was written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from nats.aio.msg import Msg

from actors.account_state import DONE, OPEN, STATE_NAMES, unpack_attempt, unpack_outbound
from hub.checkers.account_records import Opening
from hub.contract.subjects import account_log, account_partition, delivery_subject, log_subject
from hub.ledger.audit import NotWhole
from hub.ledger.connection import Connection
from hub.ledger.port import KNOCK, LogRecord
from hub.ledger.reading import last_message
from hub.ledger.streams import LEDGER

_record = msgspec.msgpack.Decoder(LogRecord).decode
_receipt = msgspec.json.Decoder(dict[str, Any]).decode
_deliveries = msgspec.json.Decoder(list[dict[str, Any]] | dict[str, Any]).decode


async def newest(connection: Connection, subject: str) -> int:
    """The sequence in LEDGER of the newest message with this subject; 0 without one."""
    message = await last_message(connection, LEDGER, subject)
    return 0 if message is None else message.sequence


class AttemptLog:
    """What happened to the attempts of one account, which others may share the log with."""

    def __init__(self, connection: Connection, account: str, channel: str, partitions: int) -> None:
        self.openings: list[Opening] = []
        self.decided: list[tuple[str, str]] = []
        """(delivery id, status) as conversations are to be told of them, in that order."""
        self.found_open: set[str] = set()
        """Delivery ids whose attempt a new owner found open."""
        self._connection = connection
        self.account = account
        self._channel = channel
        self._partition = account_partition(account, partitions)
        self._log = log_subject(account_log(self._partition, partitions))
        self._out = delivery_subject(channel, self._partition)
        self._states: dict[str, int] = {}
        self._ended: set[str] = set()
        self._others: set[str] = set()
        """Delivery ids of other accounts with the same log."""
        self._handed: dict[str, int] = {}
        """Delivery id to its sequence in LEDGER."""
        self._epoch = 0
        self._read = 0
        """Sequence of the last message with deliveries."""
        self._chain = 0
        """Sequence of the last record: the next one names it."""
        self._holes = 0
        self._problem: Exception | None = None

    async def start(self) -> None:
        """Follow from the beginning, as long as the connection lives."""
        stream = self._connection.client.jetstream()
        for subject, take in ((self._out, self.take_deliveries), (self._log, self.take_record)):

            async def read(message: Msg, take: Callable[[int, bytes], None] = take) -> None:
                try:
                    take(message.metadata.sequence.stream, message.data)
                except Exception as error:  # the client would only log it
                    self._problem = error
                    raise

            await stream.subscribe(subject, stream=LEDGER, ordered_consumer=True, cb=read)

    async def newest(self) -> int:
        """The sequence of the newest message with deliveries for the account."""
        return await newest(self._connection, self._out)

    def unfinished(self, up_to: int) -> Counter[str]:
        """Deliveries up to a sequence of LEDGER whose attempt has not ended, by its state; but of
        WeCom, where nobody says more than `sent`, of which nothing was told.

        Raises NotWhole when a part of the log was gone before it came.
        """
        if self._problem is not None:
            raise NotWhole(f"{self._log} could not be read") from self._problem
        if self._holes:
            raise NotWhole(f"{self._log} has {self._holes} holes: it was read too slowly")
        if self._read < up_to:
            return Counter(["not read"])
        ended = self._ended
        if self._channel == "wecom":
            ended = ended | {delivery for delivery, _ in self.decided}
        return Counter(
            STATE_NAMES[self._states[delivery]] if delivery in self._states else "not taken"
            for delivery, sequence in self._handed.items()
            if sequence <= up_to and delivery not in ended
        )

    def take_deliveries(self, sequence: int, payload: bytes) -> None:
        """A message of LEDGER with deliveries."""
        self._read = sequence
        found = _deliveries(payload)
        for delivery in found if isinstance(found, list) else [found]:
            if delivery["account"] == self.account:
                self._handed[delivery["id"]] = sequence

    def take_record(self, sequence: int, payload: bytes) -> None:
        """A record of the account's log."""
        record = _record(payload)
        if record.previous == KNOCK:
            return
        if record.previous != self._chain:
            self._holes += 1
        self._chain = sequence
        if record.epoch > self._epoch:
            self._epoch = record.epoch
            self.found_open |= {name for name, state in self._states.items() if state == OPEN}
        for key, packed in record.states.items():
            if key.startswith("a:"):
                self._take_attempt(sequence, record.at_ms, key[2:], packed)
        for key, packed in record.states.items():
            if key.startswith("o:") and packed is not None:
                self._take_outbox(packed)

    def _take_outbox(self, packed: bytes) -> None:
        for outbound in unpack_outbound(packed):
            if outbound.lane == "receipt":
                told = _receipt(outbound.payload)
                if told["delivery"] not in self._others:
                    self.decided.append((told["delivery"], told["status"]))

    def _take_attempt(self, sequence: int, at_ms: int, delivery: str, packed: bytes | None) -> None:
        attempt = None if packed is None else unpack_attempt(packed)
        if attempt is not None and attempt.account != self.account:
            self._others.add(delivery)
        if delivery in self._others:
            return
        was_open = self._states.get(delivery) == OPEN
        state = DONE if attempt is None else attempt.state
        self._states[delivery] = state
        if state == DONE:
            self._ended.add(delivery)
        if state == OPEN or was_open:
            self.openings.append(
                Opening(sequence, self._partition, self.account, delivery, state == OPEN, at_ms)
            )
