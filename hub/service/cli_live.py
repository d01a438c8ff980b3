"""Commands about conversations as they are stored: watch, export."""

from __future__ import annotations

import sys
import unicodedata
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from hub.errors import PolicyError
from hub.service.cli_client import DEFAULT_URL, AsJson, Failed, NatsUrl, _run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from hub.ledger.connection import Connection
    from hub.ledger.port import LedgerUnavailable
    from hub.service.live import Said

SHOWN_CHARS: Final = 1_000
"""Of one message on a terminal; `--json` shows all of it."""
_STYLE: Final = {"customer": "bold cyan", "agent": "bold green", "app": "bold magenta"}
_SINCE: Final = "A time ago, as 1h or 7d, or an RFC 3339 time with an offset."


def _moment(value: str, option: str) -> int:
    """Unix ms of a time, or of so long ago."""
    from hub.clock import SystemClock
    from hub.contract.times import parse_rfc3339
    from hub.policy.document import duration_ms

    try:
        return SystemClock().now_ms() - duration_ms(value, option)
    except PolicyError:  # then it is a time
        pass
    try:
        return parse_rfc3339(value)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{value!r}: write a time ago, as 1h or 7d, or 2026-11-22T08:00:00+08:00",
            param_hint=f"--{option}",
        ) from error


# ---- watch ---------------------------------------------------------------------------------------


def watch(
    account: Annotated[str, typer.Argument(help="The account whose conversations to show.")],
    since: Annotated[str | None, typer.Option(help=f"Begin there. {_SINCE}")] = None,
    as_json: AsJson = False,
    nats_url: NatsUrl = DEFAULT_URL,
) -> None:
    """The conversations of an account as they happen, both directions, until Ctrl-C."""
    since_ms = None if since is None else _moment(since, "since")
    try:
        _run(nats_url, lambda connection: _watch(connection, account, since_ms, as_json))
    except KeyboardInterrupt:
        return  # the way to end it


async def _watch(connection: Connection, account: str, since_ms: int | None, as_json: bool) -> None:
    from hub.service.live import follow

    missing = await _not_archived(connection, account)
    if missing and since_ms is None:
        raise Failed(missing)
    if missing:
        typer.echo(f"tact: {missing}", err=True)

    def problem(error: LedgerUnavailable) -> None:
        typer.echo(f"tact: {error.message}", err=True)

    show = _show_json if as_json else _shower()
    async for page in follow(connection, account, since_ms=since_ms, problem=problem):
        for said in page:
            show(said)


async def _not_archived(connection: Connection, account: str) -> str:
    """Why nothing of the account is stored; "" if it is, or if nobody can tell."""
    from hub.ledger.port import LedgerUnavailable
    from hub.service import operator

    try:
        answer = await operator.request(connection, operator.ARCHIVE, account.encode())
    except (LedgerUnavailable, operator.HubAway) as error:
        typer.echo(f"tact: whether {account} is archived is not known: {error.message}", err=True)
        return ""
    archived = ", ".join(answer["archived"])
    mend = 'the policy says which channels are: [archive] channels = ["wecom"]'
    if not archived:
        return f"no conversations are archived, so there are none of {account}; {mend}"
    if answer["channel"] is None:
        typer.echo(
            f"tact: {account} is no account of this hub; what a gateway reports of it is shown, "
            f"if its channel is archived ({archived})",
            err=True,
        )
    elif answer["channel"] not in answer["archived"]:
        return (
            f"{account} has no archive switched on: its channel is {answer['channel']}, "
            f"archived is {archived}; {mend}"
        )
    return ""


def _show_json(said: Said) -> None:
    typer.echo(said.line())


def _shower() -> Any:
    """Shows one message on a line; its time is the terminal's."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)

    def show(said: Said) -> None:
        message = said.message
        author = str(message.get("author", ""))
        who = message.get("agent") or message.get("app") or author
        arrow = "→" if message.get("direction") == "out" else "←"
        console.print(
            Text.assemble(
                (f"{_local(said.stored_ms)} ", "dim"),
                f"{printable(str(message.get('customer', '')), 65):<16} {arrow} ",
                (f"{printable(str(who), 65):<12} ", _STYLE.get(author, "")),
                summary(message.get("content")),
            )
        )

    return show


def _local(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000).astimezone():%m-%d %H:%M:%S}"


def summary(content: Any) -> str:
    """What was said, for a person: the text, or the kind of message and what it holds."""
    import msgspec

    if not isinstance(content, dict):
        return printable(msgspec.json.encode(content).decode())
    match content:
        case {"text": str(text)} if len(content) == 1:
            return printable(text)
        case {"event": str(event)}:
            rest = {name: value for name, value in content.items() if name != "event"}
            more = " " + msgspec.json.encode(rest).decode() if rest else ""
            return printable(f"[{event}]{more}")
    return printable(msgspec.json.encode(content).decode())


def printable(text: str, most: int = SHOWN_CHARS) -> str:
    """What a customer wrote cannot move the cursor, change colours or turn the line around."""
    cut = text[:most] + ("…" if len(text) > most else "")
    kept = (c for c in cut if unicodedata.category(c) != "Cf")
    return "".join(c if c.isprintable() else "⏎" if c == "\n" else " " for c in kept)


# ---- export --------------------------------------------------------------------------------------


def export(
    since: Annotated[str, typer.Option(help=f"Stored from then on. {_SINCE}")],
    until: Annotated[str | None, typer.Option(help="And before. Default: now.")] = None,
    format_: Annotated[
        Literal["jsonl", "parquet"], typer.Option("--format", help="Of the file.")
    ] = "jsonl",
    account: Annotated[str | None, typer.Option(help="Of this account only.")] = None,
    output: Annotated[
        Path, typer.Option(help="The file, replaced when it is whole; - for standard output.")
    ] = Path("-"),
    nats_url: NatsUrl = DEFAULT_URL,
) -> None:
    """The archived conversations of a time, both directions, in the order they were stored."""
    from hub.clock import SystemClock
    from hub.service import export as writing
    from hub.service.live import read

    since_ms = _moment(since, "since")
    until_ms = SystemClock().now_ms() if until is None else _moment(until, "until")
    if until_ms <= since_ms:
        raise typer.BadParameter("must be after --since", param_hint="--until")
    if format_ == "parquet" and str(output) == "-":
        raise typer.BadParameter("parquet needs a file: --output F", param_hint="--output")

    async def work(connection: Connection) -> tuple[int, int]:
        pages = read(connection, account, since_ms=since_ms, until_ms=until_ms)
        return await _export(pages, format_, output)

    if format_ == "parquet":
        writing.check_parquet()  # before anything is read
    count, accounts = _run(nats_url, work)
    where = "" if str(output) == "-" else f" in {output}"
    typer.echo(f"messages: {count}, accounts: {accounts}{where}", err=True)
    if not count:
        typer.echo(
            "what is archived, and for how long, is in the policy: [archive]; whether an account's "
            "conversations are, says tact watch ACCOUNT",
            err=True,
        )


async def _export(
    pages: AsyncGenerator[list[Said], None], format_: str, output: Path
) -> tuple[int, int]:
    from hub.service import export as writing

    if str(output) == "-":
        return await writing.export(pages, writing.JsonLines(sys.stdout.buffer))
    with writing.whole(output) as file:
        return await writing.export(pages, writing.FORMATS[format_](file))
