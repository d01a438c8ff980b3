"""What the fake WeCom can be told: its limits and habits, and the corps it has.

Every limit has WeCom's documented figure as its default; 0 turns a rate limit off.

Sources: WeCom's pages 91039 (tokens), 90454 (rates), 90236, 90244 to 90248 (messages, groups),
92135 (mass messages), 94670 to 94699 (customer service), 90930 (callbacks).
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

CALLBACK_TOKEN: Final = "fakeCallbackToken"
CALLBACK_KEY: Final = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
SECRET: Final = "fake-secret"
AGENT_ID: Final = 1_000_002
PERMISSIONS: Final = ("message", "appchat", "contact", "kf")


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and habits. Times are seconds, shares from 0 to 1."""

    token_s: float = 7_200.0
    gettoken_per_min: int = 100
    """Per corp and secret. WeCom blocks frequent calls, and does not say how many those are."""
    api_per_min: int = 10_000
    api_per_hour: int = 150_000
    """Calls of one API by one corp; message/send is not counted here."""
    ip_per_min: int = 20_000
    ip_per_hour: int = 600_000
    """Calls of one API from one address; message/send is not counted here."""
    member_per_min: int = 30
    member_per_hour: int = 1_000
    """Messages of one application to one member; what is beyond is dropped in silence."""
    account_cap: int = 1_000
    """Members that the corp may have: 200 times as many person-times a day by one application."""
    group_per_min: int = 20_000
    group_per_hour: int = 300_000
    """Person-times in groups of one corp."""
    group_member_per_min: int = 200
    group_member_per_day: int = 10_000
    """Group messages to one member; what is beyond is dropped in silence."""
    chats_per_day: int = 1_000
    chat_updates_per_hour: int = 1_000
    kf_limit: int = 5
    kf_window_s: float = 48 * 3_600.0
    kf_keep_s: float = 72 * 3_600.0
    kf_token_s: float = 600.0
    kf_pulls_per_min: int = 10
    """Pulls of one account without a callback's token. WeCom says only that they are few."""
    kf_repeat_errcode: int = 40_058
    """What a msgid that was used is answered with. Not documented: a guess."""
    short_pages: float = 0.1
    """Pages of sync_msg that are shorter than asked for, though there is more."""
    late_window: float = 0.0
    """Sends into a closed window that are answered with 0 and fail by an event."""
    confirm: float = 1.0
    """Members who confirm a mass task or a moment; each is asked again by a reminder."""
    confirm_s: float = 5.0
    """Mean time until they do; each draws between half and one and a half of it."""
    dispatching_s: float = 2.0
    """A new task answers 41063 for so long."""
    reminders: int = 3
    rule: Literal["monthly_days", "weekly_7", "daily_1"] = "monthly_days"
    """How many mass messages one customer or group may get."""
    welcome_s: float = 20.0
    console_welcome: bool = False
    """The console has a welcome text: no code is issued."""
    transfer_s: float = 24 * 3_600.0
    """Until a customer who does not refuse goes over to the other member."""
    group_size: int = 200
    """Members of a customer group, beyond which a join way makes another."""
    onjob_transfers_per_day: int = 300
    """Groups of one person."""
    callback_timeout_s: float = 5.0
    callback_tries: int = 3
    callback_again_s: float = 1.0
    """Between two tries."""
    drop_callbacks: float = 0.0
    """Callbacks that are never sent."""
    repeat_callbacks: float = 0.0
    """Callbacks that are sent twice though they were answered in time."""


class AppScene(Struct, kw_only=True, forbid_unknown_fields=True):
    """An application of a corp."""

    agent_id: int = AGENT_ID
    secret: str = SECRET
    callback_url: str = ""
    """Where its callbacks go; "": nowhere."""
    callback_token: str = CALLBACK_TOKEN
    callback_key: str = CALLBACK_KEY
    permissions: tuple[str, ...] = PERMISSIONS


class CorpScene(Struct, kw_only=True, forbid_unknown_fields=True):
    """A corp as it is when the fake starts."""

    corp_id: str
    apps: tuple[AppScene, ...]
    members: tuple[str, ...] = ()
    customers: dict[str, tuple[str, ...]] = {}
    """external_userid → the members who serve her."""
    kf_accounts: tuple[str, ...] = ()


class Scene(Struct, kw_only=True, forbid_unknown_fields=True):
    """All corps."""

    corps: tuple[CorpScene, ...]


class Size(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scene that is made up: corps that are all alike."""

    corps: int = 1
    members: int = 10
    """m1, m2, … of each corp."""
    customers: int = 20
    """wm000001, … of each corp; the members serve them in turn."""
    kf_accounts: int = 1
    """wk000001, … of each corp."""
    corp_id: str = "wwfake0000000001"
    """Of the first; the others count on from it."""
    agent_id: int = AGENT_ID
    secret: str = SECRET
    callback_url: str = ""
    callback_token: str = CALLBACK_TOKEN
    callback_key: str = CALLBACK_KEY


def made_up(size: Size) -> Scene:
    """The scene of this size."""
    members = tuple(f"m{number}" for number in range(1, size.members + 1))
    customers: dict[str, tuple[str, ...]] = {
        f"wm{number:06}": (members[(number - 1) % len(members)],) if members else ()
        for number in range(1, size.customers + 1)
    }
    kf_accounts = tuple(f"wk{number:06}" for number in range(1, size.kf_accounts + 1))
    names = [size.corp_id, *(f"{size.corp_id}-{number}" for number in range(2, size.corps + 1))]
    return Scene(
        corps=tuple(
            CorpScene(
                corp_id=name,
                apps=(_app(size),),
                members=members,
                customers=customers,
                kf_accounts=kf_accounts,
            )
            for name in names
        )
    )


def _app(size: Size) -> AppScene:
    return AppScene(
        agent_id=size.agent_id,
        secret=size.secret,
        callback_url=size.callback_url,
        callback_token=size.callback_token,
        callback_key=size.callback_key,
    )
