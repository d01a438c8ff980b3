"""What an SMS says and to whom: signature, the way out, number and segments.

Source: the carriers' rules for messages from a port in China: every one begins (or ends) with a
filed signature in 【】, and every commercial one tells a free and easy way out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from channels.provider import Unsendable
from channels.sms import limits
from channels.sms.alphabet import Coding
from channels.sms.consent import is_opt_out, plain, words
from channels.sms.numbers import is_region, normalise
from channels.sms.segments import Concat, Segmented, reference_of, segment
from hub.contract.types import Delivery
from hub.errors import ConfigError


class SmsConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`[accounts.sms]` of accounts.toml."""

    signature: str | None = None
    """Without its brackets."""
    signature_at: Literal["start", "end"] = "start"
    opt_out_line: str | None = None
    """Such as 拒收请回复R; put behind the text of marketing."""
    marketing: Annotated[list[str], Meta(max_length=limits.MARKETING_CATEGORIES)] = field(
        default_factory=lambda: ["marketing"]
    )
    """The policy's categories that are marketing."""
    max_segments: Annotated[int, Meta(ge=1, le=limits.PARTS)] = limits.SEGMENTS
    """A longer text is refused."""
    region: str = "CN"
    """Country of numbers that are written without one."""
    codings: Annotated[list[Coding], Meta(min_length=1, max_length=len(Coding))] | None = None
    """Alphabets to try, in order; None: those of the protocol (gsm7, ucs2)."""
    concat: Concat | None = None
    """How parts are joined; None: as the protocol does it (udh8)."""
    opt_out_words: Annotated[list[str], Meta(max_length=limits.OPT_OUT_WORDS)] = field(
        default_factory=list
    )
    """Beside those that every account understands."""


class _Content(Struct):
    """A delivery's content. What stands beside the text is for others."""

    text: str


_CONTENT = msgspec.json.Decoder(_Content)


class Sms:
    """One account's texts. Pure: the same delivery gives the same segments."""

    def __init__(
        self,
        config: SmsConfig,
        *,
        codings: Collection[Coding] = tuple(Coding),
        concats: Collection[Concat] = tuple(Concat),
    ) -> None:
        """`codings` and `concats` are what the protocol can carry. Raises ConfigError, which names
        the key, for a configuration that says anything else."""
        _check(config, codings, concats)
        self.config = config
        self._signature = f"【{config.signature}】" if config.signature else ""
        self._line = config.opt_out_line or ""
        self._marketing = frozenset(config.marketing)
        self._words = words(config.opt_out_words)

    def is_opt_out(self, text: str) -> bool:
        """Whether a customer's message refuses further ones, in this account's words too."""
        return is_opt_out(text, self._words)

    def compose(self, text: str, category: str) -> str:
        """The text with what carriers require, each once: composing it again changes nothing."""
        signature = self._signature
        if signature:
            text = text.strip()  # it must be the very first thing, or the very last
            if not text.startswith(signature) and not text.endswith(signature):
                at_start = self.config.signature_at == "start"
                text = signature + text if at_start else text + signature
        if category in self._marketing and self._line not in text:
            # Before a signature at the end: that must remain the last thing.
            end = signature if text.endswith(signature) else ""
            text = text.removesuffix(end) + self._line + end
        return text

    def prepare(
        self,
        delivery: Delivery,
        *,
        concat: Concat = Concat.UDH8,
        codings: Sequence[Coding] = (Coding.GSM7, Coding.UCS2),
    ) -> tuple[str, Segmented]:
        """The recipient in E.164, and the segments. `concat` and `codings` are the protocol's own,
        used unless the account names others. Raises Unsendable."""
        recipient = normalise(delivery.to, self.config.region)
        text = self.compose(text_of(delivery), delivery.category)
        concat = self.config.concat or concat
        segmented = segment(
            text,
            self.config.codings or codings,
            reference=reference_of(delivery.id, concat.reference_bits),
            concat=concat,
            most=self.config.max_segments,
        )
        return recipient, segmented


def text_of(delivery: Delivery) -> str:
    """The text of a delivery's content, `{"text": "…"}`. Raises Unsendable (rejected_content),
    which names what is wrong and quotes nothing."""
    try:
        text = _CONTENT.decode(delivery.content).text
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = None
    # Outside of the except clause: decoding errors may quote what they could not read.
    if text is None:
        raise Unsendable(
            "the content of an SMS needs the field text, a string", failure="rejected_content"
        )
    if not text.strip():
        raise Unsendable("the field text is empty", failure="rejected_content")
    return text


def _check(config: SmsConfig, codings: Collection[Coding], concats: Collection[Concat]) -> None:
    """What types cannot say. Raises ConfigError."""
    shortest, longest = limits.SIGNATURE_CHARS
    signature, line = config.signature, config.opt_out_line
    if signature is not None:
        if set("【】") & set(signature) or signature != signature.strip():
            raise _wrong("signature", "write it without 【】 and surrounding spaces")
        if not shortest <= len(signature) <= longest:
            raise _wrong("signature", f"{shortest} to {longest} characters")
    if line is not None:
        shortest, longest = limits.OPT_OUT_LINE_CHARS
        if set("【】") & set(line) or line != line.strip():
            raise _wrong("opt_out_line", "write it without 【】 and surrounding spaces")
        if not shortest <= len(line) <= longest:
            raise _wrong("opt_out_line", f"{shortest} to {longest} characters")
    if not is_region(config.region):
        raise _wrong("region", "a country of ISO 3166 in two capital letters, such as CN")
    for word in config.opt_out_words:
        if len(word) > limits.OPT_OUT_WORD_CHARS or not plain(word):
            raise _wrong(
                "opt_out_words",
                f"each has a letter or digit, and at most {limits.OPT_OUT_WORD_CHARS} characters",
            )
    for coding in config.codings or ():
        if coding not in codings:
            allowed = ", ".join(each.value for each in codings)
            raise _wrong("codings", f"{coding.value} is not of this protocol; allowed: {allowed}")
    if config.concat is not None and config.concat not in concats:
        allowed = ", ".join(each.value for each in concats)
        raise _wrong("concat", f"not of this protocol; allowed: {allowed}")


def _wrong(key: str, problem: str) -> ConfigError:
    return ConfigError(f"sms.{key}: {problem}", key=f"sms.{key}")
