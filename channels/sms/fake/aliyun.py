"""Aliyun's SendSms to try the hub with: checks every signature, and pushes reports.

    python -m channels.sms.fake.aliyun --port 0 --report-url http://127.0.0.1:4280/v1/callbacks/…

prints one line of JSON with its port when it is ready, and takes lines of JSON on standard input:
`{"mo": {"from": "13800138000", "text": "R"}}` is a customer's message. Any client that
signs as RPC style 1.0 is answered, with GET or POST.

Sources: Aliyun's pages SendSms, "Request signature (RPC)", SmsReport and SmsUp.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from aiohttp import web

from channels.sms.fake import command
from channels.sms.fake.faults import Fate, Plan, Recorder
from channels.sms.fake.server import run_server
from channels.sms.fake.urlgateway import HttpFake
from channels.sms.web.signing import signature, string_to_sign
from hub.clock import Clock, SystemClock

NONCES: Final = 100_000
"""Nonces remembered to refuse a repeat; forgotten all at once."""
SKEW_MS: Final = 15 * 60_000
"""How far a timestamp may be from the server's clock."""

_CHINA = timezone(timedelta(hours=8))
_NEEDED = ("Action", "AccessKeyId", "SignatureNonce", "Timestamp", "PhoneNumbers", "SignName")


class FakeAliyun(HttpFake):
    """dysmsapi with one user."""

    def __init__(
        self,
        *,
        key_id: str = "testId",
        secret: str = "testSecret",
        report_url: str = "",
        balance: int = 1_000_000_000,
        plan: Plan | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        repeat_s: float = 60.0,
    ) -> None:
        super().__init__(plan, recorder, repeat_s)
        self.report_url = report_url
        """Where reports are pushed to; "": nowhere."""
        self.balance = balance
        """Messages that are paid for."""
        self._key_id = key_id
        self._secret = secret
        self._clock = clock or SystemClock()
        self._nonces: set[str] = set()

    async def answer(self, path: str, fields: dict[str, str], method: str) -> web.Response | None:
        """As dysmsapi does: refusals of the request have a 4xx, those of the message a 200."""
        if refusal := self._unsigned(fields, method):
            return refusal
        if fields["Action"] != "SendSms":
            return _said(404, "InvalidAction.NotFound", "Specified api is not found")
        if self.balance <= 0:
            return _said(200, "isv.AMOUNT_NOT_ENOUGH", "账户余额不足")
        key = f"{fields['PhoneNumbers']}\0{fields.get('TemplateParam', '')}"
        fate = self.plan.fate(key.encode())
        biz_id = f"{self.counts.get('taken', 0) + 900_000_000_000_000_000}^0"
        if not await self.acted(fate, lambda: self._take(fields, biz_id, fate)):
            return None
        if fate.answer == "throttle":
            return _said(200, "isv.BUSINESS_LIMIT_CONTROL", "触发分钟级流控Permits:1")
        if fate.answer == "busy":
            return _said(503, "ServiceUnavailable", "try again later")
        if fate.answer == "refuse":
            return _said(200, "isv.MOBILE_NUMBER_ILLEGAL", f"{fields['PhoneNumbers']}无效号码")
        return _said(200, "OK", "OK", BizId=biz_id)

    def _unsigned(self, fields: dict[str, str], method: str) -> web.Response | None:
        missing = next((name for name in _NEEDED if name not in fields), None)
        if missing is not None:
            return _said(400, f"Missing{missing}", f"{missing} is mandatory for this action.")
        if fields["AccessKeyId"] != self._key_id:
            return _said(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        if fields.get("Signature") != signature(method, fields, self._secret):
            # Quotes everything back, the number too, as the real one does.
            signed = string_to_sign(method, fields)
            message = f"Specified signature is not matched. server string to sign is:{signed}"
            return _said(400, "SignatureDoesNotMatch", message)
        try:
            at = datetime.fromisoformat(fields["Timestamp"]).timestamp() * 1_000
        except ValueError:
            return _said(400, "InvalidTimeStamp.Format", "Specified time stamp is not valid.")
        if abs(at - self._clock.now_ms()) > SKEW_MS:
            return _said(400, "InvalidTimeStamp.Expired", "Specified time stamp is expired.")
        if fields["SignatureNonce"] in self._nonces:
            return _said(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
        if len(self._nonces) >= NONCES:
            self._nonces.clear()
        self._nonces.add(fields["SignatureNonce"])
        return None

    def _take(self, fields: dict[str, str], biz_id: str, fate: Fate) -> None:
        self.balance -= 1
        self.took(fields["PhoneNumbers"], fields)
        out_id = fields.get("OutId", "")
        self.recorder.write({"to": fields["PhoneNumbers"], "id": out_id, "fate": fate.answer})
        if not self.report_url:
            return
        report = {
            "phone_number": fields["PhoneNumbers"],
            "send_time": self._now(),
            "report_time": self._now(),
            "success": fate.delivered,
            "err_code": "DELIVERED" if fate.delivered else "MOBILE_NOT_ON_SERVICE",
            "err_msg": "用户接收成功" if fate.delivered else "手机号停机",
            "sms_size": "1",
            "biz_id": biz_id,
            "out_id": out_id,
        }
        for _ in range(fate.receipts):
            self.spawn(self._push(report, (fate.latency_ms + fate.receipt_ms) / 1_000))

    async def _push(self, report: dict[str, Any], after_s: float) -> None:
        await asyncio.sleep(max(after_s, 0))
        await self.call_until_taken(self.report_url, json.dumps([report]).encode())

    async def customer_writes(self, sender: str, text: str) -> int:
        """Push it to `report_url`."""
        message = {
            "phone_number": sender,
            "send_time": self._now(),
            "content": text,
            "sign_name": "阿里云",
            "dest_code": "1",
            "sequence_id": self.count("mo"),
        }
        body = json.dumps([message]).encode()
        return await self.call(self.report_url, body) if self.report_url else 0

    def _now(self) -> str:
        now = datetime.fromtimestamp(self._clock.now_ms() / 1_000, _CHINA)
        return now.strftime("%Y-%m-%d %H:%M:%S")


def _said(status: int, code: str, message: str, **more: str) -> web.Response:
    body = {"RequestId": "00000000-0000-0000-0000-000000000000", "Code": code, "Message": message}
    return web.json_response({**body, **more}, status=status)


def _fake(arguments: argparse.Namespace) -> FakeAliyun:
    return FakeAliyun(
        key_id=arguments.key_id,
        secret=arguments.secret,
        report_url=arguments.report_url,
        plan=command.plan_of(arguments),
        recorder=Recorder(arguments.record),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command.parser("aliyun", "Aliyun's SendSms, for trying.")
    parser.add_argument("--key-id", default="testId")
    parser.add_argument("--secret", default="testSecret")
    parser.add_argument("--report-url", default="", help="where receipts are pushed to")
    run_server(_fake, parser, argv)


if __name__ == "__main__":
    main()
