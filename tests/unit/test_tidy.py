"""The tree keeps the house rules, and every rule is shown to find what breaks it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import tidy
from tests.support.tidy import ROOT, Module, modules, text_files

MODULES = modules()
PRODUCT = ("hub", "actors", "channels")

PURE = (
    "hub/policy",
    "hub/contract",
    "actors/commands.py",
    "actors/conversation.py",
    "actors/devices.py",
    "actors/turn.py",
    "actors/placement.py",
    "actors/fallback.py",
    "actors/account.py",
    "actors/account_gate.py",
    "actors/account_partition.py",
    "actors/account_queue.py",
    "actors/account_receipts.py",
    "actors/account_state.py",
    "actors/breaker.py",
    "actors/pacer.py",
    "actors/quota.py",
    "actors/window.py",
    "channels/provider.py",
    "channels/push/apns/errors.py",
    "channels/push/apns/payload.py",
    "channels/push/content.py",
    "channels/push/fcm/errors.py",
    "channels/push/fcm/message.py",
    "channels/push/service_account.py",
    "channels/push/vendors/categories.py",
    "channels/push/vendors/getui_codes.py",
    "channels/push/vendors/getui_content.py",
    "channels/push/vendors/jpush_codes.py",
    "channels/push/vendors/jpush_content.py",
    "channels/push/vendors/quotas.py",
    "channels/push/webhook/answers.py",
    "channels/push/webhook/config.py",
    "channels/push/webhook/inbox.py",
    "channels/push/webhook/message.py",
    "channels/push/webhook/signing.py",
    "channels/push/webpush/answers.py",
    "channels/push/webpush/subscription.py",
    "channels/sms/alphabet.py",
    "channels/sms/consent.py",
    "channels/sms/message.py",
    "channels/sms/numbers.py",
    "channels/sms/segments.py",
    "channels/sms/cmpp/messages.py",
    "channels/sms/cmpp/pdu.py",
    "channels/sms/cmpp/results.py",
    "channels/sms/smpp/codec.py",
    "channels/sms/smpp/pdu.py",
    "channels/sms/smpp/receipts.py",
    "channels/sms/smpp/status.py",
    "channels/sms/web/signing.py",
)
"""Decided by what they are given: the same input gives the same bytes in a year."""

READS_THE_CLOCK = {"hub/clock.py": "the one place that does; all others are given a Clock"}
PRINTS = {
    "hub/service/cli": "commands talk on standard output",
    "benchmarks/": "benchmarks report on standard output",
}


def complaints(rule: Callable[[Module], list[str]], chosen: list[Module]) -> list[str]:
    """What the rule says of these files; there must be some, or a test would pass on nothing."""
    assert chosen
    return [f"{module.path}:{what}" for module in chosen for what in rule(module)]


def within(*places: str) -> list[Module]:
    return [module for module in MODULES if module.is_in(*places)]


# ---- the tree --------------------------------------------------------------------------------


def test_the_tree_is_found() -> None:
    paths = {module.path for module in MODULES}
    assert {"hub/limits.py", "actors/turn.py", "tests/unit/test_tidy.py"} <= paths
    assert ROOT / "pyproject.toml" in text_files()
    for place in PURE:
        assert within(place), f"{place} is gone: the list of pure modules is out of date"


def test_layers() -> None:
    assert complaints(tidy.layers, MODULES) == []


def test_decisions_are_pure() -> None:
    assert complaints(tidy.purity, within(*PURE)) == []


def test_only_the_clock_reads_the_wall_clock() -> None:
    chosen = [module for module in within(*PRODUCT) if module.path not in READS_THE_CLOCK]
    assert complaints(tidy.wall_clock, chosen) == []


def test_files_and_functions_fit_a_reader() -> None:
    assert complaints(tidy.size, MODULES) == []


def test_only_commands_and_benchmarks_print() -> None:
    chosen = [module for module in MODULES if not module.path.startswith(tuple(PRINTS))]
    assert complaints(tidy.printing, chosen) == []


def test_public_names_have_docstrings() -> None:
    assert complaints(tidy.docstrings, within("hub", "actors")) == []


def test_no_exception_is_swallowed_in_silence() -> None:
    assert complaints(tidy.swallowing, MODULES) == []


def test_init_files_hold_no_logic() -> None:
    assert complaints(tidy.bare_init, MODULES) == []


def test_no_file_says_where_packages_come_from() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): tidy.index_hosts(path.read_text("utf-8", "replace"))
        for path in text_files()
    }
    assert {path: what for path, what in found.items() if what} == {}


# ---- the rules: what each must find, and what it must leave alone ----------------------------

LONG = "def f():\n" + "    x = 1\n" * 70

BAD = [
    (tidy.layers, "hub/policy/x.py", "import ray", "1: imports ray"),
    (tidy.layers, "hub/policy/x.py", "from ray import get", "1: imports ray.get"),
    (tidy.layers, "hub/client.py", "def f():\n    import actors.turn", "2: imports actors.turn"),
    (tidy.layers, "hub/client.py", "from channels import sms", "1: imports channels.sms"),
    (tidy.layers, "hub/client.py", "from hub.service import up", "1: imports hub.service.up"),
    (tidy.layers, "hub/client.py", "from .service import up", "1: imports hub.service.up"),
    (tidy.layers, "hub/policy/x.py", "from ..service import up", "1: imports hub.service.up"),
    (tidy.layers, "hub/client.py", "import nats.js", "1: imports nats.js"),
    (tidy.layers, "hub/service/x.py", "import nats", "1: imports nats"),
    (tidy.layers, "actors/turn.py", "import nats", "1: imports nats"),
    (tidy.layers, "channels/sms/x.py", "import ray", "1: imports ray"),
    (tidy.layers, "channels/sms/x.py", "import nats", "1: imports nats"),
    (tidy.layers, "hub/contract/x.py", "import hub.ledger.port", "1: imports hub.ledger.port"),
    (tidy.layers, "actors/x.py", "import tests.support", "1: imports tests.support"),
    (tidy.purity, "x.py", "import time\nt = time.time()", "2: time.time"),
    (tidy.purity, "x.py", "from time import monotonic_ns as t\nt()", "2: time.monotonic_ns"),
    (tidy.purity, "x.py", "import time as t\nf = t.sleep", "2: time.sleep"),
    (tidy.purity, "x.py", "from datetime import datetime\ndatetime.now()",
     "2: datetime.datetime.now"),
    (tidy.purity, "x.py", "import datetime as d\nd.datetime.utcnow()",
     "2: datetime.datetime.utcnow"),
    (tidy.purity, "x.py", "from datetime import date\ndate.today()", "2: datetime.date.today"),
    (tidy.purity, "x.py", "import random\nrandom.random()", "2: random.random"),
    (tidy.purity, "x.py", "from random import choice\nchoice([1])", "2: random.choice"),
    (tidy.purity, "x.py", "from uuid import uuid4\nuuid4()", "2: uuid.uuid4"),
    (tidy.purity, "x.py", "import asyncio\nasyncio.sleep(1)", "2: asyncio.sleep"),
    (tidy.purity, "x.py", "import os\nos.urandom(8)", "2: os.urandom"),
    (tidy.wall_clock, "x.py", "import time\ntime.time_ns()", "2: time.time_ns"),
    (tidy.size, "x.py", LONG, "1: f has 71 lines"),
    (tidy.size, "x.py", "class A:\n    async " + LONG.replace("\n", "\n    ").rstrip() + "\n",
     "2: f has 71 lines"),
    (tidy.size, "x.py", "x = 1\n" * 601, "1: module of 601 lines"),
    (tidy.printing, "x.py", "print(1)", "1: print"),
    (tidy.printing, "x.py", "out = print", "1: print"),
    (tidy.docstrings, "x.py", "x = 1", "1: module"),
    (tidy.docstrings, "x.py", '"""M."""\ndef f(): ...', "2: f"),
    (tidy.docstrings, "x.py", '"""M."""\nasync def f(): ...', "2: f"),
    (tidy.docstrings, "x.py", '"""M."""\nclass A:\n    """ """', "2: A"),
    (tidy.swallowing, "x.py", "try: f()\nexcept: raise", "2: bare except"),
    (tidy.swallowing, "x.py", "try:\n    f()\nexcept OSError:\n    pass",
     "3: swallowed without a comment"),
    (tidy.swallowing, "x.py", "for x in y:\n  try:\n    f()\n  except OSError:\n    continue",
     "4: swallowed without a comment"),
    (tidy.bare_init, "hub/x/__init__.py", '"""M."""\nx = 1', "2: logic in __init__"),
    (tidy.bare_init, "hub/x/__init__.py", "def f(): ...", "1: logic in __init__"),
]  # fmt: skip

GOOD = [
    (tidy.layers, "hub/service/x.py", "import ray, actors.turn, channels"),
    (tidy.layers, "hub/ledger/x.py", "import nats.js"),
    (tidy.layers, "actors/host.py", "import ray\nfrom hub.ledger import port"),
    (tidy.layers, "hub/client.py", "import rayon, natsort, hub.services"),
    (tidy.layers, "tests/x.py", "import nats, ray, benchmarks"),
    (tidy.purity, "x.py", "import time\nclass A:\n    time: int\ndef f(a): return a.time"),
    (tidy.purity, "x.py", "from datetime import datetime\ndatetime.fromtimestamp(0)"),
    (tidy.purity, "x.py", "from uuid import UUID\nfrom time import struct_time\nUUID, struct_time"),
    (tidy.wall_clock, "x.py", "import time\ntime.monotonic()"),
    (tidy.size, "x.py", "x = 1\n" * 600),
    (tidy.size, "x.py", LONG.replace("    x = 1\n", "", 1)),
    (tidy.printing, "x.py", "a.print(1)\nprinted = 1\n'print'"),
    (tidy.docstrings, "x.py", '"""M."""\ndef _f(): ...\ndef g():\n    """G."""'),
    (tidy.swallowing, "x.py", "try: f()\nexcept OSError:\n    pass  # gone already"),
    (tidy.swallowing, "x.py", "try: f()\nexcept OSError as error: raise E from error"),
    (tidy.bare_init, "hub/x/__init__.py", '"""M."""\nfrom a import b\n__all__ = ["b"]'),
    (tidy.bare_init, "hub/x/y.py", "x = 1"),
]


@pytest.mark.parametrize(("rule", "path", "text", "expected"), BAD)
def test_every_rule_finds_what_breaks_it(
    rule: Callable[[Module], list[str]], path: str, text: str, expected: str
) -> None:
    assert expected in rule(Module(path, text))


@pytest.mark.parametrize(("rule", "path", "text"), GOOD)
def test_no_rule_finds_what_is_allowed(
    rule: Callable[[Module], list[str]], path: str, text: str
) -> None:
    assert rule(Module(path, text)) == []


def test_every_rule_of_the_tree_has_a_bad_sample() -> None:
    rules = {
        rule
        for name, rule in vars(tidy).items()
        if callable(rule) and getattr(rule, "__annotations__", {}).get("module") == "Module"
    }
    public = {rule for rule in rules if not rule.__name__.startswith("_")}
    assert public == {rule for rule, *_ in BAD}


@pytest.mark.parametrize("name", ["py+pi", "files.python+hosted", "registry+.npm+js", "mirrors+.x"])
def test_an_index_host_is_found(name: str) -> None:
    """The names are put together here, or this file would be found."""
    host = name.replace("+", "") + ".org"
    (found,) = tidy.index_hosts(f"# a\n  url: https://{host}/x")
    assert found.startswith("2: ")
    assert found.removeprefix("2: ") in host


def test_an_index_option_is_found() -> None:
    option = "-".join(["index", "url"])
    assert tidy.index_hosts(f"pip install --extra-{option} x") == [f"1: {option}"]
    assert tidy.index_hosts(f"compile --no-emit-{option}") == []
    assert tidy.index_hosts("https://nats.io and a mirror of python") == []
