"""What a gateway's library raises. One root, and for each kind what to do about it."""

from __future__ import annotations

from hub.errors import TactError
from hub.ledger.port import LedgerFull, LedgerUnavailable


class GatewayError(TactError):
    """Root of what the library raises."""

    code = "gateway"


class GatewayUnavailable(GatewayError):
    """No answer for limits.PUBLISH_PATIENCE_S, or not open. It may be stored: say it again."""

    code = "gateway-unavailable"
    retryable = True


class GatewayFull(GatewayError):
    """The hub has no room: nothing was stored. Say it again after `retry_after_ms`."""

    code = "gateway-full"
    retryable = True


class GatewayRefused(GatewayError):
    """The server refuses it, and would again: a wrong login, or a setting. The message says why."""

    code = "gateway-refused"


class InvalidReport(GatewayError):
    """A receipt, inbound message or command that the hub would reject. Nothing was published."""

    code = "gateway-invalid"


class NotHeld(GatewayError):
    """This parcel was given back or is to be tried again: nothing more can be said through it."""

    code = "gateway-not-held"


def public(error: TactError) -> GatewayError:
    """The library's own error for one of the ledger's."""
    if isinstance(error, GatewayError):
        return error
    kind: type[GatewayError] = GatewayRefused
    message = error.message
    if isinstance(error, LedgerFull):
        kind = GatewayFull
    elif isinstance(error, LedgerUnavailable):
        kind = GatewayUnavailable
        if error.facts.get("no_responders"):  # accounts of a server cannot tell the two apart
            message += "; or this user may not ask it (see docs/gateways.md, Permissions)"
    made = kind(message, retry_after_ms=error.retry_after_ms, **error.facts)
    made.__cause__ = error
    return made
