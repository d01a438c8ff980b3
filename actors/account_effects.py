"""What an account's decisions may cause: implemented by its partition, and by models in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from actors.account_queue import Entry
from actors.account_state import Attempt
from hub.contract.types import FailureClass, ReceiptStatus

if TYPE_CHECKING:
    from actors.account import Account


class Effects(Protocol):
    """What an account's decision may cause. Nothing here happens before the turn is committed."""

    owned_ms: int
    """Since when it is ours: until then a former owner may have sent."""

    @property
    def full(self) -> bool:
        """The turn has as much as its log record may hold: the rest is for the next."""

    def load(self, key: str) -> bytes | None:
        """A packed value of this partition."""

    def store(self, key: str, value: bytes | None) -> None:
        """Replace or (None) remove one."""

    def wake(self, at_ms: int, key: str) -> None:
        """Look at an attempt again at this time."""

    def tell(
        self,
        delivery: str,
        attempt: Attempt,
        status: ReceiptStatus,
        at_ms: int,
        failure: FailureClass | None,
        code: str,
        last: bool,
    ) -> None:
        """A receipt for the conversation."""

    def fetch(self, account: Account, entry: Entry) -> None:
        """Read a body again; `loaded()` is called with it."""

    def hand_over(self, entry: Entry, account: str) -> None:
        """Put the delivery before another account, in the same commit."""

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a metric of `hub.metrics.TABLE`."""
