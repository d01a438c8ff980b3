"""Commands that change what is remembered of a conversation, and nothing more.

Pure: whether anything is to be decided again the conversation sees for itself.
"""

from __future__ import annotations

from hub import limits
from hub.contract.times import to_ms
from hub.contract.types import (
    AnyCommand,
    DeviceForget,
    DndClear,
    DndSet,
    ProfileSet,
    Release,
    Takeover,
)
from hub.policy import devices
from hub.policy.state import FOREVER, ConversationState


def carry_out(command: AnyCommand, state: ConversationState, accepted: int) -> str | None:
    """Do what a command says; returns why that cannot be, or None. `accepted`: when the stream
    took it."""
    match command:
        case DndSet(scope=scope, until=until):
            if not set_dnd(state, scope, FOREVER if until is None else max(1, to_ms(until))):
                return f"{limits.DND_SCOPES} DND scopes are set already"
        case DndClear(scope=scope):
            state.dnd.pop(scope, None)
        case ProfileSet(timezone=zone, to=to, owner=owner):
            state.zone = zone or state.zone
            devices.remember(state, to or {}, accepted)
            state.owner = owner or state.owner
        case DeviceForget(to=address):
            devices.forget(state, address)
        case Takeover(agent=agent, until=until):
            state.agent = agent
            state.takeover = FOREVER if until is None else max(1, to_ms(until))
        case Release():
            state.agent, state.takeover = None, FOREVER
    return None


def set_dnd(state: ConversationState, scope: str, until: int) -> bool:
    """Do not disturb. False: there are too many scopes."""
    if scope not in state.dnd and len(state.dnd) >= limits.DND_SCOPES:
        return False
    state.dnd[scope] = until
    return True


def forget_person(state: ConversationState) -> None:
    """Erase what is personal: consent and counts stay."""
    state.to, state.zone, state.owner, state.inbound = {}, None, None, 0
    state.agent, state.takeover = None, FOREVER
    state.windows.clear()
    state.waiting.clear()
    state.talked()
    devices.forget_all(state)


def consent(state: ConversationState) -> tuple[object, ...]:
    """What a command must change for held intents to be decided again (step 9)."""
    return dict(state.dnd), state.zone, dict(state.to), state.agent, state.takeover
