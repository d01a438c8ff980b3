"""Accounts that a gateway of the user's own serves, beside the hub's of the same channel.

The hub decides for them as for any other, and reads past what is for them. Source:
docs/gateways.md, "Beside the hub's own accounts".
"""

from __future__ import annotations

from msgspec import Struct


class OutsideConfig(Struct, forbid_unknown_fields=True, frozen=True):
    """`[accounts.gateway]`: nothing. What the gateway needs, it has itself."""
