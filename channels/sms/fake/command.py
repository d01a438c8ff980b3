"""What the commands of all fakes share: options, lines of JSON in and out, an end by a signal."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct

from channels.sms.fake.faults import Odds, Plan, Recorder
from hub.errors import TactError

LINE_BYTES: Final = 64 * 1024
"""The longest line on standard input."""

T = TypeVar("T")
S = TypeVar("S", bound=Struct)


class Fake(Protocol):
    """What `serve` needs of a fake that has been started."""

    counts: dict[str, int]

    async def hear(self, line: bytes) -> None:
        """Take a line of standard input. Raises MsgspecError, UnicodeError or TactError."""

    async def stop(self) -> None: ...


class Said(Struct, forbid_unknown_fields=True):
    """A customer's message."""

    sender: str = msgspec.field(name="from")
    text: str


class SaidTo(Said, forbid_unknown_fields=True):
    """One to a number of ours that must be named."""

    to: str


class Line(Struct, Generic[T], forbid_unknown_fields=True):
    """A line of standard input: `Line[Said]` or `Line[SaidTo]`."""

    mo: T


# ---- options ---------------------------------------------------------------------------------


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The options of every fake: where it listens, `--seed`, one for each of `Odds`, `--record`."""
    made = argparse.ArgumentParser(prog=prog, description=description)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--record", default=None, metavar="FILE", help="JSON lines of submissions")
    add_options(made, Odds)
    return made


def add_options(parser: argparse.ArgumentParser, kind: type[Struct]) -> None:
    """An option for each field of a struct: of bool, str, float or Literal, with defaults."""
    for field in msgspec.structs.fields(kind):
        option = "--" + field.name.replace("_", "-")
        if field.type is bool:
            parser.add_argument(option, action="store_true")
        elif get_origin(field.type) is Literal:
            parser.add_argument(option, choices=get_args(field.type), default=field.default)
        else:
            parser.add_argument(option, type=field.type, default=field.default)


def options_of(arguments: argparse.Namespace, kind: type[S]) -> S:
    """The struct that the options of `add_options` ask for."""
    names = [field.name for field in msgspec.structs.fields(kind)]
    return kind(**{name: getattr(arguments, name) for name in names})


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the options ask for."""
    return Plan(arguments.seed, options_of(arguments, Odds))


# ---- running ---------------------------------------------------------------------------------


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command to its end."""
    import uvloop

    if sys.stdin is None:  # closed: the loop would use its descriptor, and abort on closing it
        os.open(os.devnull, os.O_RDONLY)
    uvloop.run(work)


async def serve(fake: Fake, ready: dict[str, Any]) -> None:
    """Say that it is ready, until SIGTERM or SIGINT hear what comes, and say what it counted."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _tell(ready)
    hearing = asyncio.create_task(_hear(fake))
    await stop.wait()
    hearing.cancel()
    await asyncio.wait([hearing])
    await fake.stop()
    _tell({"counts": fake.counts})


def run_centre(
    make: Callable[..., Any],
    settings: type[Struct],
    prog: str,
    description: str | None,
    argv: Sequence[str] | None,
) -> None:
    """The command of a `Centre`: `make` is its class, `settings` has the options of its own."""
    options = parser(prog, description)
    add_options(options, settings)
    run(_serve_centre(make, settings, options.parse_args(argv)))


async def _serve_centre(
    make: Callable[..., Any], settings: type[Struct], arguments: argparse.Namespace
) -> None:
    centre = make(
        plan_of(arguments),
        options_of(arguments, settings),
        host=arguments.host,
        port=arguments.port,
        recorder=Recorder(arguments.record),
    )
    await centre.start()
    await serve(centre, {"port": centre.port})


def _tell(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def _hear(fake: Fake) -> None:
    """Lines of standard input when it is a pipe, a socket or a terminal, one after the other."""
    kind = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(0)):
        return  # files are always readable, and /dev/null cannot be waited for
    async for line in _lines():
        try:
            await fake.hear(line)
        except (msgspec.MsgspecError, UnicodeError, TactError) as error:
            _tell({"error": f"line not understood: {type(error).__name__}"})


async def _lines() -> AsyncIterator[bytes]:
    rest = b""
    while data := await _read():
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES:
            rest = b""
            lines.append(b"")  # is told as not understood
        for line in lines:
            yield line
    if rest:
        yield rest


async def _read() -> bytes:
    """What standard input has next; b"" at its end."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(0, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(0)
    return os.read(0, LINE_BYTES)
