"""What an account and its provider say to each other.

The account (`actors.account`) decides what leaves when, and remembers; a provider speaks one
protocol for one account and remembers nothing that must survive. Everything crosses this page as
plain data, so that a provider can be tested without a hub, and an account without a network.

A provider:
- turns a delivery into what it will put on the wire (`prepare`, pure), before anything is claimed;
- puts it there when it is told to (`submit`), and answers each submission exactly once;
- reports receipts and what customers wrote, and confirms them to the other side only after the
  account has stored them;
- keeps its own connections, comes back by itself, and says when it can work (`Events.link`).

Source: ADR 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct, field

from hub.contract.types import Delivery, FailureClass, ReceiptStatus
from hub.errors import TactError

Stored = Callable[[bool], None]
"""Called once: True when what was reported is stored for good (confirm it to the other side),
False when it could not be (let the other side keep it and repeat). What a provider reports is taken
in the order reported, and stored in that order: after a False nothing else of it is stored, for its
account is given up or has another owner, and it is stopped soon if it was not already."""


class Unsendable(TactError):
    """This delivery cannot leave by this account, whatever is tried: `failure` says why.

    The message is for the application's engineers and never quotes content or address.
    """

    code = "unsendable"

    def __init__(
        self, message: str, *, failure: FailureClass, code: str = "", **facts: Any
    ) -> None:
        # Unpickled it is called with its facts, the provider's code among them.
        super().__init__(message, failure=failure, **({"provider_code": code} | facts))

    @property
    def failure(self) -> FailureClass:
        return self.facts["failure"]  # type: ignore[no-any-return]

    @property
    def provider_code(self) -> str:
        return str(self.facts["provider_code"])


class Prepared(Struct, frozen=True):
    """A delivery made ready: what goes on the wire, and what limits count of it."""

    recipient: str
    """The address in one spelling (E.164 for a number): what limits per recipient count, and what
    an inbound message's sender is compared with."""
    units: int
    """What limits count and windows hold: segments of an SMS, else 1; 0: no limit counts it."""
    parts: tuple[Any, ...]
    """The provider's own, one for each unit that is accepted by itself (SMS: one a segment)."""

    free: bool = False
    """Not counted among what follows a customer's message (`channels.registry.Kind.window`)."""
    uncounted: bool = False
    """Not counted by long limits per recipient: a provider's quota of marketing counts no other."""

    def __repr__(self) -> str:
        return f"Prepared({self.units} units)"


class Submission(Struct, frozen=True):
    """One delivery on its way to the provider."""

    delivery: str
    """Its id: the idempotency key or the echoed reference, where the protocol has one."""
    prepared: Prepared
    expires_ms: int
    """Unix ms; told to the provider where the protocol has a validity period."""
    accepted: tuple[str, ...] = ()
    """Of an earlier try that was refused half way: the provider's id of each part that it has
    taken, "" for those to be sent now. Empty: nothing was taken."""
    again: bool = False
    """It may have been sent before: an earlier try was not answered (`Provider.resend`)."""
    tries: int = 0
    """Earlier ones of `AccountConfig.tries`, for providers whose protocol has a schedule."""

    def __repr__(self) -> str:
        return f"Submission({self.delivery!r})"


class Answer(Struct, frozen=True):
    """What the provider said to one submission; the classes of docs/operations.md.

    - accepted: taken; `provider_ids` are what receipts will name.
    - retry: not taken, and nothing is wrong with the message: again, after `retry_after_ms` or the
      account's own backoff. Also when it never left (the connection was lost before it).
    - throttled: not taken, and the whole of `scope` must pause for `retry_after_ms`.
    - failed: refused for good, `failure` says why.
    - unknown: it left and no answer came: it may have been taken. Never sent again blindly.
    """

    kind: Literal["accepted", "retry", "throttled", "failed", "unknown"]
    provider_ids: tuple[str, ...] = ()
    """One for each part, "" for a part that was not taken. Given with every kind, so that parts
    already taken are not sent twice."""
    receipts: int = 0
    """Accepted: how many receipts will follow; 0 when the answer is the last word."""
    failure: FailureClass | None = None
    code: str = ""
    """The provider's own code, for people: `ESME_RTHROTTLED`, `isv.BUSINESS_LIMIT_CONTROL`."""
    retry_after_ms: int | None = None
    scope: Literal["account", "app", "recipient"] = "account"
    """What a throttle is about."""
    dead_since_ms: int = 0
    """With failure `dead_address`: since when the provider knows it; 0: since now. An address that
    the customer was seen with later lives on."""
    status: Literal["sent"] | None = "sent"
    """Accepted: what is told of it; None for nothing yet: somebody must still confirm it."""


class ProviderReceipt(Struct, frozen=True):
    """What became of something accepted earlier. Known by the provider's id, or by the delivery's
    where the protocol echoes it."""

    status: ReceiptStatus
    at_ms: int
    provider_id: str = ""
    delivery: str = ""
    failure: FailureClass | None = None
    code: str = ""
    last: bool = False
    """`sent`, and nothing more will be told unless it failed after all: this provider knows of no
    `delivered`."""


class ProviderInbound(Struct, frozen=True):
    """What a customer wrote to the account."""

    id: str
    """The provider's own id if it has one (repeats are removed by it), else ""."""
    sender: str
    """The customer's address, in the spelling of `Prepared.recipient`."""
    content: dict[str, Any]
    at_ms: int
    opt_out: bool = False
    """The customer asks not to be written to any more, by this channel's rules."""
    parts: int = 1
    agent: str = ""
    """Who wrote it, if it was not the customer but a person on our side."""

    def __repr__(self) -> str:
        return f"ProviderInbound({self.id!r})"


class ProviderCommand(Struct, frozen=True):
    """What a provider's event changes of the conversation behind an address."""

    id: str
    sender: str
    """The customer's address, in the spelling of `Prepared.recipient`."""
    op: Literal["dnd.set", "dnd.clear", "takeover", "release", "profile.set"]
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the contract's command, times as text."""

    def __repr__(self) -> str:
        return f"ProviderCommand({self.id!r}, {self.op!r})"


BUNDLE_THINGS = 200
"""In one bundle: what they change must fit a log record."""
BUNDLE_BYTES = 256 * 1024
NOTES_MAX = 1_000
"""Notes of one account, of at most NOTE_BYTES each: they are in memory and in every snapshot."""
NOTE_BYTES = 64 * 1024
NOTE_KEY_CHARS = 128


class Bundle(Struct, frozen=True):
    """What belongs together and is stored in one commit or not at all: the messages of a page, and
    the cursor behind it."""

    id: str = ""
    """If given: one that was stored within the last hour is skipped, and confirmed."""
    receipts: tuple[ProviderReceipt, ...] = ()
    inbound: tuple[ProviderInbound, ...] = ()
    commands: tuple[ProviderCommand, ...] = ()
    notes: Mapping[str, bytes | None] = field(default_factory=dict)
    """What the provider wants to find at its next `start`, by its own keys; None forgets."""

    def __repr__(self) -> str:
        things = len(self.receipts) + len(self.inbound) + len(self.commands)
        return f"Bundle({self.id!r}, {things} things, {len(self.notes)} notes)"


class Link(Struct, frozen=True):
    """Whether the provider can work now, and how much it takes at once."""

    window: int
    """Units that may be unanswered at once; 0 while there is no connection."""
    reason: str = ""
    """Why it cannot work, for people; no address, no content, no secret."""
    config: bool = False
    """It will not work until a person changes something (wrong password, unknown system id)."""


class Events(Protocol):
    """What a provider reports. Calls return at once and never raise; one loop, no threads."""

    def answered(self, delivery: str, answer: Answer) -> None:
        """The answer to one submission, exactly one for each."""

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None:
        """A status report."""

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None:
        """A customer's message."""

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        """Several things at once, and what is to be remembered with them."""

    def link(self, link: Link) -> None:
        """The connection has changed; also called when the window changes."""

    def counted(self, name: str, *labels: str) -> None:
        """Add one to a metric of `hub.metrics.TABLE` (`tact_provider_total{account,what}`)."""


class Callback(Struct, frozen=True):
    """An HTTP request of the provider to us (receipts, inbound), received by the hub."""

    def __repr__(self) -> str:
        return f"Callback({self.method}, {len(self.body)} bytes)"

    method: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Reply(Struct, frozen=True):
    """The answer to a `Callback`."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


class Provider(Protocol):
    """One account's side of one provider."""

    resend: bool
    """Whether an unanswered submission may be sent again under the same delivery id because the
    provider removes repeats by it."""

    @property
    def idle(self) -> bool:
        """Nothing is under way, and nothing is missed while it is away: it may be stopped, and made
        anew when its account has something to do."""

    def prepare(self, delivery: Delivery) -> Prepared:
        """Pure: what would be sent. Raises Unsendable."""

    def start(self, notes: Mapping[str, bytes]) -> None:
        """Begin to connect, and stay connected, in tasks of its own. Returns at once. `notes`: what
        this account noted before, whoever owned it."""

    def submit(self, submission: Submission) -> None:
        """Put it on the wire now; never waits. A message of more units than the window comes when
        nothing else is open: what is beyond is sent as answers make room. One may come just after
        a lost link was told: it is answered `retry`."""

    def flush(self) -> None:
        """What was submitted is on the wire when this returns, if the connection takes it. Without
        it that is when the loop comes round. Nothing to do for those that make requests."""

    async def callback(self, request: Callback) -> Reply:
        """Answer the provider's HTTP request: 404 by those that have none."""

    async def stop(self, drain_s: float) -> None:
        """Take nothing more, wait up to `drain_s` for answers under way, disconnect. What is still
        unanswered then is answered `unknown`."""
