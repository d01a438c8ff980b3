"""Customer service: sync_msg, send_msg, sessions, accounts.

Sources: WeCom's pages 94670 (sync_msg), 94677 (send_msg), 95122 (send_msg_on_event), 94669
(service_state), 94661 (account/list).
"""

from __future__ import annotations

import re
from typing import Any, Final

from channels.wecom.fake.content import KF_TYPES, checked, shown
from channels.wecom.fake.kf_state import (
    BOT,
    ENDED,
    HUMAN,
    NEW,
    QUEUE,
    Account,
    Code,
    KfCorp,
    Session,
)
from channels.wecom.fake.media import Media
from channels.wecom.fake.settings import Scene
from channels.wecom.fake.world import Call, Corp, Handler, Refused, World

PAGE: Final = 1_000
MENU_ITEMS: Final = 10
MSGIDS: Final = 1_000_000
"""Of one account remembered to find one that comes twice; the oldest go. 100 MB."""
_MSGID = re.compile(r"[0-9a-zA-Z_-]{1,32}\Z")
_MOVES: Final = {
    NEW: (BOT, QUEUE, HUMAN, ENDED),
    BOT: (QUEUE, HUMAN, ENDED),
    QUEUE: (HUMAN, ENDED),
    HUMAN: (HUMAN, ENDED),
}
_STATE_OF: Final = {"queue": QUEUE, "accept": HUMAN, "end": ENDED}
_LATE, _FULL, _REJECTED, _UNKNOWN = 4, 6, 10, 0
"""fail_type of msg_send_fail: over 48 h, over 5 messages, rejected by the customer, unknown."""


class Kf:
    """The API of customer service."""

    def __init__(self, world: World, scene: Scene, media: Media) -> None:
        self._world = world
        self._media = media
        self.corps = {
            one.corp_id: KfCorp(world, world.corps[one.corp_id], one.kf_accounts)
            for one in scene.corps
        }
        self.handlers: dict[str, Handler] = {
            "kf/sync_msg": self.sync,
            "kf/send_msg": self.send,
            "kf/send_msg_on_event": self.send_on_event,
            "kf/service_state/get": self.state,
            "kf/service_state/trans": self.move,
            "kf/account/list": self.listed,
            "kf/servicer/list": self.servicers,
        }

    def of(self, corp: Corp) -> KfCorp:
        """Customer service of a corp."""
        return self.corps[corp.id]

    # ---- reading -------------------------------------------------------------------------------

    def sync(self, call: Call) -> dict[str, Any]:
        """A page of what happened."""
        kf, book = self.of(call.corp), self._world.book
        open_kfid = call.text("open_kfid", "")
        if open_kfid:
            self._pulled(kf, kf.account(open_kfid), call)
        else:
            for account in list(kf.accounts.values())[:1]:
                self._pulled(kf, account, call)
        limit = call.limit(PAGE, PAGE)
        if self._world.chance.random() < self._world.settings.short_pages:
            limit = self._world.chance.randrange(limit + 1)
            book.count("kf_short_pages")
        cursor = call.text("cursor", "")
        messages, following, more = kf.log.after(open_kfid, cursor, limit, call.now_ms)
        return {"next_cursor": following, "has_more": int(more), "msg_list": messages}

    def _pulled(self, kf: KfCorp, account: Account, call: Call) -> None:
        token = call.text("token", "")
        if not token:
            if not account.pulls.take(call.now_ms):
                self._world.book.violated("kf_pulls_without_token")
                raise Refused(45009)
            return
        owner, until_ms = kf.tokens.get(token, ("", 0))
        wrong = call.body.get("open_kfid") and owner != account.id
        if wrong or not owner or until_ms <= call.now_ms:
            raise Refused(95007)

    def state(self, call: Call) -> dict[str, Any]:
        """Of a session."""
        _, _, session = self._session(call)
        return {"service_state": session.state, "servicer_userid": session.servicer}

    def listed(self, call: Call) -> dict[str, Any]:
        """The accounts."""
        offset, limit = call.number("offset", 0), call.limit(100, 100)
        accounts = list(self.of(call.corp).accounts.values())[offset : offset + limit]
        return {
            "account_list": [
                {"open_kfid": one.id, "name": one.name, "avatar": "", "manage_privilege": True}
                for one in accounts
            ]
        }

    def servicers(self, call: Call) -> dict[str, Any]:
        """The members who receive customers."""
        account = self.of(call.corp).account(call.body.get("open_kfid"))
        return {
            "servicer_list": [
                {"userid": name, "status": status} for name, status in account.servicers.items()
            ]
        }

    # ---- writing -------------------------------------------------------------------------------

    def send(self, call: Call) -> dict[str, Any]:
        """Within the window, while no person has taken over. Whether it arrives is told later."""
        kf = self.of(call.corp)
        account = kf.account(call.body.get("open_kfid"))
        customer = call.text("touser")
        session = account.sessions.get(customer)
        if session is None:
            raise Refused(40096 if customer not in call.corp.contacts else 95002)
        msgid = self._msgid(call, account)
        kind, said = checked(call, KF_TYPES, self._media)
        if kind == "msgmenu" and len(said.get("list") or []) > MENU_ITEMS:
            raise Refused(95008)
        if session.state not in (NEW, BOT):
            raise Refused(95013 if session.state == ENDED else 95018)
        failure = self._window(session, call, msgid)
        if not session.sent:
            self._world.book.lasted("kf_reply_ms", call.now_ms - session.wrote_ms)
        session.sent += 1
        self._taken("kf", call, account, customer, msgid, shown(kind, said), failed=failure)
        if session.rejects:
            failure = failure or _REJECTED
        if failure or not call.fate.delivered:
            after_s = call.fate.receipt_ms / 1_000
            kf.fails(account, customer, msgid, failure or _UNKNOWN, after_s)
        return {"msgid": msgid}

    def _window(self, session: Session, call: Call, msgid: str) -> int:
        """The fail_type of a message that is taken although the window is closed, else 0. Raises
        Refused: 95001, 95002."""
        settings = self._world.settings
        late = call.now_ms - session.wrote_ms >= settings.kf_window_s * 1_000
        if not late and session.sent < settings.kf_limit:
            return 0
        self._world.book.violated("kf_window_48h" if late else "kf_window_5")
        if self._world.draw("late", msgid) < settings.late_window:
            return _LATE if late else _FULL
        raise Refused(95002 if late else 95001)

    def send_on_event(self, call: Call) -> dict[str, Any]:
        """One message with the code of a moment."""
        kf = self.of(call.corp)
        code = kf.codes.get(call.text("code"))
        # Which errcodes these have is not documented; those of welcome codes are.
        if code is None or code.until_ms <= call.now_ms:
            raise Refused(41050)
        if code.used:
            raise Refused(41051)
        account = kf.accounts[code.account]
        self._in_time(code, account)
        msgid = self._msgid(call, account)
        types = ("text", "msgmenu") if code.moment in ("enter", "end") else ("text",)
        kind, said = checked(call, types, self._media)
        if kind == "msgmenu" and len(said.get("list") or []) > MENU_ITEMS:
            raise Refused(95008)
        code.used = True
        if code.moment == "enter":
            account.sessions[code.customer].welcomed_ms = call.now_ms
        content = shown(kind, said) | {"moment": code.moment, "code": call.text("code")}
        self._taken("kf_event", call, account, code.customer, msgid, content)
        return {"msgid": msgid}

    def _in_time(self, code: Code, account: Account) -> None:
        wanted = _STATE_OF.get(code.moment)
        if wanted is not None and account.sessions[code.customer].state != wanted:
            raise Refused(95018)

    def _msgid(self, call: Call, account: Account) -> str:
        msgid = call.text("msgid", "")
        if not msgid:
            return self._world.new_id("fakekfmsg")
        if not _MSGID.match(msgid):
            raise Refused(40058)
        if msgid in account.msgids:
            self._world.book.count("kf_repeated_msgid")
            raise Refused(self._world.settings.kf_repeat_errcode)
        return msgid

    def _taken(
        self,
        kind: str,
        call: Call,
        account: Account,
        customer: str,
        msgid: str,
        content: dict[str, Any],
        failed: int = 0,
    ) -> None:
        account.msgids[msgid] = call.now_ms
        if len(account.msgids) > MSGIDS:
            account.msgids.popitem(last=False)
        more = {"failed": failed} if failed else {}
        corp = call.corp.id
        self._world.book.took(
            kind, customer, corp, open_kfid=account.id, msgid=msgid, **content, **more
        )

    def move(self, call: Call) -> dict[str, Any]:
        """A session to another state. Raises Refused: 95013, 95014, 95016."""
        kf, account, session = self._session(call)
        to = call.number("service_state")
        servicer = call.text("servicer_userid", "")
        if session.state == ENDED:
            raise Refused(95013)
        if to not in _MOVES[session.state]:
            raise Refused(95016)
        if to == HUMAN:
            if account.servicers.get(servicer) is None or not call.corp.here(servicer):
                raise Refused(95014)
            session.servicer = servicer
        else:
            session.servicer = ""
        session.state = to
        moment = {QUEUE: "queue", HUMAN: "accept", ENDED: "end"}.get(to)
        if moment is None:
            return {}
        return {"msg_code": kf.new_code(account.id, call.text("external_userid"), moment)}

    def _session(self, call: Call) -> tuple[KfCorp, Account, Session]:
        kf = self.of(call.corp)
        account = kf.account(call.body.get("open_kfid"))
        session = account.sessions.get(call.text("external_userid"))
        if session is None:
            raise Refused(40096)
        return kf, account, session
