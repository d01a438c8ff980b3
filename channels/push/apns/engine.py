"""h2, set up for many short requests on one connection that lasts.

What is changed of it, and why, is here. The CPU of a push is half of what h2 needs as it comes.

Source: RFC 9113 (6.8 GOAWAY), RFC 7541 (5.2 Huffman codes).
"""

from __future__ import annotations

from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import (
    ConnectionInputs,
    ConnectionState,
    H2Connection,
    H2ConnectionStateMachine,
)
from h2.settings import SettingCodes, Settings
from hpack import Encoder

HEADER_BYTES: Final = 16 * 1024
"""Of one answer's headers; more ends the connection (SETTINGS_MAX_HEADER_LIST_SIZE)."""
CLOSED_STREAMS: Final = 8_192
"""Streams that are over and remembered, so that a late frame of one is no error: those of two
seconds at 4,000 pushes a second, 1 MB."""
SWEEP_STREAMS: Final = 256
"""h2 forgets streams that are over when it counts the open ones; it does so after so many."""

_H2_CONFIG: Final = H2Configuration(
    client_side=True,
    header_encoding=None,
    # What we send is made by `request` alone; what comes is only looked up by name.
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
)


class _StateMachine(H2ConnectionStateMachine):
    """h2's reads nothing after a GOAWAY, though answers to earlier requests follow it (6.8)."""

    _transitions = H2ConnectionStateMachine._transitions | {
        (ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY): (
            None,
            ConnectionState.CLIENT_OPEN,
        )
    }


class _Encoder(Encoder):
    """Without Huffman codes: they save a hundred bytes of a push, and cost a fifth of its CPU."""

    def encode(self, headers: Any, huffman: bool = False) -> bytes:
        return super().encode(headers, huffman=False)


class Engine(H2Connection):
    """h2's connection, set up for many short requests."""

    MAX_CLOSED_STREAMS = CLOSED_STREAMS

    def __init__(self) -> None:
        super().__init__(config=_H2_CONFIG)
        self.state_machine = _StateMachine()
        self.encoder = _Encoder()
        self.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_BYTES,
            },
        )
        self.decoder.max_header_list_size = HEADER_BYTES
        self._unswept = 0

    @property
    def open_outbound_streams(self) -> int:
        """Asked for each request, h2 would go through all of them. The limit is kept by `room`."""
        self._unswept += 1
        if self._unswept < SWEEP_STREAMS:
            return 0
        self._unswept = 0
        return super().open_outbound_streams
