"""WeCom to try the hub with: tokens, messages, customer service, mass messages, groups, callbacks.

    python -m channels.wecom.fake --port 0 --callback-url http://127.0.0.1:4280/v1/callbacks/…

prints one line of JSON with its URL and its corps when it is ready. Things are made to happen by
POST /fake/<name> with a JSON object (`customer-writes`, `add-contact`, `fault`, `advance`, …; GET
/fake/ tells all), or by lines `{"do": "<name>", …}` on standard input. GET /fake/record tells what
it has seen. SIGTERM ends it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from channels.sms.fake import command
from channels.sms.fake.faults import Recorder
from channels.wecom.fake.server import FakeWecom
from channels.wecom.fake.settings import Scene, Settings, Size, made_up
from hub.errors import InputError

SHOWN = 10
"""Members, customers and accounts of each corp that the ready line names."""


def scene_of(arguments: argparse.Namespace) -> Scene:
    """The scene of --scene, or the one that the other options make up. Raises InputError."""
    if not arguments.scene:
        return made_up(command.options_of(arguments, Size))
    try:
        return msgspec.json.decode(Path(arguments.scene).read_bytes(), type=Scene)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"--scene {arguments.scene}: {error}") from error


def ready_line(fake: FakeWecom) -> dict[str, Any]:
    """What one must know to use it."""
    corps = [
        {
            "corp_id": corp.corp_id,
            "apps": [
                {
                    "agent_id": app.agent_id,
                    "secret": app.secret,
                    "callback_token": app.callback_token,
                    "callback_key": app.callback_key,
                }
                for app in corp.apps
            ],
            "members": corp.members[:SHOWN],
            "customers": list(corp.customers)[:SHOWN],
            "kf_accounts": corp.kf_accounts[:SHOWN],
        }
        for corp in fake.scene.corps[:SHOWN]
    ]
    return {"port": fake.port, "url": fake.url, "corps": corps}


async def _serve(arguments: argparse.Namespace) -> None:
    fake = FakeWecom(
        scene_of(arguments),
        command.options_of(arguments, Settings),
        seed=arguments.seed,
        plan=command.plan_of(arguments),
        recorder=Recorder(arguments.record),
    )
    await fake.start(arguments.host, arguments.port)
    await command.serve(fake, ready_line(fake))


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command.parser("wecom", "WeCom, for trying.")
    parser.add_argument("--scene", default="", metavar="FILE", help="corps as JSON")
    command.add_options(parser, Size)
    command.add_options(parser, Settings)
    command.run(_serve(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
