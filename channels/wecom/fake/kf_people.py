"""What customers and members do in customer service, by the control interface."""

from __future__ import annotations

from typing import Any

from channels.wecom.fake.kf import Kf
from channels.wecom.fake.kf_state import ENDED, HUMAN, Account, KfCorp, Session
from channels.wecom.fake.media import Media
from channels.wecom.fake.world import Control, Corp, World


class KfPeople:
    """Customers and members."""

    def __init__(self, world: World, kf: Kf, media: Media) -> None:
        self._world = world
        self._kf = kf
        self._media = media
        self.controls: dict[str, Control] = {
            "customer-writes": self.customer_writes,
            "customer-enters": self.customer_enters,
            "customer-recalls": self.customer_recalls,
            "customer-rejects": self.customer_rejects,
            "agent-writes": self.agent_writes,
            "agent": self.agent,
            "servicer-status": self.servicer_status,
            "kf-event": self.kf_event,
        }

    def customer_writes(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{external_userid, open_kfid?, text | msgtype and content, msgid?, count?}.

        Of image, voice, video and file `data` is the file's text; content gets its media_id.
        """
        kf, account = self._account(corp, body)
        kind, said = self._said(corp, body)
        msgids = [
            kf.wrote(account, body["external_userid"], kind, said, body.get("msgid", ""))
            for _ in range(body.get("count", 1))
        ]
        return {"msgids": msgids}

    def customer_enters(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{external_userid, open_kfid?, scene?, scene_param?}: she opens the chat. There is a
        welcome_code if she has neither written nor been welcomed in 48 h."""
        kf, account = self._account(corp, body)
        customer, now_ms = body["external_userid"], self._world.clock.now_ms()
        session = account.sessions.setdefault(customer, Session())
        window_ms = self._world.settings.kf_window_s * 1_000
        quiet = now_ms - max(session.wrote_ms, session.welcomed_ms) >= window_ms
        fields = {"scene": body.get("scene", ""), "scene_param": body.get("scene_param", "")}
        if quiet:
            code = kf.new_code(account.id, customer, "enter")
            until_ms = kf.codes[code].until_ms
            fields["welcome_code"] = code
            self._world.book.hears(
                "came", customer, corp.id, open_kfid=account.id, code=code, until=until_ms
            )
        kf.event(account, "enter_session", customer, **fields)
        return {"welcome_code": fields.get("welcome_code")}

    def customer_recalls(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{external_userid, open_kfid?, msgid}."""
        kf, account = self._account(corp, body)
        customer, msgid = body["external_userid"], body["msgid"]
        return {"msgid": kf.event(account, "user_recall_msg", customer, recall_msgid=msgid)}

    def customer_rejects(self, corp: Corp, body: dict[str, Any]) -> None:
        """{external_userid, open_kfid?, rejected?}: what is sent to her fails from now on."""
        kf, account = self._account(corp, body)
        customer, rejected = body["external_userid"], body.get("rejected", True)
        account.sessions.setdefault(customer, Session()).rejects = rejected
        kf.event(
            account,
            "reject_customer_msg_switch_change",
            customer,
            servicer_userid="",
            reject_switch=int(rejected),
        )

    def agent_writes(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{userid, external_userid, open_kfid?, text | msgtype and content}: a member answers."""
        kf, account = self._account(corp, body)
        kind, said = self._said(corp, body)
        customer, userid = body["external_userid"], body["userid"]
        return {"msgid": kf.member_wrote(account, customer, userid, kind, said)}

    def agent(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{userid, external_userid, open_kfid?, do: accept | transfer | end | reopen, to?}."""
        kf, account = self._account(corp, body)
        customer, userid, do = body["external_userid"], corp.members[body["userid"]].id, body["do"]
        session = account.sessions.setdefault(customer, Session())
        fields: dict[str, Any]
        if do == "accept":
            session.state, session.servicer = HUMAN, userid
            code = kf.new_code(account.id, customer, "accept")
            fields = {"change_type": 1, "new_servicer_userid": userid, "msg_code": code}
        elif do == "transfer":
            session.state, session.servicer = HUMAN, body["to"]
            fields = {"change_type": 2, "old_servicer_userid": userid}
            fields["new_servicer_userid"] = body["to"]
        elif do == "end":
            session.state, session.servicer = ENDED, ""
            code = kf.new_code(account.id, customer, "end")
            fields = {"change_type": 3, "old_servicer_userid": userid, "msg_code": code}
        elif do != "reopen":
            raise KeyError(do)
        else:
            session.state, session.servicer = HUMAN, userid
            fields = {"change_type": 4, "new_servicer_userid": userid}
        kf.event(account, "session_status_change", customer, **fields)
        return fields

    def servicer_status(self, corp: Corp, body: dict[str, Any]) -> None:
        """{userid, open_kfid?, status: 1 receives, 2 stops}."""
        kf, account = self._account(corp, body)
        account.servicers[body["userid"]] = body["status"] - 1
        kf.event(
            account,
            "servicer_status_change",
            servicer_userid=body["userid"],
            status=body["status"],
        )

    def kf_event(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{event_type, open_kfid?, fields?}: any event, also of a type that nobody knows."""
        kf, account = self._account(corp, body)
        return {"msgid": kf.event(account, body["event_type"], **body.get("fields", {}))}

    def _account(self, corp: Corp, body: dict[str, Any]) -> tuple[KfCorp, Account]:
        kf = self._kf.of(corp)
        name = body.get("open_kfid") or next(iter(kf.accounts))
        return kf, kf.accounts[name]

    def _said(self, corp: Corp, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if "text" in body:
            return "text", {"content": body["text"]}
        kind, said = body["msgtype"], dict(body.get("content") or {})
        if "data" in body:
            said["media_id"] = self._media.put(corp, kind, body["data"].encode())
        return kind, said
