"""Every error of the hub survives a process border, has its own code, and says whether to retry."""

from __future__ import annotations

import importlib
import pickle
from collections import Counter

import pytest

from channels.provider import Answer
from channels.sending import Outcome
from hub.errors import PolicyError, TactError
from tests.support.tidy import modules

RETRYABLE = {
    "ArchiveUnreadable": "files come back",
    "GatewayFull": "there is room again when the hub has caught up",
    "GatewayUnavailable": "connections come back",
    "HubAway": "no hub answers yet: it may be starting",
    "HubFull": "there is room again when the hub has caught up",
    "HubLost": "whoever keeps the hub alive starts it again",
    "HubUnavailable": "connections come back",
    "LedgerFull": "there is room again when something was purged, or a person came",
    "LedgerUnavailable": "servers come back, and elect leaders",
    "LostError": "centres come back",
    "NatsExited": "the server may start at the second try",
    "NoOwner": "partitions are claimed again within seconds",
    "NotSent": "providers come back",
    "NotStored": "the ledger comes back, and it is read again",
    "RayFailed": "Ray may start at the second try",
}
"""Every error after which the same call may go well, and why. All others need a change first."""

EXTRA: dict[str, dict[str, object]] = {
    "PublishFailed": {"results": [7, PolicyError("no", place="x")]},
    "Unsendable": {"failure": "dead_address", "code": "EC_1"},
    "NotAllowed": {"reason": "private"},
    "Refused": {"status": 401},
    "GatewayRefused": {"outcome": Outcome(Answer("retry"))},
    "PduError": {"status": 2},
    "BadLength": {"status": 2},
    "BadBody": {"status": 2, "command": 4},
    "UnknownCommand": {"status": 3, "sequence": 9},
}
"""What a constructor takes beside the message."""


def below(kind: type[TactError]) -> set[type[TactError]]:
    """All errors under `kind`, whoever defines them."""
    return {each for child in kind.__subclasses__() for each in (child, *below(child))}


def all_errors() -> list[type[TactError]]:
    """Every error of the product, found by importing all of it."""
    for module in modules():
        if module.is_in("hub", "actors", "channels") and not module.path.endswith("__main__.py"):
            path = module.path.removesuffix(".py").removesuffix("/__init__")
            importlib.import_module(path.replace("/", "."))
    ours = ("hub.", "actors.", "channels.")  # tests define errors of their own, under any name
    found = {each for each in below(TactError) if each.__module__.startswith(ours)}
    return sorted(found | {TactError}, key=lambda kind: (kind.__module__, kind.__name__))


ERRORS = all_errors()


def made(kind: type[TactError]) -> TactError:
    extra = EXTRA.get(kind.__name__, {})
    return kind("what to do", retry_after_ms=250, place="caps[0]", partitions=[3, 5], **extra)


def told(value: object) -> object:
    """An error as plain data: exceptions compare by identity."""
    if isinstance(value, TactError):
        return type(value), {name: told(each) for name, each in vars(value).items()}
    if isinstance(value, list):
        return [told(each) for each in value]
    return value


def test_the_errors_are_found() -> None:
    names = {kind.__name__ for kind in ERRORS}
    assert {"TactError", "PolicyError", "FenceLost", "LedgerFull", "HubFull"} <= names


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(kind: type[TactError], protocol: int) -> None:
    error = made(kind)
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is kind
    assert told(copy) == told(error)
    assert (str(copy), copy.retry_after_ms) == ("what to do", 250)
    assert (copy.facts["place"], copy.facts["partitions"]) == ("caps[0]", [3, 5])


def test_no_two_errors_share_a_code() -> None:
    codes = Counter(kind.code for kind in ERRORS)
    assert {code: n for code, n in codes.items() if n > 1} == {}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_its_own(kind: type[TactError]) -> None:
    """Inherited, it would be that of its parent; fit for a metric's label."""
    assert "code" in vars(kind)
    assert kind.code.replace("-", "").isalpha()
    assert kind.code == kind.code.lower()


def test_retryable_is_set_deliberately() -> None:
    assert {kind.__name__ for kind in ERRORS if kind.retryable} == set(RETRYABLE)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_retryable_is_said_where_it_is_true_and_never_inherited(kind: type[TactError]) -> None:
    assert kind.retryable is vars(kind).get("retryable", False)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_an_error_says_what_it_means(kind: type[TactError]) -> None:
    """Its own docstring, not one inherited from Exception."""
    assert len(vars(kind).get("__doc__") or "") > 15
