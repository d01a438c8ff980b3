"""What Aliyun's codes mean for a message and its account. Pure.

Sources: Aliyun's page "API error codes" of dysmsapi. The codes of receipts are the carriers', and
only some are stable enough to stand in a table.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from channels.provider import Answer
from hub.contract.types import FailureClass

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
LEVELS: Final = (("分钟", MINUTE_MS), ("小时", HOUR_MS), ("天", DAY_MS), ("日", DAY_MS))
"""isv.BUSINESS_LIMIT_CONTROL has no field for its level; its message says 触发分钟级流控Permits:1
(or 小时级, 天级). The windows slide, so a whole one is the longest that it can take."""

_CODE = re.compile(r"(?!.*[0-9]{7})[A-Za-z0-9_.:-]{1,64}\Z")
"""No seven digits in a row: a number must not get into codes, whatever is sent."""


class Meaning(NamedTuple):
    """What a code means: an answer's kind, why it failed, and whether all must stop."""

    kind: Literal["retry", "failed"]
    failure: FailureClass | None = None
    stop: bool = False


_CONTENT = Meaning("failed", "rejected_content")
_CONFIG = Meaning("failed", "config")
_STOP = Meaning("failed", "config", stop=True)
_DEAD = Meaning("failed", "dead_address")
OTHER = Meaning("failed", "provider")

ERRORS: Final[dict[str, Meaning]] = {
    "isv.MOBILE_NUMBER_ILLEGAL": _DEAD,
    "isv.BLACK_KEY_CONTROL_LIMIT": _CONTENT,
    "isv.INVALID_JSON_PARAM": _CONTENT,
    "isv.INVALID_PARAMETERS": _CONTENT,
    "isv.PARAM_LENGTH_LIMIT": _CONTENT,
    "isv.PARAM_NOT_SUPPORT_URL": _CONTENT,
    "isv.TEMPLATE_MISSING_PARAMETERS": _CONTENT,
    "isv.TEMPLATE_PARAMS_ILLEGAL": _CONTENT,
    "isv.EXTEND_CODE_ERROR": _CONFIG,
    "isv.SMS_SIGNATURE_ILLEGAL": _CONFIG,
    "isv.SMS_SIGNATURE_SCENE_ILLEGAL": _CONFIG,
    "isv.SMS_TEMPLATE_ILLEGAL": _CONFIG,
    "isv.DOMESTIC_NUMBER_NOT_SUPPORTED": _CONFIG,
    "isv.ACCOUNT_ABNORMAL": _STOP,
    "isv.ACCOUNT_NOT_EXISTS": _STOP,
    "isv.AMOUNT_NOT_ENOUGH": _STOP,
    "isv.DENY_IP_RANGE": _STOP,
    "isv.OUT_OF_SERVICE": _STOP,
    "isv.PRODUCT_UNSUBSCRIBE": _STOP,
    "isv.PRODUCT_UN_SUBSCRIPT": _STOP,
    "isp.RAM_PERMISSION_DENY": _STOP,
    "InvalidAccessKeyId.Inactive": _STOP,
    "InvalidAccessKeyId.NotFound": _STOP,
    "InvalidTimeStamp.Expired": _STOP,
    "SignatureDoesNotMatch": _STOP,
    "SignatureNonceUsed": Meaning("retry"),
    # "Call again": in Aliyun's own words the message was not taken.
    "isp.SYSTEM_ERROR": Meaning("retry"),
}
"""Those that ask for a pause are read in `throttled`."""

RECEIPT_FAILURES: Final[dict[str, FailureClass]] = {
    "CONTENT_ERROR": "rejected_content",
    "CONTENT_KEYWORD": "rejected_content",
    "INVALID_NUMBER": "dead_address",
    "MOBILE_NOT_ON_SERVICE": "dead_address",
    "MOBILE_SEND_LIMIT": "throttled",
    "SIGNATURE_BLACKLIST": "config",
}


def is_code(text: str) -> bool:
    """Whether it looks like a code: a word, no sentence, no telephone number."""
    return _CODE.match(text) is not None


def throttled(code: str, message: str) -> Answer | None:
    """The pause that a code asks for, and of whom; None for other codes."""
    if code == "isv.BUSINESS_LIMIT_CONTROL":
        level = next((ms for word, ms in LEVELS if word in message), None)
        return Answer("throttled", code=code, scope="recipient", retry_after_ms=level)
    if code in ("isv.DAY_LIMIT_CONTROL", "isv.MONTH_LIMIT_CONTROL"):
        # The account's own limits of its console, which a person may raise at any time.
        return Answer("throttled", code=code, retry_after_ms=HOUR_MS)
    if code == "Throttling" or code.startswith("Throttling."):
        return Answer("throttled", code=code)
    return None
