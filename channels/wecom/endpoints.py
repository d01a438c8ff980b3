"""WeCom's API as a table: what each call is named, how it is asked, and whether a repeat of it
could reach people (or change something) a second time.

Sources: WeCom's pages 91039, 90236, 94867, 90248, 92135 to 93360, 94670 to 94699, 92116 to 94100.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct


class Endpoint(Struct, frozen=True):
    """One call."""

    method: Literal["GET", "POST"]
    path: str
    """From the host on."""
    sends: bool
    """A second time it would do something a second time: never repeated when unanswered."""
    rated: bool = True
    """Counted in what a corp may call of one API. Application messages have limits of their own, by
    member and by person-times a day."""


def _table(reads: str, gets: str, sends: str) -> dict[str, Endpoint]:
    """A name is its path below /cgi-bin/."""
    table = {name: Endpoint("POST", f"/cgi-bin/{name}", False) for name in reads.split()}
    table |= {name: Endpoint("GET", f"/cgi-bin/{name}", False) for name in gets.split()}
    return table | {
        name: Endpoint("POST", f"/cgi-bin/{name}", True, rated=name != "message/send")
        for name in sends.split()
    }


ENDPOINTS: Final[dict[str, Endpoint]] = _table(
    reads="""
        kf/account/list
        kf/service_state/get
        kf/sync_msg
        externalcontact/get_groupmsg_list_v2
        externalcontact/get_groupmsg_send_result
        externalcontact/get_groupmsg_task
        externalcontact/get_moment_comments
        externalcontact/get_moment_list
        externalcontact/get_moment_send_result
        externalcontact/get_moment_task
        externalcontact/get_unassigned_list
        externalcontact/groupchat/get
        externalcontact/groupchat/get_join_way
        externalcontact/groupchat/list
        externalcontact/resigned/transfer_result
        externalcontact/transfer_result
    """,
    gets="""
        appchat/get
        externalcontact/get
        externalcontact/get_follow_user_list
        externalcontact/get_moment_task_result
        externalcontact/list
        gettoken
        kf/servicer/list
        user/get
    """,
    sends="""
        appchat/create
        appchat/send
        appchat/update
        externalcontact/add_moment_task
        externalcontact/add_msg_template
        externalcontact/cancel_groupmsg_send
        externalcontact/cancel_moment_task
        externalcontact/groupchat/add_join_way
        externalcontact/groupchat/onjob_transfer
        externalcontact/groupchat/transfer
        externalcontact/remind_groupmsg_send
        externalcontact/resigned/transfer_customer
        externalcontact/send_welcome_msg
        externalcontact/transfer_customer
        kf/send_msg
        kf/send_msg_on_event
        kf/service_state/trans
        message/recall
        message/send
    """,
)
