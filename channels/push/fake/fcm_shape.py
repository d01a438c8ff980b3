"""The shape of FCM's requests, for the fake: what the real one would refuse is refused.

Sources: FCM's reference of projects.messages (v1): Message and what is in it; the rules of JSON for
protocol buffers (names in snake_case or lowerCamelCase, durations as "3.5s").
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from hub.errors import TactError

PAYLOAD_BYTES: Final = 4_096
TTL_MAX_S: Final = 28 * 86_400

_Duration = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?s$")]
_Texts = dict[str, str]
_Objects = dict[str, Any]


class Wrong(TactError):
    """A request that FCM would not take. `field` is where, as FCM spells it."""

    code = "fcm-invalid"

    def __init__(self, message: str, *, field: str = "", **facts: Any) -> None:
        super().__init__(message, field=field, **facts)


class _Part(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Nothing that it does not know."""


class FcmOptions(_Part):
    analytics_label: str = ""


class ApnsOptions(FcmOptions):
    image: str = ""


class WebpushOptions(FcmOptions):
    link: str = ""


class Notification(_Part):
    title: str = ""
    body: str = ""
    image: str = ""


class Color(_Part):
    red: float = 0
    green: float = 0
    blue: float = 0
    alpha: float = 1


class Lights(_Part):
    color: Color | None = None
    light_on_duration: _Duration = "0s"
    light_off_duration: _Duration = "0s"


class AndroidNotification(Notification):
    icon: str = ""
    color: str = ""
    sound: str = ""
    tag: str = ""
    click_action: str = ""
    body_loc_key: str = ""
    body_loc_args: list[str] = []
    title_loc_key: str = ""
    title_loc_args: list[str] = []
    channel_id: str = ""
    ticker: str = ""
    sticky: bool = False
    event_time: str = ""
    local_only: bool = False
    notification_priority: Literal[
        "PRIORITY_UNSPECIFIED",
        "PRIORITY_MIN",
        "PRIORITY_LOW",
        "PRIORITY_DEFAULT",
        "PRIORITY_HIGH",
        "PRIORITY_MAX",
    ] = "PRIORITY_UNSPECIFIED"
    default_sound: bool = False
    default_vibrate_timings: bool = False
    default_light_settings: bool = False
    vibrate_timings: list[_Duration] = []
    visibility: Literal["VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"] = (
        "VISIBILITY_UNSPECIFIED"
    )
    notification_count: int = 0
    light_settings: Lights | None = None
    bypass_proxy_notification: bool = False
    proxy: Literal["PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"] = (
        "PROXY_UNSPECIFIED"
    )


class Android(_Part):
    collapse_key: str = ""
    priority: Literal["NORMAL", "HIGH", "normal", "high"] = "NORMAL"
    ttl: _Duration = "2419200s"
    restricted_package_name: str = ""
    data: _Texts = {}
    notification: AndroidNotification | None = None
    fcm_options: FcmOptions | None = None
    direct_boot_ok: bool = False
    bandwidth_constrained_ok: bool = False
    restricted_satellite_ok: bool = False


class Apns(_Part):
    headers: _Texts = {}
    payload: _Objects = {}
    fcm_options: ApnsOptions | None = None
    live_activity_token: str = ""


class Webpush(_Part):
    headers: _Texts = {}
    data: _Texts = {}
    notification: _Objects = {}
    fcm_options: WebpushOptions | None = None


class Message(_Part):
    """One message."""

    token: str | UnsetType = UNSET
    topic: str | UnsetType = UNSET
    condition: str | UnsetType = UNSET
    fid: str | UnsetType = UNSET
    data: _Texts = {}
    notification: Notification | None = None
    android: Android | None = None
    webpush: Webpush | None = None
    apns: Apns | None = None
    fcm_options: FcmOptions | None = None

    def __repr__(self) -> str:
        return "Message()"


class Request(_Part):
    """The body of messages:send."""

    message: Message
    validate_only: bool = False


_DECODER: Final = msgspec.json.Decoder(Request)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_AT: Final = re.compile(r" - at `\$\.?([^`]*)`\Z")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")
_PASSED_ON: Final = frozenset({"data", "headers", "payload"})
"""Maps of any names."""
_RESERVED: Final = re.compile(r"(from|message_type)\Z|google\.|gcm\.notification\.")
_NUMBER: Final = re.compile(r"[0-9]{1,10}\Z")


def request_of(body: bytes) -> Request:
    """A body, checked. Raises Wrong."""
    try:
        request = _DECODER.decode(body)
    except msgspec.ValidationError:
        request = _in_camel(body)
    except _UNREADABLE:
        raise Wrong("Invalid JSON payload received.") from None
    _check(request.message, len(body))
    return request


def _in_camel(body: bytes) -> Request:
    """The same, with names in lowerCamelCase."""
    try:
        spelled = _snake(msgspec.json.decode(body), "")
        return msgspec.convert(spelled, Request)
    except msgspec.ValidationError as error:
        at = _AT.search(str(error))
        field = at[1] if at else ""
        raise Wrong(f"Invalid value at '{field}'", field=field) from None
    except _UNREADABLE:
        raise Wrong("Invalid JSON payload received.") from None


def _snake(value: Any, place: str) -> Any:
    if not isinstance(value, dict) or place in _PASSED_ON:
        return value
    return {
        _HUMP.sub(lambda hump: "_" + hump[1].lower(), key): (
            one if key == "notification" and place == "webpush" else _snake(one, key)
        )
        for key, one in value.items()
    }


def _check(message: Message, size: int) -> None:
    targets = (message.token, message.topic, message.condition, message.fid)
    if sum(target is not UNSET for target in targets) != 1:
        raise Wrong("Exactly one of token, topic or condition is required", field="message")
    for key in message.data:
        if _RESERVED.match(key):
            raise Wrong(f"Invalid data payload key: {key}", field="message.data")
    if message.android and float(message.android.ttl[:-1]) > TTL_MAX_S:
        raise Wrong("Invalid ttl", field="message.android.ttl")
    if message.apns:
        _check_headers(message.apns.headers, "message.apns.headers", "apns-expiration")
        if message.apns.headers.get("apns-priority", "5") not in ("1", "5", "10"):
            raise Wrong("Invalid apns-priority", field="message.apns.headers")
    if message.webpush:
        _check_headers(message.webpush.headers, "message.webpush.headers", "TTL")
        options = message.webpush.fcm_options
        if options and options.link and not options.link.startswith("https://"):
            raise Wrong("link must be https", field="message.webpush.fcm_options.link")
    if size > PAYLOAD_BYTES and _heaviest(message) > PAYLOAD_BYTES:
        raise Wrong("Message is too big", field="message")


def _check_headers(headers: _Texts, field: str, name: str) -> None:
    if name in headers and _NUMBER.match(headers[name]) is None:
        raise Wrong(f"Invalid {name}", field=field)


def _heaviest(message: Message) -> int:
    """Bytes of keys and values that one sort of device is given, at most."""
    android, apns, web = message.android, message.apns, message.webpush
    common = _bytes(message.data) + _bytes(msgspec.to_builtins(message.notification))
    return common + max(
        _bytes(msgspec.to_builtins(android.notification)) + _bytes(android.data) if android else 0,
        _bytes(apns.payload) if apns else 0,
        _bytes(web.notification) + _bytes(web.data) if web else 0,
    )


def _bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(str(key).encode()) + _bytes(one) for key, one in value.items())
    if isinstance(value, list):
        return sum(_bytes(one) for one in value)
    return 0 if value is None else len(str(value).encode())
