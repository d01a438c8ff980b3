"""What an account says about its ISMG."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from channels.sms.cmpp.results import ResultClass, StatMeaning

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Octet = Annotated[int, Meta(ge=0, le=255)]


class CmppConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The keys of an account that speaks CMPP. Times are in seconds."""

    host: Annotated[str, Meta(min_length=1, max_length=255)]
    port: Annotated[int, Meta(ge=1, le=65_535)] = 7890
    sp_id: Annotated[str, Meta(min_length=1, max_length=6, pattern="^[!-~]+$")]
    """Source_Addr and Msg_src: the enterprise code, usually six digits."""
    secret: Annotated[str, Meta(min_length=1, max_length=64)]
    """The shared secret itself."""
    version: Literal["auto", "2.0", "3.0"] = "auto"
    """auto: 3.0, and 2.0 when the ISMG finds that too high."""
    src_id: Annotated[str, Meta(max_length=21, pattern="^[0-9]*$")] = ""
    """The access code with our extension: what the customer sees as the sender."""
    service_id: Annotated[str, Meta(max_length=10, pattern="^[!-~]*$")] = ""
    fee_user_type: Octet = 2
    """2: the service provider pays."""
    fee_terminal_id: Annotated[str, Meta(max_length=21, pattern="^[0-9]*$")] = ""
    fee_type: Annotated[str, Meta(max_length=2, pattern="^[0-9]*$")] = "01"
    """01: free for the customer."""
    fee_code: Annotated[str, Meta(max_length=6, pattern="^[0-9]*$")] = "000000"
    msg_level: Octet = 0
    registered_delivery: Literal[0, 1] = 1
    """1: status reports are asked for."""
    valid_time: bool = True
    """Tell the ISMG when a message is of no use any more."""
    verify_ismg: bool = True
    """Whether an ISMG that cannot prove that it knows the secret is refused. Only for gateways that
    fill the field with something else."""
    window: Annotated[int, Meta(ge=1, le=1_000)] = 16
    """SUBMITs unanswered at once on one connection (W)."""
    connections: Annotated[int, Meta(ge=1, le=16)] = 1
    connect_timeout_s: Seconds = 15.0
    """TCP and login together."""
    active_test_s: Seconds = 180.0
    """Silence after which the connection is tested (C)."""
    response_timeout_s: Seconds = 60.0
    """How long an answer may take (T)."""
    tries: Annotated[int, Meta(ge=1, le=10)] = 3
    """Response timeouts in a row, with nothing heard between, that end a connection (N)."""
    reconnect_min_s: Seconds = 1.0
    reconnect_max_s: Seconds = 60.0
    """Wait between tries to connect: from the least it doubles up to the most. After a refusal that
    a person must settle it is the most at once."""
    confirm_parts: Literal["whole", "each"] = "whole"
    """When parts of a customer's long message are confirmed: all when the whole is stored, so that
    none is lost; or each as it comes, for an ISMG that sends no second part before."""
    throttle_pause_s: Seconds = 1.0
    """How long the account pauses after a flow control (result 8)."""
    results: dict[str, ResultClass] = field(default_factory=dict)
    """What the gateway's own results of a SUBMIT mean, by decimal number: `"132" = "retry"`."""
    stats: dict[str, StatMeaning] = field(default_factory=dict)
    """What the gateway's own Stats mean, whole or what stands before the colon."""

    def __repr__(self) -> str:
        return f"CmppConfig({self.host}:{self.port})"  # never the secret
