"""Commands that need no servers: simulate, policy check, schema."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from hub.errors import InputError


def _existing(path: Path) -> Path:
    if str(path) != "-" and not path.exists():
        raise typer.BadParameter(f"file {str(path)!r} does not exist")
    return path


def simulate(
    policy: Annotated[
        Path, typer.Option(help="The policy file.", exists=True, dir_okay=False, readable=True)
    ],
    input_: Annotated[
        Path,
        typer.Option(
            "--input",
            help="Messages in time order, one JSON object a line; - for standard input.",
            callback=_existing,
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="Outcomes, one a line; - for standard output.")
    ] = Path("-"),
) -> None:
    """What the hub would decide, in virtual time and without servers."""
    from hub.policy.document import load_policy
    from hub.service.simulate import simulate as outcomes

    document = load_policy(policy)
    source, sink = _open(input_, "rb"), _open(output, "wb")
    try:
        for line in outcomes(document, source):
            sink.write(line + b"\n")
        sink.flush()
    except InputError as error:
        sink.flush()  # what was decided before the bad line
        raise InputError(f"{input_}: {error.message}", **error.facts) from error
    finally:
        for file, path in ((source, input_), (sink, output)):
            if str(path) != "-":
                file.close()


def _open(path: Path, mode: str) -> BinaryIO:
    if str(path) == "-":
        return sys.stdin.buffer if mode == "rb" else sys.stdout.buffer
    try:
        return path.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error


def check(
    file: Annotated[
        Path, typer.Argument(help="The policy file.", exists=True, dir_okay=False, readable=True)
    ],
) -> None:
    """Say whether a policy is valid, and if not: where, and what is allowed there."""
    from hub.policy.document import load_policy, policy_version

    document = load_policy(file)
    typer.echo(f"{file}: valid, version {policy_version(document)}")
    for name, category in document.categories.items():
        exempt = f", exempt from {', '.join(category.bypass)}" if category.bypass else ""
        route = " > ".join(category.route)
        after = category.fallback_after
        wait = f", the next channel after {after}" if isinstance(after, str) else ""
        typer.echo(f"  {name}: {route}{wait}, priority {category.priority}{exempt}")
    for kind in ("caps", "gaps", "quiet", "presence", "windows", "words"):
        for rule in getattr(document, kind) or ():
            typer.echo(f"  {rule.name}: {_rule(kind, rule)}, {rule.on or 'not stopped'}")
    for reply in document.replies or ():
        typer.echo(f"  {reply.name}: {_reply(reply)}, told to {reply.app}")
    for reminder in document.reminders or ():
        again = f", again after {reminder.again_after}" if reminder.again_after else ""
        typer.echo(f"  {reminder.name}: reminds {reminder.app} after {reminder.after}{again}")
    if document.archive:
        archive = document.archive
        typer.echo(f"  archive: {', '.join(archive.channels)} for {archive.keep}")


def check_accounts(
    file: Annotated[
        Path, typer.Argument(help="The accounts file.", exists=True, dir_okay=False, readable=True)
    ],
) -> None:
    """Say whether an accounts file is valid, and if not: where, and what is allowed there."""
    from channels.registry import PROVIDERS
    from hub.service.accounts import read_accounts

    accounts = read_accounts(file)
    typer.echo(f"{file}: valid, {len(accounts)} accounts")
    for account in accounts:
        found = {per: account.limits_of(per) for per in ("account", "app", "recipient")}
        limits = "; ".join(f"per {per} {', '.join(some)}" for per, some in found.items() if some)
        spare = f", failover {account.failover}" if account.failover else ""
        typer.echo(f"  {account.name}: {account.channel} by {account.provider}{spare}")
        typer.echo(f"    limits: {limits or 'none'}")
        kind = PROVIDERS[account.provider]
        if kind.window:
            most, hours = kind.window.messages, kind.window.within_ms // 3_600_000
            typer.echo(f"    window: {most} messages within {hours}h of the customer's last one")
        typer.echo(f"    repeats: {kind.guarantee}")


def _rule(kind: str, rule: Any) -> str:
    """One rule in a few words."""
    whom = [
        " or ".join(values)
        for values in (rule.categories, rule.channels, rule.apps)
        if values is not None
    ]
    about = f" of {' by '.join(whom)}" if whom else ""
    if kind == "caps":
        return f"at most {rule.limit}{about} in {rule.window} per {rule.per}"
    if kind == "gaps":
        return f"at least {rule.min} between any two{about}"
    if kind == "windows":
        return f"at most {rule.limit}{about} within {rule.within} of the customer's last message"
    if kind == "words":
        told = f", {rule.alert} is told" if rule.alert else ""
        return f"none{about} with any of {len(rule.words)} words{told}"
    if kind == "presence":
        return f"none{about} within {rule.within} of the customer's last message"
    when = ", ".join(rule.dates) if rule.dates else f"from {rule.from_} to {rule.to}"
    return f"none{about} {when}"


def _reply(rule: Any) -> str:
    """One automatic reply in a few words."""
    to = f"a message that {rule.how} any of {len(rule.match)} words" if rule.match else rule.event
    if rule.how == "exact":
        to = f"a message that is one of {len(rule.match)} words"
    does = [f"answers as {rule.category} at most once in {rule.every}"] if rule.answer else []
    does += [f"sets do not disturb for {rule.dnd}"] if rule.dnd else []
    return f"to {to}: {' and '.join(does)}"


def schema(
    asyncapi: Annotated[
        bool, typer.Option("--asyncapi", help="The AsyncAPI document, instead of JSON Schema.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="A directory for one file a kind, instead of standard output."),
    ] = None,
) -> None:
    """The contract's message types as JSON Schema, or all of it as AsyncAPI."""
    from hub.contract import schema as contract

    documents: dict[str, Any]
    if asyncapi:
        documents = {"asyncapi.json": contract.asyncapi()}
    else:
        documents = {f"{kind}.schema.json": one for kind, one in contract.json_schemas().items()}
    if output is None:
        whole = documents["asyncapi.json"] if asyncapi else contract.json_schemas()
        typer.echo(_pretty(whole))
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, document in documents.items():
            (output / name).write_bytes(_pretty(document) + b"\n")
    except OSError as error:
        raise typer.BadParameter(f"{output}: {error.strerror}") from error
    typer.echo(f"{output}: {', '.join(documents)}", err=True)


def _pretty(document: Any) -> bytes:
    import orjson

    return orjson.dumps(document, option=orjson.OPT_INDENT_2)
