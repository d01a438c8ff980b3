"""The command `tact`. Exit codes: 0 good, 1 the job failed, 2 the call was wrong.

Imports stay inside the commands, so that `tact --help` and `tact send` start fast and without Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hub.errors import ConfigError, TactError
from hub.service import cli_client, cli_live, cli_offline


class _Group(TyperGroup):
    """Ends a command that failed with one readable line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            typer.echo(f"tact: {error.message}", err=True)
            raise typer.Exit(2) from error
        except TactError as error:
            typer.echo(f"tact: {error.message}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Group,
    name="tact",
    help="The unified message hub: whether, when and by which channel a message goes out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # an error is one line, and help needs no Rich
)
policy = typer.Typer(
    cls=_Group, help="Check a policy, or replace the running hub's.", rich_markup_mode=None
)
app.add_typer(policy, name="policy", no_args_is_help=True)

accounts = typer.Typer(cls=_Group, help="Check an accounts file.", rich_markup_mode=None)
app.add_typer(accounts, name="accounts", no_args_is_help=True)
accounts.command("check")(cli_offline.check_accounts)

for command in (cli_client.send, cli_client.trace, cli_client.customer, cli_client.status):
    app.command()(command)
for command in (cli_live.watch, cli_live.export):
    app.command()(command)
for command in (cli_offline.simulate, cli_offline.schema):
    app.command()(command)
policy.command("check")(cli_offline.check)
policy.command("apply")(cli_client.apply)


@app.command()
def up(
    config: Annotated[Path | None, typer.Option(help="A tact.toml.", exists=True)] = None,
    policy: Annotated[Path | None, typer.Option(help="A policy file.", exists=True)] = None,
    accounts: Annotated[Path | None, typer.Option(help="An accounts file.", exists=True)] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the embedded server keeps everything.")
    ] = None,
    nats_url: Annotated[
        str | None, typer.Option(help="A running NATS server, instead of an embedded one.")
    ] = None,
    nats_port: Annotated[
        int | None, typer.Option(help="Of the embedded server; 0: any.", min=0, max=65_535)
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Health, status, metrics; 0: any.", min=0, max=65_535)
    ] = None,
    hosts: Annotated[int | None, typer.Option(help="Processes that decide.", min=1, max=64)] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, instead of a local Ray.")
    ] = None,
    allow_lazy_sync: Annotated[
        bool | None,
        typer.Option(
            "--allow-lazy-sync",
            help="Accept a NATS server that acknowledges before its disk has the message: a "
            "power loss then loses acknowledged messages.",
        ),
    ] = None,
) -> None:
    """Run the hub in the foreground, until SIGTERM or Ctrl-C."""
    from hub.service.config import load_config

    options = {
        "policy": _text(policy),
        "accounts": _text(accounts),
        "data_dir": _text(data_dir),
        "nats.url": nats_url,
        "nats.port": nats_port,
        "http.port": http_port,
        "hosts": hosts,
        "ray_address": ray_address,
        "nats.allow_lazy_sync": allow_lazy_sync,
    }
    settings = load_config(config, options)
    from hub.service.up import run

    raise typer.Exit(run(settings))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def main() -> None:
    """The entry point of `tact`."""
    app()
