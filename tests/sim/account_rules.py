"""The limits of accounts as the checker takes them: plain numbers, and from when to when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from actors.account_gate import CLAIM_MS
from actors.window import parse_limit
from channels.accounts import AccountConfig
from hub.checkers.account_records import LimitRule

Key = tuple[str, str, int, str]


def rules_of(accounts: Iterable[AccountConfig]) -> list[LimitRule]:
    """Every limit of every account."""
    found = []
    for account in accounts:
        for per in ("account", "app", "recipient"):
            for text in account.limits_of(per):
                limit = parse_limit(text, per, account.name)
                rule = LimitRule(
                    account.name, limit.count, limit.window_ms, limit.calendar, limit.per,
                    account.timezone,
                )  # fmt: skip
                found.append(rule)
    return found


def changed_rules(
    rules: Sequence[LimitRule],
    before: Sequence[AccountConfig],
    after: Sequence[AccountConfig],
    began_ms: float,
    done_ms: float,
) -> list[LimitRule]:
    """After a reload: old ones end as it begins, new ones hold when every host has them.

    A window that there was before keeps what it has counted; another counts from then on, and not
    what was claimed before.
    """
    known = {_key(rule) for rule in rules_of(before)}
    return [
        *(replace(rule, until_ms=min(rule.until_ms, began_ms)) for rule in rules),
        *(
            replace(
                rule,
                from_ms=done_ms,
                counted_ms=rule.counted_ms if _key(rule) in known else done_ms + CLAIM_MS,
            )
            for rule in rules_of(after)
        ),
    ]


def _key(rule: LimitRule) -> Key:
    return rule.account, rule.per, rule.window_ms, rule.calendar
