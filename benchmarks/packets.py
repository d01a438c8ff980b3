"""When submissions crossed the wire, by the kernel's clock at the packet: `submit_sm` to one port.

    python -m benchmarks.packets PORT FILE

A process that reads a socket knows when it read, not when the bytes came. A packet socket on the
loopback gets each packet with the time at which it arrived. Needs CAP_NET_RAW. Writes, at SIGTERM,
the times (ns since 1970, 64 bits each) of all submit_sm to FILE; prints `ready` when it listens.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
from array import array
from pathlib import Path

SUBMIT_SM = 4
_ETH_IP = 0x0800
_TIMESTAMP_NS = 35  # SO_TIMESTAMPNS, and the type of its control message
_ATTACH_FILTER = 26
_BUFFER_BYTES = 64 * 1024 * 1024
"""What waits in the kernel while this process does not run."""


def filter_of(port: int) -> list[tuple[int, int, int, int]]:
    """Classic BPF: IPv4 and TCP to this port, unfragmented; of others nothing is copied."""
    return [
        (0x28, 0, 0, 12),  # ethertype
        (0x15, 0, 8, _ETH_IP),
        (0x30, 0, 0, 23),  # protocol
        (0x15, 0, 6, socket.IPPROTO_TCP),
        (0x28, 0, 0, 20),  # fragment offset
        (0x45, 4, 0, 0x1FFF),
        (0xB1, 0, 0, 14),  # length of the IP header
        (0x48, 0, 0, 16),  # destination port
        (0x15, 0, 1, port),
        (0x06, 0, 0, 0x40000),
        (0x06, 0, 0, 0),
    ]


def open_socket(port: int) -> tuple[socket.socket, object]:
    """A packet socket on the loopback. Raises PermissionError without CAP_NET_RAW."""
    # For IP, not for all protocols: those would be seen twice, leaving and arriving.
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_IP))
    program = b"".join(struct.pack("HBBI", *step) for step in filter_of(port))
    kept = array("B", program)
    address, _ = kept.buffer_info()
    packets.setsockopt(
        socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", len(filter_of(port)), address)
    )
    packets.setsockopt(socket.SOL_SOCKET, _TIMESTAMP_NS, 1)
    packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    packets.bind(("lo", 0))
    return packets, kept


def submissions(frame: bytes) -> int:
    """How many submit_sm a frame holds. Each write is whole PDUs, and fits one packet here."""
    ip = 14 + 4 * (frame[14] & 15)
    place = ip + 4 * (frame[ip + 12] >> 4)
    found = 0
    while place + 16 <= len(frame):
        length, command = struct.unpack_from(">II", frame, place)
        found += command == SUBMIT_SM
        place += max(length, 16)
    return found


def main() -> None:
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    times = array("q")
    packets, kept = open_socket(port)

    def end(*_: object) -> None:
        file.write_bytes(times.tobytes())
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while kept:
        frame, control, _, _ = packets.recvmsg(65_600, 64)
        for _, kind, data in control:
            if kind == _TIMESTAMP_NS:
                seconds, nanoseconds = struct.unpack("qq", data)
                at = seconds * 1_000_000_000 + nanoseconds
                times.extend([at] * submissions(frame))


if __name__ == "__main__":
    main()
