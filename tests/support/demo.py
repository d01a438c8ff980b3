"""The demo's accounts, what services make of its pushes, and a day at its WeCom."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.demo import gateway, people, push, pushed, stage, talks, wecom
from channels.accounts import AccountConfig, parse_accounts
from channels.push.fake.fcm import FakeFcm
from hub.checkers import History
from hub.contract.times import rfc3339
from hub.contract.types import Delivery
from hub.policy.document import load_policy
from tests.support.histories import Recorder, intent


@cache
def accounts() -> dict[str, AccountConfig]:
    """As the demo writes them."""
    urls = (f"http://127.0.0.1:{port}" for port in (2_776, 2_777, 2_778))
    text = stage.accounts_at(2_775, *urls)
    secrets = {}
    fcm = FakeFcm()
    fcm.grants.url = "http://127.0.0.1:2777/token"
    for name, secret in {**stage.SECRETS, push.CREDENTIALS: fcm.key_file()}.items():
        variable = name.replace("-", "_").replace(".", "_")
        text = text.replace(f'{{ file = "{name}" }}', f'{{ env = "{variable}" }}')
        secrets[variable] = secret
    return {config.name: config for config in parse_accounts(text, Path(), secrets)}


class AtPush:
    """What FCM, the grid and the shop's gateway make of a recorder's pushes, at once: what is gone
    is told as dead, and what follows from that is decided."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.at_fcm: list[dict[str, Any]] = []
        self.at_grid: list[dict[str, Any]] = []
        self.in_inbox: list[dict[str, Any]] = []
        self._taken = 0

    def takes(self) -> None:
        """What the hub has handed over since."""
        while new := self.recorder.handed[self._taken :]:
            self._taken += len(new)
            for handed in new:
                if handed.delivery.channel == "push":
                    self._take(handed.delivery)

    def _take(self, delivery: Delivery) -> None:
        at, gone = self.recorder.now, delivery.to.startswith(("unregistered-", "gone-"))
        common = {"at": at, "to": delivery.to}
        if delivery.account == push.PHONES:
            fate = "UNREGISTERED" if gone else "accept"
            data = {pushed.ID_KEY: delivery.id}
            line = {"id": "" if gone else f"0:{delivery.id}", "data": data, "fate": fate}
            self.at_fcm.append(common | line)
            self._tell(delivery, "failed" if gone else "sent")
            return
        if delivery.account == push.INBOX:
            answered = gateway.answers(delivery.id, delivery.to)
            took = answered[0][0] == "delivered"
            self.in_inbox.append(common | {"delivery": delivery.id, "took": took})
            for status, _ in answered:
                self._tell(delivery, status)
            return
        name, status = {"delivery": delivery.id}, "failed" if gone else "delivered"
        line = {"kind": "posted", "id": f"dlv_{delivery.id}", "try": 1, "fate": "accept"}
        self.at_grid.append(common | name | line | {"took": True})
        self.at_grid.append({"kind": "confirmed", "at": at, "status": status} | name)
        self._tell(delivery, "sent")
        self._tell(delivery, status)

    def _tell(self, delivery: Delivery, status: str) -> None:
        receipt = {"delivery": delivery.id, "customer": delivery.customer, "status": status}
        receipt |= {"at": rfc3339(self.recorder.now)}
        if status == "failed":
            receipt |= {"class": "dead_address", "code": "UNREGISTERED", "to": delivery.to}
        elif delivery.account == push.PHONES:
            receipt |= {"last": True}  # type: ignore[dict-item]
        self.recorder.publish("receipt", receipt, "accounts")

    def pushes(self) -> pushed.Pushes:
        """As a run of the demo finds them."""
        mine = [accounts()[name] for name in push.ACCOUNTS]
        newest = max(handed.sequence for handed in self.recorder.handed)
        last = dict.fromkeys((*push.ACCOUNTS, push.INBOX), newest)
        return pushed.Pushes(mine, self.at_fcm, self.at_grid, self.in_inbox, [], last)


class AtWecom:
    """A history with the fake's record of it: whatever is handed over is taken 100 ms later."""

    def __init__(self) -> None:
        self.recorder = Recorder(load_policy(stage.POLICY))
        self.lines: list[dict[str, Any]] = []
        self._taken = 0

    def writes(self, customer: str, text: str, name: str) -> None:
        """To customer service."""
        at = self.recorder.now
        who = {"corp": wecom.CORP, "open_kfid": wecom.SERVICE}
        said = {"type": "text", "content": text, "msgid": name}
        self.lines.append({"at": at, "kind": "wrote", "from": customer} | who | said)
        self.hears(customer, talks.SERVICE, name, {"text": text})

    def adds(self, customer: str, seller: str, code: str) -> None:
        """A customer adds a member."""
        at, until = self.recorder.now, self.recorder.now + 20_000
        came = {"corp": wecom.CORP, "userid": seller, "code": code, "until": until}
        self.lines.append({"at": at, "kind": "came", "from": customer} | came)
        added = {"event": "friend_added", "welcome_code": code}
        self.hears(customer, seller, code, added | {"welcome_until": rfc3339(until)})

    def hears(self, customer: str, account: str, name: str, content: dict[str, Any]) -> None:
        fields = {"id": name, "channel": "wecom", "account": account, "customer": customer}
        fields |= {"content": content, "at": rfc3339(self.recorder.now), "sender": customer}
        self.recorder.publish("inbound", fields, "accounts")
        self.takes()

    def commands(self, customer: str, op: str, **fields: Any) -> None:
        command = {"id": f"{op}-{customer}", "app": "accounts", "customer": customer, "op": op}
        self.recorder.publish("command", command | fields, "accounts")
        self.takes()

    def takes(self) -> None:
        """What the hub has handed over since."""
        for handed in self.recorder.handed[self._taken :]:
            delivery = handed.delivery
            if delivery.channel != "wecom":
                continue
            content = msgspec.json.decode(delivery.content)
            kind, who = "kf", {"open_kfid": wecom.SERVICE}
            if delivery.account != talks.SERVICE:
                kind = "welcome" if "welcome_code" in content else "mass"
                who = {"userid": delivery.account, "code": content.get("welcome_code", "")}
            line = {"at": self.recorder.now + 100, "kind": kind, "corp": wecom.CORP} | who
            line |= {"to": delivery.to, "msgid": f"at-{delivery.id}"}
            if text := content.get("text"):  # of what was parked the recorder has no body
                said, external = {"type": "text", "content": text}, {"text": {"content": text}}
                line |= said if kind == "kf" else external
            self.lines.append(line)
            receipt = {"delivery": delivery.id, "customer": delivery.customer, "status": "sent"}
            receipt |= {"at": delivery.at, "provider_id": line["msgid"]}
            self.recorder.publish("receipt", receipt, "accounts")
        self._taken = len(self.recorder.handed)

    def talks(self) -> tuple[talks.Talks, History]:
        history = self.recorder.history()
        told = {"violations": {}, "counts": {"mass_tasks": 1}, "times": {}}
        newest = max(handed.sequence for handed in history.deliveries)
        return talks.Talks(
            self.lines, told, [], dict.fromkeys(wecom.ACCOUNTS.values(), newest)
        ), history


def day_at_wecom() -> AtWecom:
    """Two customers write, of whom a person talks with one; a third adds a member."""
    scene, to = AtWecom(), {"sms": "+8613900000001"}
    for name in ("wm1", "wm2"):
        notice = intent(f"order-{name}", name, category="notice", to=to | {"wecom": name})
        scene.recorder.publish("normal", notice)  # neither has written
    scene.writes("wm1", people.PRICES[0], "m1")
    scene.writes("wm2", people.WANT_PERSON, "m2")
    for number in range(6):
        scene.recorder.now += 1_000
        scene.recorder.publish("normal", intent(f"order-{number}", "wm1", category="notice"))
        scene.takes()
    scene.commands("wm2", "takeover", agent="chen")
    scene.recorder.now += 3_000
    scene.recorder.publish("normal", intent("campaign-1", "wm2", category="campaign"))
    scene.recorder.now += 3_000
    scene.commands("wm2", "release")
    scene.adds("wm3", "anna", "code")
    mass = intent("mass", "wm3", category="mass", account="anna", to={"wecom": "wm3"})
    scene.recorder.publish("normal", mass)
    scene.takes()
    return scene
