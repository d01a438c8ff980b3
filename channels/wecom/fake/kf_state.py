"""Accounts and sessions of customer service, and what happens in them on the customer's and the
member's side.

Sources: WeCom's pages 94669 (sessions), 94670 (messages and events), 95122 (codes).
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, Final

from msgspec import Struct, field

from channels.wecom.fake.content import shown
from channels.wecom.fake.kf_log import KfLog
from channels.wecom.fake.limits import Gate, Window
from channels.wecom.fake.world import MINUTE_MS, Corp, Refused, World

NEW, BOT, QUEUE, HUMAN, ENDED = range(5)
CODE_MS: Final = {
    "enter": 20_000,
    "queue": 48 * 3_600_000,
    "accept": 48 * 3_600_000,
    "end": 20_000,
}
"""How long the code of a moment lives; each is good for one message."""
CODES: Final = 100_000
TOKENS: Final = 200_000
"""Codes and tokens remembered; the oldest go."""


class Session(Struct):
    """An account and a customer."""

    state: int = ENDED
    servicer: str = ""
    wrote_ms: int = 0
    """When she wrote last; 0: never."""
    sent: int = 0
    """Messages to her since."""
    welcomed_ms: int = 0
    rejects: bool = False
    """She wants nothing from us: each message fails later."""


class Code(Struct):
    """Allows one message at a moment of a session."""

    account: str
    customer: str
    moment: str
    until_ms: int
    used: bool = False


class Account(Struct):
    """A customer service account."""

    id: str
    name: str
    pulls: Gate
    """Without a callback's token."""
    servicers: dict[str, int] = field(default_factory=dict)
    """userid → status: 0 receives, 1 does not."""
    sessions: dict[str, Session] = field(default_factory=dict)
    msgids: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """Used by us, in the order of their use."""


class KfCorp:
    """Customer service of one corp."""

    def __init__(self, world: World, corp: Corp, accounts: tuple[str, ...]) -> None:
        self._world = world
        self.corp = corp
        self.log = KfLog(int(world.settings.kf_keep_s * 1_000))
        self.codes: OrderedDict[str, Code] = OrderedDict()
        self.tokens: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """Of callbacks: account, and until when it is good."""
        self.accounts: dict[str, Account] = {}
        for name in accounts:
            pulls = Gate(Window(world.settings.kf_pulls_per_min, MINUTE_MS))
            servicers = dict.fromkeys(corp.members, 0)
            self.accounts[name] = Account(name, f"service {name}", pulls, servicers)

    def account(self, name: Any) -> Account:
        """Raises Refused(95000 or 95004)."""
        if not isinstance(name, str) or not name:
            raise Refused(95000)
        account = self.accounts.get(name)
        if account is None:
            raise Refused(95004)
        return account

    def new_code(self, account: str, customer: str, moment: str) -> str:
        """A code for a moment."""
        name = self._world.new_id("fakecode")
        until_ms = self._world.clock.now_ms() + CODE_MS[moment]
        self.codes[name] = Code(account, customer, moment, until_ms)
        if len(self.codes) > CODES:
            self.codes.popitem(last=False)
        return name

    # ---- what happens --------------------------------------------------------------------------

    def wrote(
        self, account: Account, customer: str, kind: str, said: dict[str, Any], msgid: str = ""
    ) -> str:
        """She writes: the window opens again, and an ended session begins anew."""
        session = account.sessions.setdefault(customer, Session())
        now_ms = self._world.clock.now_ms()
        session.wrote_ms, session.sent = now_ms, 0
        if session.state == ENDED:
            session.state, session.servicer = NEW, ""
        msgid = msgid or self._world.new_id("fakekfmsg")
        self._said(account, customer, msgid, kind, said)
        self._add(
            account,
            {
                "msgid": msgid,
                "open_kfid": account.id,
                "external_userid": customer,
                "send_time": now_ms // 1_000,
                "origin": 3,
                "msgtype": kind,
                kind: said,
            },
        )
        return msgid

    def member_wrote(
        self, account: Account, customer: str, userid: str, kind: str, said: dict[str, Any]
    ) -> str:
        """A member answers her in the client."""
        session = account.sessions.setdefault(customer, Session())
        session.state, session.servicer = HUMAN, userid
        msgid = self._world.new_id("fakekfmsg")
        self._said(account, customer, msgid, kind, said, by=userid)
        self._add(
            account,
            {
                "msgid": msgid,
                "open_kfid": account.id,
                "external_userid": customer,
                "send_time": self._world.clock.now_ms() // 1_000,
                "origin": 5,
                "servicer_userid": userid,
                "msgtype": kind,
                kind: said,
            },
        )
        return msgid

    def event(self, account: Account, name: str, customer: str = "", **fields: Any) -> str:
        """Something else happens."""
        event: dict[str, Any] = {"event_type": name, "open_kfid": account.id}
        if customer:
            event["external_userid"] = customer
        msgid = self._world.new_id("fakekfmsg")
        self._add(
            account,
            {
                "msgid": msgid,
                "send_time": self._world.clock.now_ms() // 1_000,
                "origin": 4,
                "msgtype": "event",
                "event": event | fields,
            },
        )
        return msgid

    def fails(self, account: Account, customer: str, msgid: str, why: int, after_s: float) -> None:
        """A message that was taken turns out not to be delivered."""
        self._world.book.count(f"kf_send_fail_{why}")
        facts = {"fail_msgid": msgid, "fail_type": why}
        self._world.after(after_s, partial(self.event, account, "msg_send_fail", customer, **facts))

    def _said(
        self,
        account: Account,
        customer: str,
        msgid: str,
        kind: str,
        said: dict[str, Any],
        **by: str,
    ) -> None:
        self._world.book.hears(
            "wrote",
            customer,
            self.corp.id,
            open_kfid=account.id,
            msgid=msgid,
            **shown(kind, said),
            **by,
        )

    def _add(self, account: Account, message: dict[str, Any]) -> None:
        now_ms = self._world.clock.now_ms()
        self.log.add(account.id, now_ms, message)
        self._world.book.count("kf_happened")
        token = self._world.new_id("fakesync")
        self.tokens[token] = (account.id, now_ms + int(self._world.settings.kf_token_s * 1_000))
        if len(self.tokens) > TOKENS:
            self.tokens.popitem(last=False)
        self._world.tell(self.corp, "kf", "kf_msg_or_event", Token=token, OpenKfId=account.id)
