"""Commands that talk to a running hub over NATS: send, trace, customer, status, policy apply."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hub.contract.subjects import CHANNELS, INTENT_LANES, is_key, is_source
from hub.errors import ConfigError, TactError

if TYPE_CHECKING:
    from hub.ledger.connection import Connection

CONNECT_S = 3.0
USER_VARIABLE = "TACT_NATS_USER"
Result = TypeVar("Result")


class Failed(TactError):
    """The command did its work, and the answer is no."""

    code = "failed"


NatsUrl = Annotated[
    str,
    typer.Option(
        envvar="TACT_NATS_URL",
        help="The hub's NATS server. A login is taken from TACT_NATS_USER and TACT_NATS_PASSWORD.",
    ),
]
DEFAULT_URL = "nats://127.0.0.1:4222"
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


# ---- options that need checking ----------------------------------------------------------------


def _source(value: str) -> str:
    if not is_source(value):
        raise typer.BadParameter("1 to 32 of a-z 0-9 -")
    return value


def _key(value: str) -> str:
    if not is_key(value):
        raise typer.BadParameter("1 to 64 of A-Z a-z 0-9 _ -, or ~ and a group chat's id")
    return value


def _lane(value: str) -> str:
    if value not in INTENT_LANES:
        raise typer.BadParameter(f"one of {', '.join(INTENT_LANES)}")
    return value


def _addresses(pairs: list[str] | None) -> dict[str, str] | None:
    addresses: dict[str, str] = {}
    for pair in pairs or ():
        channel, equals, address = pair.partition("=")
        if not equals or not address or channel not in CHANNELS:
            known = ", ".join(CHANNELS)
            raise typer.BadParameter(
                f"write CHANNEL=ADDRESS, with a channel of {known}", param_hint="--to"
            )
        addresses[channel] = address
    return addresses or None


def _content(text: str | None, content: str | None) -> Any:
    if (text is None) == (content is None):
        raise typer.BadParameter("exactly one of --text and --content is needed")
    if text is not None:
        return {"text": text}
    try:
        return json.loads(content or "")
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--content") from error


AppName = Annotated[str, typer.Option(help="The sending application.", callback=_source)]


# ---- send ----------------------------------------------------------------------------------------


def send(
    app: AppName,
    customer: Annotated[str, typer.Option(help="The conversation.", callback=_key)],
    category: Annotated[str, typer.Option(help="One of the policy's categories.")],
    text: Annotated[str | None, typer.Option(help="The same text on every channel.")] = None,
    content: Annotated[
        str | None, typer.Option(help="JSON instead: the content, per channel if need be.")
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="Unique in the application; default: a new one.")
    ] = None,
    lane: Annotated[str, typer.Option(help="urgent, normal or bulk.", callback=_lane)] = "normal",
    to: Annotated[
        list[str] | None, typer.Option(help="CHANNEL=ADDRESS, to be remembered; repeatable.")
    ] = None,
    route: Annotated[str | None, typer.Option(help="Channels in order: wecom,sms")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 9.", min=0, max=9)] = None,
    not_before: Annotated[str | None, typer.Option(help="RFC 3339 with an offset.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="RFC 3339 with an offset.")] = None,
    collapse_key: Annotated[
        str | None, typer.Option(help="Replaces what is held under the same key.")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="The customer's IANA zone.")] = None,
    reach: Annotated[str | None, typer.Option(help="first or all channels of the route.")] = None,
    account: Annotated[str | None, typer.Option(help="The account to send from.")] = None,
    nats_url: NatsUrl = DEFAULT_URL,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the outcome.", min=0)] = 10.0,
) -> None:
    """Publish one intent and print its first outcome."""
    intent = {
        "id": id_ or secrets.token_hex(8),
        "app": app,
        "customer": customer,
        "category": category,
        "content": _content(text, content),
        "priority": priority,
        "route": route.split(",") if route else None,
        "reach": reach,
        "to": _addresses(to),
        "account": account,
        "not_before": not_before,
        "expires_at": expires_at,
        "collapse_key": collapse_key,
        "timezone": timezone,
    }
    intent = {name: value for name, value in intent.items() if value is not None}
    payload = json.dumps(intent, ensure_ascii=False).encode()
    _check(lane, app, payload)
    outcome = _run(nats_url, lambda connection: _send(connection, lane, intent, payload, wait))
    typer.echo(json.dumps(outcome, ensure_ascii=False))
    typer.echo(_sentence(outcome), err=True)
    if outcome["state"] == "rejected":
        raise typer.Exit(1)


def _check(lane: str, app: str, payload: bytes) -> None:
    """What the hub would reject whatever its policy is a wrong call, and is not published."""
    from hub.contract.decode import Rejection, decode

    (message,) = decode(lane, app, payload)
    if isinstance(message, Rejection):
        raise typer.BadParameter(message.reason)


async def _send(
    connection: Connection, lane: str, intent: dict[str, Any], payload: bytes, wait_s: float
) -> dict[str, Any]:
    from hub.contract.subjects import publish_subject
    from hub.ledger.publishing import publish
    from hub.service.outcomes import first_outcome, last_sequence

    app, name = intent["app"], intent["id"]
    after = await last_sequence(connection)
    subject = publish_subject(lane, app, intent["customer"])
    ack = await publish(connection, subject, payload, msg_id=f"{app}:{name}")
    if ack.duplicate:
        raise Failed(
            f"{app}/{name} was published before; what became of it: tact trace {app} {name}"
        )
    outcome = await first_outcome(connection, app, name, after=after, wait_s=wait_s)
    if outcome is None:
        raise Failed(
            f"{app}/{name} is stored, but has no outcome after {wait_s:g} s; is the hub running "
            f"(tact status)? Later: tact trace {app} {name}"
        )
    return outcome


def _sentence(outcome: dict[str, Any]) -> str:
    """An outcome for a person."""
    dispatched = outcome["state"] == "dispatched"
    said = f"{outcome['app']}/{outcome['intent']}: {outcome['state']}"
    if outcome.get("channel"):
        said += f" on {outcome['channel']}"
    if rules := _rules(outcome):
        # Of a dispatch they are those that closed the channels before it in the route.
        said += f" (channels before it: {rules})" if dispatched else f" by {rules}"
        if not dispatched and {rule["kind"] for rule in outcome["rules"]} == {"address"}:
            said += " (no address is known for any channel of its route; see --to and --route)"
    if outcome.get("next_eligible_at"):
        said += f", next eligible {outcome['next_eligible_at']}"
    if outcome.get("reason"):
        said += f": {outcome['reason']}"
    return said


def _rules(outcome: dict[str, Any]) -> str:
    return ", ".join(rule["rule"] for rule in outcome.get("rules") or ())


# ---- trace ---------------------------------------------------------------------------------------


def trace(
    app: Annotated[str, typer.Argument(help="The sending application.", callback=_source)],
    intent: Annotated[str, typer.Argument(help="The intent's id.")],
    as_json: AsJson = False,
    nats_url: NatsUrl = DEFAULT_URL,
) -> None:
    """The life of one intent: every outcome with rule, reason and times."""
    from hub import limits
    from hub.service.outcomes import all_outcomes

    found, complete = _run(nats_url, lambda connection: all_outcomes(connection, app, intent))
    if not complete:
        typer.echo(
            f"only the newest {limits.TRACE_MESSAGES} outcome messages of {app} were read",
            err=True,
        )
    if not found:
        days = limits.OUTCOME_TTL_S // 86_400
        raise Failed(f"no outcome of {app}/{intent} in the ledger; they are kept for {days} days")
    if as_json:
        for outcome in found:
            typer.echo(json.dumps(outcome, ensure_ascii=False))
        return
    _table(
        f"{app}/{intent}, customer {found[0]['customer']}",
        ("state", "at", "channel", "rules", "next eligible", "reason"),
        [
            (
                outcome["state"],
                outcome["at"],
                outcome.get("channel"),
                _rules(outcome),
                outcome.get("next_eligible_at"),
                outcome.get("reason"),
            )
            for outcome in found
        ],
    )


# ---- customer ------------------------------------------------------------------------------------


def customer(
    key: Annotated[str, typer.Argument(help="The conversation.", callback=_key)],
    as_json: AsJson = False,
    nats_url: NatsUrl = DEFAULT_URL,
) -> None:
    """A conversation: zone, DND, addresses, counts against each cap, and what is held and why."""
    answer = _run(nats_url, lambda connection: _customer(connection, key))
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    until = {scope: end or "for ever" for scope, end in answer["dnd"].items()}
    takeover = answer["takeover"]
    _table(
        f"{key}{'' if answer['known'] else ' (nothing is known yet)'}",
        ("", ""),
        [
            ("zone", answer["zone"]),
            ("owner", answer["owner"]),
            ("addresses", _pairs(answer["to"])),
            *(
                ("device", f"{device['to']}, last seen {device['last_seen_at'] or 'long ago'}")
                for device in answer["devices"]
            ),
            ("do not disturb", _pairs(until)),
            (
                "takeover",
                takeover and f"{takeover['agent']} until {takeover['until'] or 'release'}",
            ),
            ("last inbound", answer["last_inbound_at"]),
            ("partition", f"{answer['partition']}, epoch {answer['epoch']}, {answer['host']}"),
            ("policy", answer["policy"]),
        ],
    )
    _table(
        "caps",
        ("rule", "category", "channel", "count", "limit", "ready at"),
        [
            (c["rule"], c["category"], c["channel"], c["count"], c["limit"], c.get("ready_at"))
            for c in answer["caps"]
        ],
    )
    _table(
        "held",
        ("app", "intent", "category", "accepted", "expires", "next eligible", "rules"),
        [
            (
                h["app"],
                h["intent"],
                h["category"],
                h["accepted_at"],
                h["expires_at"],
                h.get("next_eligible_at"),
                _rules(h),
            )
            for h in answer["held"]
        ],
    )
    _table(
        "dispatched",
        ("at", "category", "channel", "app", "status"),
        [
            (d["at"], d["category"], d["channel"], d["app"], d["status"])
            for d in answer["dispatches"]
        ],
    )


async def _customer(connection: Connection, key: str) -> dict[str, Any]:
    from hub.contract.subjects import partition_of
    from hub.ledger.questions import ask
    from hub.ledger.streams import stored_partitions

    partitions = await stored_partitions(connection)
    if partitions is None:
        raise Failed(f"NATS at {connection.where} has no streams of Tact; start a hub: tact up")
    question = json.dumps({"op": "customer", "key": key}).encode()
    answer: dict[str, Any] = json.loads(
        await ask(connection, partition_of(key, partitions), question)
    )
    if "error" in answer:
        raise Failed(answer["error"])
    return answer


# ---- the whole hub -------------------------------------------------------------------------------


def status(as_json: AsJson = False, nats_url: NatsUrl = DEFAULT_URL) -> None:
    """Partitions, owners, lag, held, rates. Exit code 1 while the hub is not ready."""
    from hub.service import operator

    answer = _run(nats_url, lambda connection: operator.request(connection, operator.STATUS, b""))
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        _show_status(answer)
    if not answer["ready"]:
        raise typer.Exit(1)


def _show_status(answer: dict[str, Any]) -> None:
    rates, lag = answer["rates"], answer["lag"]
    _table(
        "ready" if answer["ready"] else f"NOT READY: {'; '.join(answer['reasons'])}",
        ("", ""),
        [
            ("policy", answer["policy"]),
            ("NATS", answer["nats"]["url"]),
            ("partitions", answer["partitions"]),
            ("without owner", ", ".join(map(str, answer["unowned"]))),
            ("not yet decided", _pairs({lane: count for lane, count in lag.items() if count})),
            ("intents/s", rates["intents"] if rates else None),
            ("outcomes/s", rates["outcomes"] if rates else None),
        ],
    )
    _table(
        "hosts",
        ("host", "pid", "alive", "partitions", "conversations", "with held", "NATS"),
        [
            (
                host["name"],
                host.get("pid"),
                "yes" if host["alive"] else "NO",
                ", ".join(map(str, host.get("partitions", ()))),
                host.get("conversations"),
                host.get("held"),
                "yes" if host.get("connected") else "NO",
            )
            for host in answer["hosts"]
        ],
    )
    accounts = answer.get("accounts") or {}
    if accounts:
        _show_accounts(accounts)


def _show_accounts(accounts: dict[str, dict[str, Any]]) -> None:
    """The first hundred, those first that cannot work or have something waiting."""
    order = sorted(accounts, key=lambda n: (accounts[n]["window"] > 0, -accounts[n]["waiting"], n))
    _table(
        f"accounts ({len(accounts)})",
        ("account", "host", "connected", "circuit", "waiting", "open"),
        [
            (
                name,
                accounts[name]["host"],
                "yes" if accounts[name]["window"] else f"NO: {accounts[name]['reason']}",
                accounts[name]["circuit"],
                accounts[name]["waiting"],
                accounts[name]["open"],
            )
            for name in order[:100]
        ],
    )


def apply(
    file: Annotated[
        Path, typer.Argument(help="The policy file.", exists=True, dir_okay=False, readable=True)
    ],
    data_dir: Annotated[
        Path, typer.Option(help="The hub's data directory, which holds the login this needs.")
    ] = Path("tact-data"),
    nats_url: NatsUrl = DEFAULT_URL,
) -> None:
    """Replace the policy of the running hub, from its next turn on."""
    from hub.policy.document import load_policy
    from hub.policy.files import policy_text
    from hub.service import operator

    load_policy(file)
    text = policy_text(file)
    user, password = _login()
    if user is None:
        user, password = _hub_login(data_dir)
    answer = _run(
        nats_url,
        lambda connection: operator.request(connection, operator.POLICY, text.encode()),
        (user, password),
    )
    typer.echo(f"policy {answer['version']} is in force")
    if not answer["kept"]:
        typer.echo("it is not kept: name it with --policy at the hub's next start", err=True)


def _hub_login(data_dir: Path) -> tuple[str, str]:
    from hub.service.natsd import NatsServer

    if not (data_dir / "nats-passwords.json").is_file():  # else one would be made
        raise ConfigError(
            f"{data_dir} is not the data directory of a hub; name it with --data-dir, or set "
            f"{USER_VARIABLE} and TACT_NATS_PASSWORD to the login of the hub's account"
        )
    login = NatsServer(data_dir).hub
    return login.user, login.password


# ---- common --------------------------------------------------------------------------------------


def _login() -> tuple[str | None, str | None]:
    import os

    return os.environ.get(USER_VARIABLE), os.environ.get("TACT_NATS_PASSWORD")


def _run(
    url: str,
    work: Callable[[Connection], Awaitable[Result]],
    login: tuple[str | None, str | None] | None = None,
) -> Result:
    """Connect, do the work, disconnect."""
    from hub.service import logs

    logs.configure_command()

    async def connected() -> Result:
        async with _connection(url, *(login or _login())) as connection:
            return await work(connection)

    return asyncio.run(connected())


@asynccontextmanager
async def _connection(
    url: str, user: str | None, password: str | None
) -> AsyncIterator[Connection]:
    from hub.ledger.connection import connect

    connection = await connect(url, name="tact-cli", user=user, password=password, wait_s=CONNECT_S)
    try:
        yield connection
    finally:
        await connection.close()


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A table on standard output, as wide as its content where nobody looks at a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=250)
    if not rows:
        console.print(Text(f"{title}: none"))
        return
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column)
    table.show_header = any(columns)
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    console.print(table)
