"""Customers and the members who serve them: reading, welcome messages, transfers; and customers
who add and delete members.

Sources: WeCom's pages 92113, 92114, 92994 (reading), 92137 (welcome messages), 92125, 94096
(transfers), 92130 (events).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from msgspec import Struct

from channels.wecom.fake.content import checked_mass
from channels.wecom.fake.media import Media
from channels.wecom.fake.world import (
    Call,
    Contact,
    Control,
    Corp,
    Follow,
    Handler,
    Refused,
    World,
    page,
)

TRANSFERS: Final = 100
"""Customers of one transfer."""
PAGE: Final = 1_000
MEMBERS: Final = 100
"""Asked for at once."""
ONJOB_TIMES: Final = 2
PROTECTED_MS: Final = 90 * 24 * 3_600_000
"""A customer who was transferred twice is left alone for so long."""
DONE, WAITING, REFUSED, FULL, NONE = 1, 2, 3, 4, 5


class Welcome(Struct):
    """A code that is good for one message."""

    corp: str
    customer: str
    userid: str
    made_ms: int
    until_ms: int
    used: bool = False


class Transfer(Struct):
    """A customer on her way from one member to another."""

    customer: str
    handover: str
    takeover: str
    asked_ms: int
    status: int = WAITING
    done_ms: int = 0


class Contacts:
    """Customers and members of all corps."""

    def __init__(self, world: World, media: Media) -> None:
        self._world = world
        self._media = media
        self._welcomes: dict[str, Welcome] = {}
        self._transfers: dict[str, list[Transfer]] = {}
        """Of each corp, in their order."""
        self.handlers: dict[str, Handler] = {
            "externalcontact/get": self.get,
            "externalcontact/list": self.list_of,
            "externalcontact/batch/get_by_user": self.batch,
            "externalcontact/get_follow_user_list": self.members,
            "externalcontact/get_unassigned_list": self.unassigned,
            "externalcontact/send_welcome_msg": self.welcome,
            "externalcontact/transfer_customer": self.transfer,
            "externalcontact/transfer_result": self.result,
            "externalcontact/resigned/transfer_customer": self.transfer_left,
            "externalcontact/resigned/transfer_result": self.result,
        }
        self.controls: dict[str, Control] = {
            "add-contact": self.add_contact,
            "delete-contact": self.delete_contact,
            "refuse-transfer": self.refuse_transfer,
        }

    # ---- reading -------------------------------------------------------------------------------

    def get(self, call: Call) -> dict[str, Any]:
        """One customer."""
        return _details(self._contact(call.corp, call.text("external_userid")))

    def list_of(self, call: Call) -> dict[str, Any]:
        """The customers of a member."""
        customers = _of(call.corp, call.text("userid"))
        if not customers:
            raise Refused(84061)
        return {"external_userid": [one.id for one in customers]}

    def batch(self, call: Call) -> dict[str, Any]:
        """The customers of some members, in pages."""
        userids = call.texts("userid_list", MEMBERS) or [call.text("userid")]
        customers = [one for userid in userids for one in _of(call.corp, userid)]
        some, cursor = page(customers, call.text("cursor", ""), call.limit(50, 100))
        details = [_details(one) for one in some]
        return {
            "external_contact_list": [
                {
                    "external_contact": one["external_contact"],
                    "follow_info": one["follow_user"][0] if one["follow_user"] else {},
                }
                for one in details
            ],
            "next_cursor": cursor,
        }

    def members(self, call: Call) -> dict[str, Any]:
        """Who may serve customers."""
        return {"follow_user": [name for name in call.corp.members if call.corp.here(name)]}

    def unassigned(self, call: Call) -> dict[str, Any]:
        """Customers of members who left."""
        waiting = [
            {
                "handover_userid": userid,
                "external_userid": contact.id,
                "dimission_time": call.corp.members[userid].left_ms // 1_000,
            }
            for contact in call.corp.contacts.values()
            for userid in contact.follows
            if userid in call.corp.members and not call.corp.here(userid)
        ]
        size = call.number("page_size", PAGE)
        some, cursor = page(waiting, call.text("cursor", ""), min(size, PAGE))
        return {"info": some, "is_last": not cursor, "next_cursor": cursor}

    def _contact(self, corp: Corp, name: str) -> Contact:
        contact = corp.contacts.get(name)
        if contact is None:
            raise Refused(40096)
        if not contact.follows:
            raise Refused(84061)
        return contact

    # ---- welcome messages ----------------------------------------------------------------------

    def welcome(self, call: Call) -> dict[str, Any]:
        """Within 20 s, once, by the first application that does. Raises Refused: 41050, 41051."""
        welcome = self._welcomes.get(call.text("welcome_code"))
        if welcome is None or welcome.corp != call.corp.id:
            raise Refused(41050)
        if welcome.used:
            raise Refused(41051)
        if welcome.until_ms <= call.now_ms:
            self._world.book.violated("welcome_late")
            raise Refused(41050)
        content = checked_mass(call, self._media)
        welcome.used = True
        self._world.book.lasted("welcome_ms", call.now_ms - welcome.made_ms)
        self._world.book.took(
            "welcome",
            welcome.customer,
            call.corp.id,
            userid=welcome.userid,
            code=call.text("welcome_code"),
            **content,
        )
        return {}

    # ---- transfers -----------------------------------------------------------------------------

    def transfer(self, call: Call) -> dict[str, Any]:
        """From a member who is here. The customer may refuse for a day."""
        handover = call.text("handover_userid")
        if not call.corp.here(handover):
            raise Refused(40097)
        return self._transfer(call, handover, onjob=True)

    def transfer_left(self, call: Call) -> dict[str, Any]:
        """From a member who left."""
        handover = call.text("handover_userid")
        if call.corp.here(handover):
            raise Refused(40099)
        return self._transfer(call, handover, onjob=False)

    def _transfer(self, call: Call, handover: str, *, onjob: bool) -> dict[str, Any]:
        takeover = call.text("takeover_userid")
        if not call.corp.here(takeover):
            raise Refused(40098)
        told = []
        for customer in call.texts("external_userid", TRANSFERS, 1):
            errcode = self._refusal(call, handover, customer, onjob=onjob)
            told.append({"external_userid": customer, "errcode": errcode})
            if not errcode:
                transfer = Transfer(customer, handover, takeover, call.now_ms)
                self._transfers.setdefault(call.corp.id, []).append(transfer)
                taken_over = partial(self._taken_over, call.corp, transfer)
                self._world.after(self._world.settings.transfer_s, taken_over)
        return {"customer": told}

    def _refusal(self, call: Call, handover: str, customer: str, *, onjob: bool) -> int:
        contact = call.corp.contacts.get(customer)
        if contact is None:
            return 40096
        if handover not in contact.follows:
            return 40097
        before = [one for one in self._transfers.get(call.corp.id, []) if one.customer == customer]
        if any(one.status == WAITING for one in before):
            return 40129
        lately = [one for one in before if call.now_ms - one.asked_ms < PROTECTED_MS]
        if onjob and len(lately) >= ONJOB_TIMES:
            self._world.book.violated("transfers_90_days")
            return 40128
        return 0

    def result(self, call: Call) -> dict[str, Any]:
        """What became of the transfers from one member to another."""
        handover, takeover = call.text("handover_userid"), call.text("takeover_userid")
        latest = {
            one.customer: one
            for one in self._transfers.get(call.corp.id, [])
            if (one.handover, one.takeover) == (handover, takeover)
        }
        some, cursor = page(list(latest.values()), call.text("cursor", ""), PAGE)
        return {
            "customer": [
                {
                    "external_userid": one.customer,
                    "status": one.status,
                    "takeover_time": one.done_ms // 1_000,
                }
                for one in some
            ],
            "next_cursor": cursor,
        }

    def _taken_over(self, corp: Corp, transfer: Transfer) -> None:
        if transfer.status != WAITING:
            return
        now_ms = self._world.clock.now_ms()
        transfer.status, transfer.done_ms = DONE, now_ms
        contact = corp.contacts[transfer.customer]
        contact.follows.pop(transfer.handover, None)
        contact.follows[transfer.takeover] = Follow(now_ms, add_way=202)
        self._told(
            corp,
            "del_external_contact",
            transfer.handover,
            transfer.customer,
            Source="DELETE_BY_TRANSFER",
        )
        self._told(corp, "add_external_contact", transfer.takeover, transfer.customer)

    # ---- what happens --------------------------------------------------------------------------

    def add_contact(self, corp: Corp, body: dict[str, Any]) -> dict[str, Any]:
        """{userid, external_userid?, state?, half?}: a customer adds a member. Gives the
        welcome_code, None when the console has a welcome text or they know each other."""
        userid = corp.members[body["userid"]].id
        customer = body.get("external_userid") or self._world.new_id("wmfake")
        now_ms = self._world.clock.now_ms()
        contact = corp.contacts.setdefault(customer, Contact(customer))
        known = userid in contact.follows and not contact.follows[userid].lost
        contact.follows[userid] = Follow(now_ms, body.get("state", ""))
        fields: dict[str, object] = {}
        if body.get("state"):
            fields["State"] = body["state"]
        code = None
        if not known and not self._world.settings.console_welcome:
            code = self._world.new_id("fakewelcome")
            until_ms = now_ms + int(self._world.settings.welcome_s * 1_000)
            self._welcomes[code] = Welcome(corp.id, customer, userid, now_ms, until_ms)
            fields["WelcomeCode"] = code
            self._world.book.hears(
                "came", customer, corp.id, userid=userid, code=code, until=until_ms
            )
        change = "add_half_external_contact" if body.get("half") else "add_external_contact"
        self._told(corp, change, userid, customer, **fields)
        return {"external_userid": customer, "welcome_code": code}

    def delete_contact(self, corp: Corp, body: dict[str, Any]) -> None:
        """{userid, external_userid, by?}: the customer deletes the member, or with `by` =
        "member" the member deletes her."""
        userid, customer = body["userid"], body["external_userid"]
        contact = corp.contacts[customer]
        if body.get("by") == "member":
            del contact.follows[userid]
            self._told(corp, "del_external_contact", userid, customer)
        else:
            contact.follows[userid].lost = True
            self._told(corp, "del_follow_user", userid, customer)

    def refuse_transfer(self, corp: Corp, body: dict[str, Any]) -> None:
        """{external_userid, reason?}: she stays with who served her."""
        reason = body.get("reason", "customer_refused")
        transfer = next(
            one
            for one in reversed(self._transfers.get(corp.id, []))
            if one.customer == body["external_userid"] and one.status == WAITING
        )
        transfer.status = REFUSED if reason == "customer_refused" else FULL
        transfer.done_ms = self._world.clock.now_ms()
        self._told(corp, "transfer_fail", transfer.takeover, transfer.customer, FailReason=reason)

    def _told(self, corp: Corp, change: str, userid: str, customer: str, **fields: object) -> None:
        self._world.tell(
            corp,
            "contact",
            "change_external_contact",
            ChangeType=change,
            UserID=userid,
            ExternalUserID=customer,
            **fields,
        )


def _of(corp: Corp, userid: Any) -> list[Contact]:
    return [contact for contact in corp.contacts.values() if userid in contact.follows]


def _details(contact: Contact) -> dict[str, Any]:
    return {
        "external_contact": {
            "external_userid": contact.id,
            "name": contact.id,
            "type": 1,
            "gender": 0,
            "avatar": "",
        },
        "follow_user": [
            {
                "userid": userid,
                "remark": "",
                "description": "",
                "createtime": follow.at_ms // 1_000,
                "add_way": follow.add_way,
                "state": follow.state,
            }
            for userid, follow in contact.follows.items()
        ],
    }
