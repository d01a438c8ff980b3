"""The push addresses of one customer: what is remembered of them, and which of them get a push.

An address may begin with the account that reaches it: `<account>/<token>`. No token of a push
service begins like that, nor does a URL. Source: docs/policy.md, "Devices".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hub import limits
from hub.policy.state import ConversationState, Device, Devices

CHANNEL = "push"
"""The only channel on which a customer has several addresses."""

_WITH_ACCOUNT = re.compile(r"([A-Za-z0-9_-]{1,64})/(.+)\Z", re.DOTALL)


def split_address(address: str) -> tuple[str | None, str]:
    """(account or None, token) of a push address."""
    match = _WITH_ACCOUNT.match(address)
    return (None, address) if match is None else (match[1], match[2])


def account_for(state: ConversationState, stated: str | None, channel: str) -> str:
    """The account to send from: the only one that reaches the device seen last; else the one that
    is stated; else the channel's own, which has its name."""
    if channel == CHANNEL and (address := state.to.get(channel)) is not None:
        return split_address(address)[0] or stated or channel
    return stated or channel


def known(state: ConversationState) -> list[Device]:
    """All that are remembered, seen last first."""
    address, devices = state.to.get(CHANNEL), state.devices
    if address is None:
        return []
    if devices is None or not devices.known:
        return [Device(address, 0)]
    return [Device(address, devices.known[0].seen), *devices.known[1:]]


def further(state: ConversationState, most: int, since: int) -> list[str]:
    """The addresses of at most so many devices behind the one seen last: those seen at `since`
    (Unix ms) or later."""
    if most < 1 or state.devices is None:
        return []
    fresh = [each.address for each in state.devices.known[1:] if each.seen >= since]
    return fresh[:most]


# ---- what is remembered --------------------------------------------------------------------------


def remember(state: ConversationState, to: Mapping[str, str], at: int) -> None:
    """Somebody says at `at` (Unix ms) by which address she is reached on each of these channels."""
    if CHANNEL in to:
        tell(state, to[CHANNEL], at)
    state.to.update(to)


def tell(state: ConversationState, address: str, at: int) -> None:
    """Somebody says at `at` (Unix ms) that she has this address: it is the one seen last."""
    seen = [each.seen for each in known(state) if each.address == address]
    others = [each for each in known(state) if each.address != address]
    _keep(state, [Device(address, max([at, *seen])), *others])


def hear(state: ConversationState, address: str, at: int) -> None:
    """The customer wrote at `at` from this address. What comes late moves no other back."""
    devices = known(state)
    if not devices or devices[0].seen <= at or devices[0].address == address:
        tell(state, address, at)
        return
    seen = max([at, *(each.seen for each in devices if each.address == address)])
    others = [each for each in devices if each.address != address]
    place = next((i for i, each in enumerate(others) if each.seen <= seen), len(others))
    _keep(state, [*others[:place], Device(address, seen), *others[place:]])


def forget(state: ConversationState, address: str) -> None:
    """There is no such address any more. A bare token means it with whatever account."""
    _keep(
        state,
        [each for each in known(state) if address not in (each.address, _token(each.address))],
    )


def forget_all(state: ConversationState) -> None:
    """The customer is forgotten."""
    _keep(state, [])


def died(state: ConversationState, account: str, token: str, since: int) -> None:
    """A push service says of a token that it was dead at `since` (Unix ms): what was seen with it
    later lives on."""
    _keep(
        state,
        [
            each
            for each in known(state)
            if each.seen > since
            or split_address(each.address) not in ((account, token), (None, token))
        ],
    )


def _token(address: str) -> str:
    return split_address(address)[1]


def _keep(state: ConversationState, devices: list[Device]) -> None:
    """These are the devices now, seen last first."""
    if devices:
        if state.devices is None:
            state.devices = Devices()
        first, *others = devices[: limits.DEVICES]
        state.devices.known = [Device("", first.seen), *others]
        state.to[CHANNEL] = first.address
    else:
        state.to.pop(CHANNEL, None)
        if state.devices is not None:
            state.devices.known = []
            tidy(state)


def tidy(state: ConversationState) -> None:
    """Something of it was forgotten: nothing at all is None again."""
    devices = state.devices
    if devices is not None and not (devices.known or devices.copies):
        state.devices = None
