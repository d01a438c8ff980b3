"""What a conversation remembers for windows: when the customer wrote to an account, and what went
out since. Source: docs/policy.md, "The rules", Window; step 9 of "Deciding an intent".
"""

from __future__ import annotations

from hub import limits
from hub.policy.devices import account_for
from hub.policy.policy import Policy
from hub.policy.state import ConversationState, Held, window_key


def wrote(
    policy: Policy, state: ConversationState, channel: str, account: str, at: int, now: int
) -> list[Held]:
    """The customer wrote at `at` (Unix ms) to an account; returns what is to be decided again.

    Where the policy has no windows nothing is noted. A message older than the last one noted opens
    nothing; one that comes late counts the dispatches since it was written.
    """
    if not policy.windows_on(channel):
        return []
    key = window_key(channel, account)
    before, at = state.windows.get(key), min(at, now)
    if before is not None and at < before[0]:
        return []
    waiting = [held for held in state.held if _waits(policy, state, held, channel, account)]
    if before is None and len(state.windows) >= limits.CONVERSATION_ACCOUNTS:
        del state.windows[min(state.windows, key=lambda name: state.windows[name][0])]
    since = 0
    for send in state.sends:  # newest first
        if send.at <= at:
            break
        # Without a category it is no message but an operation: a group made, a customer passed on.
        if send.account == account and send.channel == channel and send.category:
            since += 1
    state.talking().windows[key] = [at, since]
    return waiting


def sent(state: ConversationState, channel: str, account: str) -> None:
    """A dispatch left on an account: it counts in the window there, if the customer opened one."""
    opened = state.windows.get(window_key(channel, account))
    if opened is not None:
        opened[1] += 1


def _waits(
    policy: Policy, state: ConversationState, held: Held, channel: str, account: str
) -> bool:
    """Whether a window there may be why this is held, and not going sooner.

    A window that is open at the moment at which it is to go was open at all moments before, and
    had no part in it.
    """
    if (
        held.in_flight
        or channel not in held.route
        or account_for(state, held.account or state.owner, channel) != account
    ):
        return False
    windows = policy.asked(held.app, held.category)[channel].windows
    if held.wake >= held.expires:  # it has no next_eligible_at
        return bool(windows)
    opened = state.windows.get(window_key(channel, account))
    return not all(rule.open_at(opened, held.wake) for rule in windows)
