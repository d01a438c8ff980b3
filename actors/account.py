"""The account actor: when each delivery leaves by one sending identity, and what became of it.

A pure state machine of (input, state, time). What it decides goes to `Effects`; a turn commits
that, and only then anything is put on the wire or told. One delivery is one attempt:

    waiting -> open -> accepted -> done          receipts: sent, then delivered, read or failed
       ^        |  \\-> failed                    the provider refused it for good
       |        |  \\-> unknown                   it left and no answer came
       \\--------/ refused for the moment

Claimed (`open`) durably before the provider is called: what a crash leaves open may have been sent,
and is never sent again blindly. Source: docs/operations.md, "What becomes of a delivery"; ADR 6.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from actors.account_admission import SUPERSEDED, outdated, turned_away
from actors.account_customers import closed, ended, follows, recall, uncount
from actors.account_effects import Effects
from actors.account_gate import CLAIM_MS, OPEN_AHEAD_MS, Gate, wait_of
from actors.account_queue import Entry, Queue
from actors.account_state import (
    ACCEPTED,
    DONE,
    OPEN,
    OWN,
    UNKNOWN,
    WAITING,
    AccountState,
    Attempt,
    account_key,
    attempt_key,
    name_for,
    pack,
    unpack_account,
)
from actors.failover import hand_over
from channels.accounts import AccountConfig
from channels.provider import Answer, Link, Prepared, Provider, Submission, Unsendable
from channels.registry import PROVIDERS
from hub.contract.types import Delivery, FailureClass, ReceiptStatus
from hub.policy.state import FAILED, STATUS

BODIES_KEPT = 1_024
"""Bodies of waiting deliveries that an account keeps in memory, and as many more of urgent ones;
others are read again."""
FETCH_AHEAD = BODIES_KEPT // 2
"""Bodies an account asks for at once: enough that it seldom waits for them, and what is urgent and
comes meanwhile is still kept."""
IDLE_MS = 60_000
"""An account of which nothing was asked for so long is put away, if its provider can spare it: a
hub of many thousands keeps in memory those that work."""
FAILOVER_LOOK_MS = 1_000
"""Between two looks whether a lost connection has been lost for too long."""
ENDED_TURN = 1_000
"""Deliveries given back in one turn: their receipts must fit a log record."""
_UNANSWERED = Answer("unknown", code="no-answer")


class Account:
    """One account, in memory as long as it has something to do.

    `prepare` is the provider's; `resend` whether it removes repeats by the delivery's id.
    """

    __slots__ = (
        "_bodies",
        "_doomed",
        "_effects",
        "_fetching",
        "_kind",
        "_prepare",
        "_resend",
        "_soon_units",
        "claimed",
        "departing",
        "gate",
        "name",
        "next_ms",
        "open",
        "open_units",
        "overdue",
        "queue",
        "touched_ms",
    )

    def __init__(
        self,
        config: AccountConfig,
        effects: Effects,
        prepare: Callable[[Delivery], Prepared],
        now: int,
        *,
        resend: bool,
    ) -> None:
        self.name = config.name
        self.queue = Queue()
        self.open: dict[str, Entry] = {}
        """Claimed: about to leave, or unanswered."""
        self.open_units = 0
        self.departing: deque[Entry] = deque()
        """Claimed and committed, not on the wire yet."""
        self.next_ms = math.inf
        """When it wants to be asked again although nothing has happened."""
        self._effects = effects
        self._kind = PROVIDERS[config.provider]
        self._prepare = prepare
        self._resend = resend
        self._bodies = 0
        self._fetching = 0
        """Bodies that are asked for."""
        self.claimed: list[Entry] = []
        """Claimed in this turn, to depart after its commit."""
        self.overdue: list[Entry] = []
        """Claimed, and not left before they expired, or failed by the receipt of a part that was
        taken earlier, or before the claim was good no longer."""
        self._soon_units = 0
        """Of what is claimed and has not left."""
        self._doomed: deque[str] = deque()
        """What waits and would expire before a used-up limit lets it go."""
        self.gate = Gate(config, self._used(), now, effects.owned_ms, resend=resend)
        self.touched_ms = now
        """When something last came for it."""

    @property
    def config(self) -> AccountConfig:
        """As it is configured now."""
        return self.gate.config

    def idle(self, now: int) -> bool:
        """Whether a new one, made when there is something to do, would do the same."""
        if self.queue.size or self.open or self.overdue or self._doomed:
            return False
        return self.gate.idle(now) and now - self.touched_ms >= IDLE_MS

    def configure(self, config: AccountConfig, now: int) -> None:
        """Take a configuration that was reloaded."""
        self.gate.configure(config, now)

    # ---- deliveries ----------------------------------------------------------------------------

    def take(self, delivery: Delivery, attempt: Attempt, now: int) -> None:
        """A delivery that has just been read from the ledger."""
        name = name_for(self._effects.load, delivery)
        if name is None:
            self._effects.count("tact_ignored_total", "delivery-repeated")
            return
        key = attempt_key(name)
        away = turned_away(self, delivery, attempt, now, replaces=self._kind.supersedes)
        if away is not None:
            self._end(name, attempt, "failed", now, *away)
            return
        entry = Entry(name, attempt, delivery)
        if self._bodies >= (2 * BODIES_KEPT if delivery.urgent else BODIES_KEPT):
            entry.delivery = None
        else:
            self._bodies += 1
        self.queue.add(entry)
        self._effects.store(key, pack(attempt))
        if attempt.expires_ms:
            self._effects.wake(attempt.expires_ms, key)

    def restore(self, delivery: str, attempt: Attempt, now: int) -> None:
        """An attempt found in the ledger by a new owner."""
        if attempt.state == OPEN:
            self.gate.settle(self._used(), now)
            self._lost_sight(Entry(delivery, attempt, None), now)
        elif attempt.state == WAITING:
            entry = Entry(delivery, attempt, None)
            self.queue.add(entry)
            if attempt.wake_ms > now:
                self.queue.postpone(entry, attempt.wake_ms)
            if attempt.expires_ms:
                self._effects.wake(attempt.expires_ms, attempt_key(delivery))

    def _used(self) -> bytes:
        """What was written down of the long limits."""
        packed = self._effects.load(account_key(self.name))
        return b"" if packed is None else unpack_account(packed).quota

    def loaded(self, entry: Entry, delivery: Delivery | None, now: int) -> None:
        """The body that was asked for; None when the ledger no longer has it."""
        entry.fetching = False
        self._fetching -= 1
        waits = entry.id in self.queue.by_id  # else it expired meanwhile
        if waits and delivery is None:
            self.queue.drop(entry)
            self._effects.count("tact_bodies_lost_total")
            self._end(entry.id, entry.attempt, "failed", now, "expired", "body-lost")
        elif waits:
            entry.delivery = delivery
            self._bodies += 1
        self.queue.free(entry.attempt.customer)

    def refuse(self, delivery: str, failure: FailureClass, code: str, now: int) -> None:
        """Give back what waits: its time ran out, or the account is no more."""
        entry = self.queue.by_id.get(delivery)
        if entry is not None:
            self.forget(entry)
            self._end(delivery, entry.attempt, "failed", now, failure, code)

    # ---- claiming --------------------------------------------------------------------------------

    def claim_due(self, now: int, most: int) -> int:
        """Claim what may leave within OPEN_AHEAD_MS; sets `next_ms`. Returns how many it saw."""
        self.next_ms = math.inf
        self._drop_overdue(now)
        self._drop_doomed(now)
        if self.config.failover is not None:
            if self.gate.link.window <= 0:
                self.next_ms = now + FAILOVER_LOOK_MS
            if self.gate.broken(now):
                hand_over(self, self._effects, self.config.failover, now)
        looked = 0
        while (entry := self.queue.next(now)) is not None:
            if self._effects.full or looked >= most:
                self.next_ms = now
                break
            looked += 1
            wait_ms = self.gate.ready_ms(entry, self.open_units, self._soon_units, now)
            if wait_ms > now:
                self.next_ms = min(self.next_ms, wait_ms)
                break
            if entry.delivery is None and self._fetching >= FETCH_AHEAD:
                break  # it goes on when one is loaded
            self._claim(entry, now)
        else:
            self.next_ms = min(self.next_ms, self.queue.next_ms())
        self._store_quota(now)
        return looked

    def _claim(self, entry: Entry, now: int) -> None:
        """Claim one, or say why not: failed, postponed, or its body is fetched first."""
        attempt = entry.attempt
        if attempt.expires_ms and attempt.expires_ms <= now:
            self.forget(entry)
            self._end(entry.id, attempt, "failed", now, "expired", "")
            return
        if entry.delivery is None:
            self.fetch(entry)
            return
        if entry.prepared is None and not self._made_ready(entry, now):
            return
        if self.gate.counts_recipients:
            recall(self._effects, self.gate.quota, self.name, attempt.recipient, now)
        ready = self.gate.quota_ready(entry, now)
        if ready.at_ms > now:
            if ready.scope == "recipient" and self._kind.closes:
                self._refuse_closed(entry, ready.limit, now)
            elif ready.at_ms >= (attempt.expires_ms or math.inf):
                self.forget(entry)
                self._end(entry.id, attempt, "failed", now, "throttled", ready.limit)
            elif ready.scope == "account" and not entry.quota_ms:  # a repeat would not heed it
                self._block(ready.at_ms, ready.limit, now)
            else:
                self.queue.postpone(entry, min(ready.at_ms, now + 3_600_000.0))
            return
        soon = self.gate.departure(attempt, now)
        if soon.scope in ("app", "recipient") and soon.at_ms > now + OPEN_AHEAD_MS:
            # Claimed now it would hold a place in the window that others could leave by.
            self.queue.postpone(entry, soon.at_ms - OPEN_AHEAD_MS)
            return
        window = self._kind.window
        assert entry.prepared is not None
        if window and not entry.prepared.free and not follows(self._effects, window, attempt, now):
            self._refuse_closed(entry, "window", now)
            return
        self.gate.claimed(entry, now)
        attempt.state, attempt.opened_ms, attempt.wake_ms = OPEN, now, 0
        self.queue.take(entry)
        self.open[entry.id] = entry
        self.open_units += attempt.units
        self._soon_units += attempt.units
        self.claimed.append(entry)
        self._effects.store(attempt_key(entry.id), pack(attempt))

    def _refuse_closed(self, entry: Entry, code: str, now: int) -> None:
        """Nothing may be sent to this customer now: her conversation goes on without us."""
        self.forget(entry)
        self._end(entry.id, entry.attempt, "failed", now, "window_closed", code)

    def fetch(self, entry: Entry) -> None:
        """Have its body read again; nothing else of its conversation leaves meanwhile."""
        entry.fetching = True
        self._fetching += 1
        self.queue.hold(entry)
        self._effects.fetch(self, entry)

    def _made_ready(self, entry: Entry, now: int) -> bool:
        attempt = entry.attempt
        assert entry.delivery is not None
        try:
            entry.prepared = prepared = self._prepare(entry.delivery)
        except Unsendable as error:
            attempt.recipient = entry.delivery.to
            self.forget(entry)
            self._end(entry.id, attempt, "failed", now, error.failure, error.provider_code)
            return False
        attempt.recipient, attempt.units = prepared.recipient, prepared.units
        attempt.uncounted = prepared.uncounted
        return True

    def _block(self, until_ms: float, limit: str, now: int) -> None:
        """A limit of the whole account is used up. What would expire before is given back now, so
        that its conversation goes on without this account."""
        self.gate.blocked_ms, self.gate.blocked_by = until_ms, limit
        ends = (e for e in self.queue if 0 < e.attempt.expires_ms <= until_ms and not e.quota_ms)
        self._doomed = deque(entry.id for entry in ends)
        self._drop_doomed(now)

    def _drop_doomed(self, now: int) -> None:
        for _ in range(min(len(self._doomed), ENDED_TURN)):
            entry = self.queue.by_id.get(self._doomed.popleft())
            if entry is not None and not entry.fetching:
                self.forget(entry)
                self._end(entry.id, entry.attempt, "failed", now, "throttled", self.gate.blocked_by)
        if self._doomed:
            self.next_ms = now

    def _drop_overdue(self, now: int) -> None:
        for entry in self.overdue:
            attempt = entry.attempt
            uncount(self._effects, self.gate, entry, now)
            if attempt.told >= FAILED or 0 < attempt.expires_ms <= now:
                self._close(entry)
                self._end(entry.id, attempt, "failed", now, "expired", "")
            else:
                self._again(entry, now, 0)
        self.overdue.clear()

    def _store_quota(self, now: int) -> None:
        """Once a turn that has counted something."""
        if self.gate.unsaved:
            self.gate.unsaved = False
            state = AccountState(self.gate.quota.dump(now))
            self._effects.store(account_key(self.name), pack(state))

    def committed(self) -> None:
        """What was claimed is claimed for good: it may leave."""
        self.departing.extend(self.claimed)
        self.claimed.clear()

    # ---- leaving ---------------------------------------------------------------------------------

    def depart(self, clock: Callable[[], float], provider: Provider) -> float:
        """Put on the wire what is due; returns when the next is (infinite: none is)."""
        later: list[Entry] = []
        now, next_ms = clock(), math.inf
        while self.departing and self.gate.link.window > 0:
            entry = self.departing[0]
            attempt = entry.attempt
            late = 0 < attempt.expires_ms <= now or attempt.opened_ms + CLAIM_MS <= now
            if late or attempt.told >= FAILED:
                self.overdue.append(self.departing.popleft())
                self._soon_units -= attempt.units
                continue
            ready = self.gate.departure(attempt, now)
            if ready.at_ms > now:
                next_ms = min(next_ms, ready.at_ms)
                if ready.scope == "account":
                    break
                later.append(self.departing.popleft())
                continue
            self.departing.popleft()
            self._soon_units -= attempt.units
            assert entry.prepared is not None
            provider.submit(
                Submission(
                    entry.id,
                    entry.prepared,
                    attempt.expires_ms,
                    tuple(attempt.ids),
                    attempt.unsure,
                    attempt.tries,
                )
            )
            if self.gate.pacer.limited:
                provider.flush()  # asked before, counted after: no hold-up brings two nearer
            now = clock()
            self.gate.departed(entry, now)
        self.departing.extendleft(reversed(later))
        return next_ms

    def take_back(self, now: int) -> None:
        """What is claimed and has not left waits again: the connection is gone, or we stop."""
        self._drop_overdue(now)
        for entry in [*self.departing, *self.claimed]:
            uncount(self._effects, self.gate, entry, now)
            self._again(entry, now, 0)
        self._store_quota(now)
        self._soon_units = 0
        self.departing.clear()
        self.claimed.clear()

    # ---- what the provider says ------------------------------------------------------------------

    def answered(self, delivery: str, answer: Answer, now: int) -> Entry | None:
        """The answer to a submission. Returns its entry; None for one that nobody waits for."""
        entry = self.open.get(delivery)
        if entry is None or not entry.left_ms:
            self._effects.count("tact_ignored_total", "answer-unmatched")
            return None
        self._effects.count("tact_submissions_total", self.name, answer.kind)
        attempt = entry.attempt
        if any(answer.provider_ids):
            attempt.ids = list(answer.provider_ids)
        self.gate.heard(answer, now)
        if answer.kind == "accepted":
            self._accepted(entry, answer, now)
        elif answer.kind == "unknown":
            self._close(entry)
            self._lost_sight(entry, now)
        elif answer.kind == "failed" or attempt.told >= FAILED:  # a receipt may have been faster
            failure = answer.failure or "provider"
            attempt.dead_ms = answer.dead_since_ms
            if failure == "window_closed" and self._kind.window is not None:
                closed(self._effects, self._kind.window, attempt, now)
            self._close(entry)
            self.tell(delivery, attempt, "failed", now, failure, answer.code)
            self._linger(delivery, attempt, now)
        else:
            self._refused(entry, answer, now)
        return entry

    def _accepted(self, entry: Entry, answer: Answer, now: int) -> None:
        attempt = entry.attempt
        self._close(entry)
        attempt.receipts = answer.receipts
        if not attempt.receipts:
            self._end(entry.id, attempt, "sent", now, None, answer.code)
            return
        attempt.state = ACCEPTED
        attempt.wake_ms = now + self.config.ms("receipts_for")
        self._effects.wake(attempt.wake_ms, attempt_key(entry.id))
        if answer.status is not None:
            self.tell(entry.id, attempt, answer.status, now, None, answer.code)
        self._effects.store(attempt_key(entry.id), pack(attempt))

    def _refused(self, entry: Entry, answer: Answer, now: int) -> None:
        """Not taken for the moment: `retry` or `throttled`."""
        attempt = entry.attempt
        uncount(self._effects, self.gate, entry, now)
        attempt.tries += answer.kind == "retry" and bool(answer.code)  # else it never left
        wait_ms = wait_of(answer, attempt.tries)
        if answer.kind == "throttled":
            key = {"app": attempt.app, "recipient": attempt.recipient}.get(answer.scope, "")
            added_ms = self.gate.pause(answer.scope, key, wait_ms, now)
            if added_ms:
                self._effects.count(
                    "tact_account_throttled_seconds_total", self.name, by=added_ms / 1000
                )
                if wait_ms > OPEN_AHEAD_MS:
                    self.take_back(now)
        if attempt.tries >= self.config.tries:
            self._close(entry)
            self._end(entry.id, attempt, "failed", now, "provider", answer.code)
        elif attempt.expires_ms and now + wait_ms >= attempt.expires_ms:
            self._close(entry)
            failure: FailureClass = "throttled" if answer.kind == "throttled" else "expired"
            self._end(entry.id, attempt, "failed", now, failure, answer.code)
        else:
            self._again(entry, now, wait_ms)

    def _again(self, entry: Entry, now: int, wait_ms: int) -> None:
        """Back into the queue, at its own place."""
        attempt = entry.attempt
        self.open.pop(entry.id, None)
        self.open_units -= attempt.units
        attempt.state, attempt.wake_ms = WAITING, now + wait_ms
        self._put_back(entry)
        self.queue.free(attempt.customer, attempt.wake_ms if wait_ms else 0.0)
        if outdated(self, entry):
            self.refuse(entry.id, *SUPERSEDED, now)

    def _lost_sight(self, entry: Entry, now: int) -> None:
        """It may have been sent. Again only under a key by which the provider removes repeats."""
        delivery, attempt = entry.id, entry.attempt
        if attempt.told >= FAILED:  # it was: receipts that knew our id have said the last word
            self._linger(delivery, attempt, now)
        elif not (self._resend and self._repeat(entry, now)):
            attempt.state = UNKNOWN
            attempt.wake_ms = now + self.config.ms("unknown_after")
            self._effects.wake(attempt.wake_ms, attempt_key(delivery))
            self._effects.store(attempt_key(delivery), pack(attempt))
            self._effects.count("tact_unanswered_total", self.name)

    def _repeat(self, entry: Entry, now: int) -> bool:
        """What may have been sent is sent again: first at once, then later and later. False when it
        was sent often enough."""
        attempt = entry.attempt
        attempt.tries += 1
        if attempt.tries >= self.config.tries:
            return False
        wait_ms = wait_of(_UNANSWERED, attempt.tries) if attempt.unsure else 0
        self._bodies += entry.delivery is not None
        attempt.state, attempt.wake_ms, attempt.unsure = WAITING, now + wait_ms, True
        self._put_back(entry)
        if wait_ms:
            self.queue.postpone(entry, attempt.wake_ms)
        return True

    def _put_back(self, entry: Entry) -> None:
        """It waits again. Its end may have passed unnoticed while it was on its way."""
        attempt, key = entry.attempt, attempt_key(entry.id)
        entry.left_ms = 0.0
        self.queue.add(entry)
        self._effects.store(key, pack(attempt))
        if attempt.expires_ms:
            self._effects.wake(attempt.expires_ms, key)

    def give_up_waiting(self, delivery: str, attempt: Attempt, now: int) -> None:
        """The deadline of an unanswered or accepted attempt has passed without a receipt."""
        if attempt.state == UNKNOWN:
            again = self.config.duplicates == "allow" and not 0 < attempt.expires_ms <= now
            if not (again and self._repeat(Entry(delivery, attempt, None), now)):
                self._end(delivery, attempt, "unknown", now, None, _UNANSWERED.code)
        elif attempt.state == ACCEPTED:
            self._effects.count("tact_ignored_total", "receipt-never-came")
            if not attempt.told:
                self.tell(delivery, attempt, "unknown", now, None, "no-receipt")
            self._linger(delivery, attempt, now)

    def changed(self, link: Link, now: int) -> None:
        """The connection: gone, back, or with another window."""
        if self.gate.changed(link, now):
            self.take_back(now)

    # ---- ends ------------------------------------------------------------------------------------

    def forget(self, entry: Entry) -> None:
        """It leaves the queue for another reason than being sent."""
        self.queue.drop(entry)
        if entry.delivery is not None:
            self._bodies -= 1

    def _close(self, entry: Entry) -> None:
        """The provider has answered: the conversation's next may go."""
        self.open.pop(entry.id)
        self.open_units -= entry.attempt.units
        self._bodies -= 1
        self.queue.free(entry.attempt.customer)

    def _end(
        self,
        delivery: str,
        attempt: Attempt,
        status: ReceiptStatus,
        now: int,
        failure: FailureClass | None,
        code: str,
    ) -> None:
        if status == "failed" and attempt.unsure:  # by our word: it may have arrived before
            status, failure = "unknown", None
        self.tell(delivery, attempt, status, now, failure, code, last=status == "sent")
        self._linger(delivery, attempt, now)

    def tell(
        self,
        delivery: str,
        attempt: Attempt,
        status: ReceiptStatus,
        at_ms: int,
        failure: FailureClass | None = None,
        code: str = "",
        *,
        last: bool = False,
    ) -> bool:
        """Tell the conversation, if it is news: a state only moves forward. `last`: nothing follows
        this `sent` unless it failed after all."""
        if STATUS[status] <= attempt.told:
            self._effects.count("tact_ignored_total", "receipt-behind")
            return False
        attempt.told = STATUS[status]
        if attempt.app != OWN:
            self._effects.tell(delivery, attempt, status, at_ms, failure, code, last)
        return True

    def finish(self, delivery: str, attempt: Attempt, now: int) -> None:
        """Receipts have said the last word."""
        waiting = self.queue.by_id.get(delivery)
        if waiting is not None:  # it was to be sent again, and had arrived after all
            self.forget(waiting)
        self._linger(delivery, attempt, now)

    def _linger(self, delivery: str, attempt: Attempt, now: int) -> None:
        attempt.state, attempt.wake_ms = DONE, now + self._kind.linger_ms
        if attempt.windowed:
            ended(self._effects, attempt, now)
        key = attempt_key(delivery)
        self._effects.wake(attempt.wake_ms, key)
        self._effects.store(key, pack(attempt))
