"""A second implementation of docs/policy.md, for tests only: slow, obvious and independent.

It shares no code with the product and reads the document as plain TOML. Numbers in comments are
the steps of "Deciding an intent at time t" in docs/policy.md. Where the product keeps what it needs
and computes, this one keeps everything and searches: dispatches and ids are never forgotten, and
what depends on local time is found by trying instants (`tests/support/wallclock.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.support.reference_parts import (
    Answer,
    Block,
    Copy,
    Customer,
    Dispatch,
    Piece,
    account_of,
    counts,
    duration_ms,
    fnv1a_32,
    forbidden_by,
    latest,
    matches,
    rank,
    together,
    token_of,
)
from tests.support.wallclock import (
    DAY_MS,
    local,
    period,
    period_end,
    quiet_window,
    say_time,
    to_ms,
    window_end,
)

LOOK_AHEAD_MS = 366 * DAY_MS
RECEIPTS_FOR_MS = 7 * DAY_MS
"""How long after a dispatch its receipts are awaited, and with them its fallback."""
RULES = (
    *(("cap", "caps"), ("gap", "gaps"), ("quiet", "quiet"), ("presence", "presence")),
    ("window", "windows"),
)


def simulate(policy: dict[str, Any], events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outcomes in the order decided; `events` as in the contract's "Simulation", each valid."""
    hub = Reference(policy)
    for event in events:
        hub.arrive(event)
    hub.run_wakes(None)
    return hub.outcomes


class Reference:
    """Every conversation of a hub, in virtual time."""

    def __init__(self, policy: dict[str, Any]) -> None:
        self.policy = policy
        self.customers: dict[str, Customer] = {}
        self.outcomes: list[dict[str, Any]] = []
        self.now = 0

    # ---- time ---------------------------------------------------------------------------------

    def arrive(self, event: dict[str, Any]) -> None:
        at = to_ms(event["at"])
        self.run_wakes(at)
        assert at >= self.now, "events are given in time order"
        self.now = at
        customer = self.customers.setdefault(event["customer"], Customer(event["customer"]))
        if event["type"] == "intent":
            self.intent(customer, event)
        elif event["type"] == "receipt":
            self.receipt(customer, event)
        elif event["type"] == "inbound":
            self.inbound(customer, event)
        else:
            self.command(customer, event)

    def run_wakes(self, until: int | None) -> None:
        """7. Everything due at or before `until` (None: everything) at its own time."""
        while True:
            due = [(p.wake, c.key) for c in self.customers.values() for p in c.waiting]
            if not due or (until is not None and min(due)[0] > until):
                return
            when, key = min(due)
            self.now = when
            customer = self.customers[key]
            self.decide_all(customer, [p for p in customer.waiting if p.wake == when], when)

    # ---- what arrives --------------------------------------------------------------------------

    def intent(self, customer: Customer, event: dict[str, Any]) -> None:
        """1. Refuse, or take note of what the intent says of the customer; then decide."""
        category = self.policy["categories"].get(event["category"])
        route = event.get("route") or (category["route"] if category else [])
        content = event["content"]
        if "text" not in content and "*" not in content:
            route = [channel for channel in route if channel in content]
        if category is None or not route:
            self.say(customer, event["app"], event["id"], "rejected", self.now)
            return
        if (event["app"], event["id"]) in customer.seen:
            self.say(customer, event["app"], event["id"], "duplicate", self.now)
            return
        customer.seen.add((event["app"], event["id"]))
        customer.tell(event.get("to") or {}, self.now)
        customer.zone = event.get("timezone") or customer.zone
        key = event.get("collapse_key")
        if key is not None:  # 8
            same = (event["app"], key)
            for old in [p for p in customer.waiting if (p.app, p.collapse_key) == same]:
                self.drop(customer, old, "superseded")
        for piece in self.pieces(event, category, route):
            customer.pieces.append(piece)
            self.decide(customer, piece, self.now)

    def pieces(
        self, event: dict[str, Any], category: dict[str, Any], route: list[str]
    ) -> list[Piece]:
        """10. One for the whole route, or one for each channel of a combined send."""
        combined = event.get("reach", "first") == "all"
        stated = to_ms(event["expires_at"]) if event.get("expires_at") else None
        hold_max = duration_ms(self.policy.get("hold_max", "72h"))
        priority = event.get("priority")
        return [
            Piece(
                id=event["id"],
                app=event["app"],
                category=event["category"],
                priority=category.get("priority", 5) if priority is None else priority,
                route=part,
                combined=combined,
                attempt=1 + index,
                accepted=self.now,
                stated=stated,
                expires=self.now + hold_max if stated is None else stated,
                not_before=to_ms(event["not_before"]) if event.get("not_before") else None,
                collapse_key=event.get("collapse_key"),
                account=event.get("account"),
                content=event["content"],
            )
            for index, part in enumerate([[c] for c in route] if combined else [route])
        ]

    def receipt(self, customer: Customer, event: dict[str, Any]) -> None:
        """The provider's word: only ever forwards; `unknown` is noted and not told."""
        addresses = dict(customer.to)
        due: list[Piece] = []
        for sent in customer.dispatches:
            for copy in sent.copies:
                if copy.delivery != event["delivery"] or rank(event["status"]) <= rank(copy.status):
                    continue
                copy.status = event["status"]
                sent.superseded |= event.get("class") == "superseded"
                dead = event.get("class") == "dead_address" and "to" in event
                if dead and sent.channel == "push":
                    customer.bury(copy, event["to"], to_ms(event.get("dead_since") or event["at"]))
                status = together([each.status for each in sent.copies])
                if rank(status) > rank(sent.status):
                    sent.status = status
                    due += self.receipt_counts(customer, sent, event)
        if customer.to != addresses:  # 9
            due += [piece for piece in customer.held if piece not in due]
        self.decide_all(customer, due, self.now)

    def receipt_counts(
        self, customer: Customer, sent: Dispatch, event: dict[str, Any]
    ) -> list[Piece]:
        """Fallback: what a word that moves a dispatch forwards does to its intent; what is to be
        decided again."""
        piece, told = sent.piece, {"channel": sent.channel, "delivery": sent.delivery}
        state = sent.status
        if state == "unknown":
            return []
        if sent.arrived:
            piece.phase = "done"
        elif sent is not piece.went[-1] or any(each.arrived for each in piece.went):
            return []
        elif sent.status == "failed" and sent.superseded:
            piece.phase, state = "done", "superseded"
        elif sent.status == "failed":
            words = [event[key] for key in ("class", "code") if event.get(key)]
            told["reason"] = " ".join(words) or "provider"
            if piece.phase in ("held", "flying"):
                piece.failure = told["reason"]
                return [piece]
        self.say(customer, sent.app, sent.intent, state, self.now, **told)
        return []

    def inbound(self, customer: Customer, event: dict[str, Any]) -> None:
        """The customer writes; 9. decide again what waits for a window that this opens."""
        there = (event["channel"], event["account"])
        before = dict(customer.to)
        if "sender" in event:
            if event["channel"] == "push" and ("push" in self.policy or "push" not in customer.to):
                customer.tell({"push": event["sender"]}, self.now)
            customer.to.setdefault(event["channel"], event["sender"])
        waiting = [piece for piece in customer.held if self.waits_for(customer, piece, *there)]
        if customer.to != before:
            waiting = list(customer.held)
        customer.inbound = self.now
        customer.opened[there] = (self.now, len(customer.dispatches))
        self.decide_all(customer, waiting, self.now)

    def waits_for(self, customer: Customer, piece: Piece, channel: str, account: str) -> bool:
        """Whether a window there is asked of a piece, and is not open until it is to go."""
        if channel not in piece.left or self.account(customer, piece, channel) != account:
            return False
        if "window" in self.policy["categories"][piece.category].get("bypass", []):
            return False
        rules = [
            rule
            for rule in self.policy.get("windows", [])
            if matches(rule, piece.category, channel, piece.app)
        ]
        until = piece.eligible
        if until is None:
            return bool(rules)
        return any(self.window(rule, customer, piece, channel, until)[0] for rule in rules)

    def command(self, customer: Customer, event: dict[str, Any]) -> None:
        """Change the conversation; 9. decide all that is held again if it is different now."""
        before = self.what_matters(customer)
        until = to_ms(event["until"]) if event.get("until") else None
        if event["op"] == "dnd.set":
            customer.dnd[event["scope"]] = until
        elif event["op"] == "dnd.clear":
            customer.dnd.pop(event["scope"], None)
        elif event["op"] == "profile.set":
            customer.zone = event.get("timezone") or customer.zone
            customer.tell(event.get("to") or {}, self.now)
            customer.owner = event.get("owner") or customer.owner
        elif event["op"] == "device.forget":
            gone = event["to"]
            left = [each for each in customer.devices if gone not in (each[0], token_of(each[0]))]
            customer.keep(left)
        elif event["op"] == "takeover":
            customer.takeover = (event["agent"], until)
        elif event["op"] == "release":
            customer.takeover = None
        elif event["op"] == "cancel":
            asked = (event["app"], event["intent"])
            for piece in [p for p in customer.waiting if (p.app, p.id) == asked]:
                self.drop(customer, piece, "cancelled")
        elif event["op"] == "forget":
            for piece in customer.waiting:
                self.drop(customer, piece, "cancelled")
            customer.to, customer.zone, customer.owner = {}, None, None
            customer.devices = []
            customer.inbound, customer.takeover = None, None
            customer.opened = {}
        if self.what_matters(customer) != before:
            self.decide_all(customer, list(customer.held), self.now)

    @staticmethod
    def what_matters(customer: Customer) -> Any:
        return (dict(customer.dnd), customer.zone, dict(customer.to), customer.takeover)

    def drop(self, customer: Customer, piece: Piece, state: str) -> None:
        """Somebody says that it is not to be sent; what a dispatch may still bring is not ended."""
        piece.phase = "done"
        if piece.failure is not None or not piece.went:
            self.say_piece(customer, piece, state)

    # ---- deciding ------------------------------------------------------------------------------

    def decide_all(self, customer: Customer, pieces: list[Piece], t: int) -> None:
        """7. Priority high to low, then expiry soonest first (none last), then acceptance."""
        in_order = sorted(
            pieces,
            key=lambda p: (
                -p.priority,
                p.stated is None,
                p.stated or 0,
                customer.pieces.index(p),
            ),
        )
        for piece in in_order:
            waits = piece.phase == "flying" and piece.failure is None
            if waits and not self.falls_back_at(piece):
                piece.phase = "done"
            else:
                self.decide(customer, piece, t)

    def falls_back_at(self, piece: Piece) -> int | None:
        """When a piece in flight goes on by itself; None when it does not."""
        after = self.policy["categories"][piece.category].get("fallback_after")
        timer = piece.went[-1].at + duration_ms(after) if after else None
        return timer if timer is not None and timer < piece.expires else None

    def decide(self, customer: Customer, piece: Piece, t: int) -> None:
        """2. to 6. for one piece: one outcome, or none when a fallback ends in silence."""
        if piece.expires <= t:
            self.end(customer, piece, "expired", t, None)
            return
        if piece.phase == "new":
            rules = self.policy.get("words", [])
            forbidden = forbidden_by(rules, piece.content, piece.route, piece.category, piece.app)
            if forbidden:
                self.end(customer, piece, "suppressed", t, Answer("", None, forbidden))
                return
        if piece.not_before is not None and piece.not_before > t:
            wait = Block("not-before", "schedule", "hold", piece.not_before)
            answer = Answer("hold", None, [wait], piece.not_before)
        else:
            answer = self.ask(customer, piece, t)
        state, eligible = answer.verdict, None
        if state == "hold":
            state, eligible = self.look_ahead(customer, piece, t, answer.ready)
        if state == "held":
            piece.phase = "held"
            piece.eligible = eligible
            piece.wake = piece.expires if eligible is None else eligible
            self.say_piece(customer, piece, "held", t, answer, next_eligible_at=eligible)
        elif state == "suppressed":
            self.end(customer, piece, "suppressed", t, answer._replace(channel=None))
        else:
            self.dispatch(customer, piece, t, answer)

    def end(
        self, customer: Customer, piece: Piece, state: str, t: int, answer: Answer | None
    ) -> None:
        """No channel is left: said as `failed` after a failure, not at all while one is awaited."""
        piece.phase = "done"
        if not piece.went:
            self.say_piece(customer, piece, state, t, answer)
        elif piece.failure is not None:
            last = piece.went[-1]
            answer = (answer or Answer("", None, []))._replace(channel=last.channel)
            self.say_piece(
                customer, piece, "failed", t, answer, delivery=last.delivery, reason=piece.failure
            )

    def dispatch(self, customer: Customer, piece: Piece, t: int, answer: Answer) -> None:
        """Count it, tell it, and keep what is left of the route for a fallback."""
        assert answer.channel is not None
        delivery = f"{piece.app}:{piece.id}:{piece.attempt + len(piece.went)}"
        account = self.account(customer, piece, answer.channel)
        sent = Dispatch(
            delivery, t, piece.app, piece.id, piece.category, answer.channel, account, piece
        )
        sent.copies = self.copies(customer, piece, answer.channel, t)
        self.say_piece(customer, piece, "dispatched", t, answer, delivery=delivery)
        customer.dispatches.append(sent)
        piece.went.append(sent)
        piece.failure = None
        piece.phase = "flying" if piece.left else "done"
        piece.wake = self.falls_back_at(piece) or min(piece.expires, t + RECEIPTS_FOR_MS)

    def copies(self, customer: Customer, piece: Piece, channel: str, t: int) -> list[Copy]:
        """One for the address, or for every device that is to have it."""
        addresses, push = [customer.to[channel]], self.policy.get("push", {})
        if channel == "push":
            within = duration_ms(push["seen_within"]) if "seen_within" in push else t
            behind = [address for address, seen in customer.devices[1:] if t - seen <= within]
            addresses += behind[: push.get("devices", 1) - 1]
        found: list[Copy] = []
        for address in addresses:
            account = piece.account or customer.owner or channel
            token = address
            if channel == "push":
                account, token = account_of(address) or account, token_of(address)
            if (account, token) not in [(each.account, each.token) for each in found]:
                number = piece.attempt + len(piece.went) + 100 * len(found)
                found.append(Copy(f"{piece.app}:{piece.id}:{number}", account, token))
        return found

    def look_ahead(
        self, customer: Customer, piece: Piece, t: int, ready: int | None
    ) -> tuple[str, int | None]:
        """6. Held and when to go, held for good (None), or suppressed."""
        while ready is not None:
            if ready >= piece.expires or ready > t + LOOK_AHEAD_MS:
                return "suppressed", None
            answer = self.ask(customer, piece, ready)
            if answer.verdict == "dispatch":
                return "held", ready
            if answer.verdict == "suppressed":
                return "suppressed", None
            ready = answer.ready
        return "held", None

    def ask(self, customer: Customer, piece: Piece, t: int) -> Answer:
        """4. and 5. Go through the route at one moment. Notes spread moments in the piece."""
        found: list[Block] = []
        skipped: list[tuple[str, int]] = []
        for channel in piece.left:
            blocks = self.blocks(customer, piece, channel, t)
            found += [block for block in blocks if block not in found]
            actions = {block.action for block in blocks}
            if not blocks:
                return Answer("dispatch", channel, found)
            if "drop" in actions:
                return Answer("suppressed", None, found)
            if "next" not in actions:
                return Answer("hold", channel, found, latest(blocks))
            when = latest(blocks)
            if when is not None:
                skipped.append((channel, when))
        if not skipped:
            for channel in piece.left:
                blocks = self.blocks(customer, piece, channel, t)
                if all(block.kind == "window" for block in blocks if block.ready is None):
                    return Answer("hold", channel, found)
            return Answer("suppressed", None, found)
        channel, when = min(skipped, key=lambda pair: pair[1])  # the first of equals
        return Answer("hold", channel, found, when)

    # ---- the rules -----------------------------------------------------------------------------

    def blocks(self, customer: Customer, piece: Piece, channel: str, t: int) -> list[Block]:
        """Everything that forbids this channel at t, in the order outcomes name it."""
        bypass = self.policy["categories"][piece.category].get("bypass", [])
        found = []
        if channel not in customer.to:
            found.append(Block("address", "address", "next", None))
        if "dnd" not in bypass:
            for scope in ("all", f"category:{piece.category}", f"channel:{channel}"):
                if scope in customer.dnd:
                    until = customer.dnd[scope]
                    if until is None:
                        found.append(Block(f"dnd:{scope}", "dnd", "next", None))
                    elif t < until:
                        found.append(Block(f"dnd:{scope}", "dnd", "hold", until))
        asked = {"cap": self.cap, "gap": self.gap, "quiet": self.quiet, "presence": self.presence}
        asked["window"] = self.window
        for kind, section in RULES:
            if kind in bypass:
                continue
            for rule in self.policy.get(section, []):
                if matches(rule, piece.category, channel, piece.app):
                    blocked, ready = asked[kind](rule, customer, piece, channel, t)
                    if blocked:
                        found.append(Block(rule["name"], kind, rule["on"], ready))
        return found

    def cap(
        self, rule: dict[str, Any], customer: Customer, piece: Piece, channel: str, t: int
    ) -> tuple[bool, int | None]:
        limit = rule["limit"]
        reserve = rule.get("reserve")
        if reserve and piece.priority < reserve["priority"]:
            limit -= reserve["slots"]
        per = rule.get("per", "customer")
        account = self.account(customer, piece, channel)
        counted = [
            sent.at
            for sent in customer.dispatches
            if counts(rule, sent)
            and (per != "channel" or sent.channel == channel)
            and (per != "account" or sent.account == account)
        ]
        window = rule["window"]
        if window in ("day", "week", "month"):
            zone = self.zone(customer)
            now = period(window, zone, t)
            if sum(period(window, zone, at) == now for at in counted) < limit:
                return False, None
            return True, period_end(window, zone, t)
        width = duration_ms(window)
        inside = sorted(at for at in counted if t - width < at <= t)
        if len(inside) < limit:
            return False, None
        return True, inside[-limit] + width

    def gap(
        self, rule: dict[str, Any], customer: Customer, piece: Piece, channel: str, t: int
    ) -> tuple[bool, int | None]:
        sent = [sent.at for sent in customer.dispatches if counts(rule, sent)]
        if sent and t - max(sent) < duration_ms(rule["min"]):
            return True, max(sent) + duration_ms(rule["min"])
        return False, None

    def quiet(
        self, rule: dict[str, Any], customer: Customer, piece: Piece, channel: str, t: int
    ) -> tuple[bool, int | None]:
        zone = self.zone(customer)
        window = quiet_window(rule)
        inside = window.covers(local(t, zone))
        if "spread" not in rule:
            return inside, (window_end(window, zone, t) if inside else None)
        if inside:
            late = fnv1a_32(customer.key) % duration_ms(rule["spread"])
            ready = window_end(window, zone, t) + late
            piece.released[rule["name"]] = max(piece.released.get(rule["name"], ready), ready)
        until = piece.released.get(rule["name"])
        if until is not None and t < until:
            return True, until
        return False, None

    def presence(
        self, rule: dict[str, Any], customer: Customer, piece: Piece, channel: str, t: int
    ) -> tuple[bool, int | None]:
        ready = []
        if customer.inbound is not None and t - customer.inbound < duration_ms(rule["within"]):
            ready.append(customer.inbound + duration_ms(rule["within"]))
        if customer.takeover is not None:
            until = customer.takeover[1]
            if until is None:
                return True, None
            if t < until:
                ready.append(until)
        return bool(ready), max(ready, default=None)

    def window(
        self, rule: dict[str, Any], customer: Customer, piece: Piece, channel: str, t: int
    ) -> tuple[bool, int | None]:
        account = self.account(customer, piece, channel)
        if (channel, account) not in customer.opened:
            return True, None
        at, before = customer.opened[channel, account]
        since = [
            sent
            for sent in customer.dispatches[before:]
            if (sent.channel, sent.account) == (channel, account)
        ]
        late = t - at >= duration_ms(rule.get("within", "48h"))
        return late or len(since) >= rule.get("limit", 5), None

    def zone(self, customer: Customer) -> str:
        return customer.zone or self.policy["timezone"]

    @staticmethod
    def account(customer: Customer, piece: Piece, channel: str) -> str:
        named = account_of(customer.to.get("push", "")) if channel == "push" else ""
        return named or piece.account or customer.owner or channel

    # ---- outcomes ------------------------------------------------------------------------------

    def say_piece(
        self,
        customer: Customer,
        piece: Piece,
        state: str,
        t: int | None = None,
        answer: Answer | None = None,
        delivery: str | None = None,
        next_eligible_at: int | None = None,
        reason: str | None = None,
    ) -> None:
        """An outcome of one piece; a combined send names its channel in every one."""
        channel = answer.channel if answer else None
        if piece.went and reason is None:
            before = piece.went[-1].channel
            reason = f"{before}: not delivered within fallback_after"
            if piece.failure is not None:
                reason = f"{before} failed: {piece.failure}"
        self.say(
            customer,
            piece.app,
            piece.id,
            state,
            self.now if t is None else t,
            channel=piece.route[0] if piece.combined else channel,
            delivery=delivery,
            rules=[say_block(block) for block in answer.blocks] if answer else None,
            next_eligible_at=None if next_eligible_at is None else say_time(next_eligible_at),
            reason=reason,
        )

    def say(
        self, customer: Customer, app: str, intent: str, state: str, t: int, **more: Any
    ) -> None:
        outcome = {"intent": intent, "app": app, "customer": customer.key, "state": state}
        outcome["at"] = say_time(t)
        outcome |= {name: value for name, value in more.items() if value}
        self.outcomes.append(outcome)


# ---- words and numbers -------------------------------------------------------------------------


def say_block(block: Block) -> dict[str, Any]:
    said = {"rule": block.rule, "kind": block.kind, "action": block.action}
    return said if block.ready is None else said | {"ready_at": say_time(block.ready)}
