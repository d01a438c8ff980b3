"""The configuration of one account at an SMPP centre."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from channels.sms.alphabet import Coding
from channels.sms.smpp.receipts import IdForm
from channels.sms.smpp.status import StatusClass
from hub.errors import ConfigError

Octet = Annotated[int, Meta(ge=0, le=255)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Port = Annotated[int, Meta(ge=1, le=65_535)]

_ASCII = "^[ -~]*$"

BINDS_MAX = 16
"""Binds of one account; centres allow 1 to 10."""
WINDOW_MAX = 1_000
"""Unanswered submissions of one bind. Beyond it nothing gets faster: at 100 ms to an answer it is
10,000 messages a second."""

DATA_CODING: dict[str, int] = {
    Coding.GSM7.value: 0,
    Coding.ASCII.value: 1,
    Coding.LATIN1.value: 3,
    Coding.UCS2.value: 8,
}
"""data_coding of each alphabet, unless the account says otherwise (SMPP 3.4, 5.2.19). GBK has none
there: an account that wants it names its centre's number."""


class SmppConfig(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How an account reaches its centre. Times are seconds.

    What types cannot say is checked by `channels.sms.smpp.provider.check`.
    """

    host: Annotated[str, Meta(min_length=1, max_length=255)]
    port: Port = 2775
    system_id: Annotated[str, Meta(min_length=1, max_length=15, pattern=_ASCII)]
    password: Annotated[str, Meta(max_length=8, pattern=_ASCII)]
    """At most 8 octets, as SMPP 3.4 has it."""
    system_type: Annotated[str, Meta(max_length=12, pattern=_ASCII)] = ""
    bind: Literal["transceiver", "transmitter+receiver"] = "transceiver"
    binds: Annotated[int, Meta(ge=1, le=BINDS_MAX)] = 1
    """How many connections (or pairs of them) are kept; all send, each with a window of its own."""
    window: Annotated[int, Meta(ge=1, le=WINDOW_MAX)] = 10
    """submit_sm unanswered at once on one bind; the protocol has no word for it, the centre's
    operator does."""
    tls: bool = False
    tls_ca: str = ""
    """A file of certificates to trust instead of the system's."""
    tls_name: str = ""
    """The name in the centre's certificate, when it is not `host`."""
    enquire_link_s: Seconds = 30.0
    """Silence after which the other side is asked whether it lives."""
    response_timeout_s: Seconds = 30.0
    """No answer to a submission for so long: it is unknown whether it was taken. No answer to
    enquire_link: the connection is dropped."""
    connect_timeout_s: Seconds = 10.0
    """For the connection with its TLS, and again for the answer to the bind."""
    reconnect_min_s: Seconds = 1.0
    reconnect_max_s: Seconds = 60.0
    """Also the time between two tries of a bind that was refused for its configuration."""
    service_type: Annotated[str, Meta(max_length=5, pattern=_ASCII)] = ""
    source: Annotated[str, Meta(max_length=20, pattern=_ASCII)] = ""
    """What the customer sees as the sender: a number, or with `source_ton` 5 a name."""
    source_ton: Octet = 0
    source_npi: Octet = 0
    dest_ton: Octet = 1
    dest_npi: Octet = 1
    dest_plus: bool = False
    """Whether the number is sent with its `+`."""
    esm_class: Octet = 0
    """Messaging mode of every submission; 3 (store and forward) where the centre needs it said."""
    protocol_id: Octet = 0
    priority_flag: Octet = 0
    registered_delivery: Octet = 1
    """1: a receipt when it is decided; 0: none."""
    receipts: Literal["segment", "message"] = "segment"
    """Whether a long message gets a receipt for each part, or asks for one with its last part."""
    id_form: IdForm = "none"
    data_coding: dict[str, Octet] = field(default_factory=dict)
    """data_coding by alphabet (`gsm7`, `ascii`, `latin1`, `ucs2`, `gbk`) where the centre's differs
    from the specification."""
    inbound_default: Literal["gsm7", "ascii", "latin1"] = "gsm7"
    """The alphabet of what customers write with data_coding 0."""
    validity: Literal["absolute", "relative", "none"] = "absolute"
    """How the expiry of a message is told to the centre."""
    confirm_parts: Literal["whole", "each"] = "whole"
    """When a part of a long inbound message is confirmed: once the whole is stored; or at once, for
    a centre that sends the next part only then (parts so far are lost if the process ends)."""
    throttle_pause_s: Seconds = 1.0
    """How long the account pauses after ESME_RTHROTTLED or ESME_RMSGQFUL."""
    statuses: dict[str, StatusClass] = field(default_factory=dict)
    """What the vendor's own statuses mean: `{"0x0400": "throttled"}`."""

    def __repr__(self) -> str:
        return f"SmppConfig({self.host}:{self.port})"

    def own_statuses(self) -> dict[int, StatusClass]:
        """`statuses` by number. Raises ConfigError."""
        found: dict[int, StatusClass] = {}
        for text, meaning in self.statuses.items():
            try:
                status = int(text, 0)
            except ValueError:
                status = 0
            if not 0 < status <= 0xFFFFFFFF:
                raise ConfigError('statuses: write numbers as "0x0400"', key="statuses")
            found[status] = meaning
        return found

    def codings(self) -> dict[Coding, int]:
        """data_coding by alphabet. Raises ConfigError."""
        numbers = DATA_CODING | self.data_coding
        try:
            return {Coding(name): value for name, value in numbers.items()}
        except ValueError:
            names = ", ".join(coding.value for coding in Coding)
            raise ConfigError(f"data_coding: alphabets are {names}", key="data_coding") from None
