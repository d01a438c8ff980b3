"""What CMPP's numbers mean for a message: the tables, total on anything."""

from __future__ import annotations

import pytest

from channels.sms.cmpp.results import Fate, fate_of, refusal_of, verdict_of


@pytest.mark.parametrize(
    ("result", "kind", "failure"),
    [
        (0, "accepted", None),
        (8, "throttled", None),
        *((number, "failed", "rejected_content") for number in (1, 2, 3, 4, 6)),
        *((number, "failed", "config") for number in (5, 7, 9, 10, 11, 12)),
        (13, "failed", "dead_address"),
        *((number, "failed", "provider") for number in (14, 100, 199, 0xFFFF_FFFF)),
    ],
)
def test_results_of_a_submit(result: int, kind: str, failure: str | None) -> None:
    verdict = verdict_of(result)
    assert (verdict.kind, verdict.failure) == (kind, failure)
    assert verdict.known == (result <= 13)
    assert verdict.code.startswith(f"CMPP_{result}")


def test_a_gateway_has_results_of_its_own() -> None:
    own = {"132": "retry", "9": "throttled", "140": "dead_address", "0": "config"}
    assert verdict_of(132, own).kind == "retry"
    assert verdict_of(132, own).known
    assert verdict_of(9, own).kind == "throttled"
    assert verdict_of(140, own).failure == "dead_address"
    assert verdict_of(0, own).kind == "accepted"  # taken is taken, whatever is configured


@pytest.mark.parametrize(
    ("stat", "expected"),
    [
        ("DELIVRD", Fate("delivered")),
        ("delivrd", Fate("delivered")),
        ("ACCEPTD", Fate("sent")),
        ("EXPIRED", Fate("failed", "expired")),
        *((stat, Fate("failed", "provider")) for stat in ("DELETED", "UNDELIV", "REJECTD")),
        ("UNKNOWN", Fate("unknown")),
        *((f"{two}:0012", Fate("unknown")) for two in ("MA", "MB", "MC", "IA", "IB", "IC")),
        *((f"{two}:0012", Fate("failed", "provider")) for two in ("CA", "CB", "DA", "DB")),
        *((stat, Fate("unknown", known=False)) for stat in ("", "MB", "XX:0001", "\xff")),
    ],
)
def test_stats_of_a_report(stat: str, expected: Fate) -> None:
    assert fate_of(stat) == expected


def test_a_gateway_has_stats_of_its_own() -> None:
    own = {"MK": "dead_address", "MB:0012": "delivered", "DB": "unknown"}
    assert fate_of("MK:0005", own) == Fate("failed", "dead_address")
    assert fate_of("MB:0012", own) == Fate("delivered")
    assert fate_of("MB:0013", own) == Fate("unknown")
    assert fate_of("DB:0141", own) == Fate("unknown")


def test_refusals() -> None:
    assert [refusal_of(status)[1] for status in (1, 2, 3, 4, 5, 99)] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
