"""Push services beside a whole hub: the fakes, in a thread of their own, so that they answer while
a test waits for a command."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from channels.push.fake.apns import FakeApns
from channels.push.fake.fcm import FakeFcm
from channels.push.fake.webhook import FakeWebhook
from channels.push.fake.webpush import FakeWebPush
from hub.checkers.push import Pushed
from tests.support.push_webhook import OTHER_SECRET, SECRET
from tests.support.push_webpush import PEM, PUBLIC, SUBJECT

T = TypeVar("T")

ID_KEY = "delivery"
"""Under which an app is given the delivery's id."""
DO_S = 60.0


async def _end_all() -> None:
    """Whatever still runs in this loop."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


class PushServices:
    """FCM twice (`fcm`, `spare`), APNs if there is Node, browsers, and two systems that take
    webhooks (`grid`, and `till`)."""

    def __init__(self, directory: Path, http_port: int) -> None:
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="push services")
        self.fcm, self.spare = FakeFcm(), FakeFcm()
        self.web = FakeWebPush()
        self.grid, self.till = (
            FakeWebhook(
                secrets=(secret,),
                callback_url=f"http://127.0.0.1:{http_port}/v1/callbacks/{name}",
                repeat_s=0.1,
            )
            for name, secret in (("grid", SECRET), ("till", OTHER_SECRET))
        )
        self.apns: FakeApns | None = None
        if shutil.which("node"):
            self.apns = FakeApns(key_out=directory / "apns.p8")

    def start(self) -> None:
        """Listen, on any free ports."""
        self._thread.start()
        for fake in self._all():
            self.do(fake.start())
        for name, fake in (("fcm", self.fcm), ("spare", self.spare)):
            (self._directory / f"{name}.json").write_text(fake.key_file())

    def stop(self) -> None:
        """End, and the thread with them."""
        for fake in self._all():
            self.do(fake.stop())
        self.do(_end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this in their thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DO_S)

    def ask(self, question: Callable[[], T]) -> T:
        """The answer, found out in their thread: nothing changes meanwhile."""

        async def asked() -> T:
            return question()

        return self.do(asked())

    def _all(self) -> list[Any]:
        fakes = [self.fcm, self.spare, self.web, self.grid, self.till, self.apns]
        return [fake for fake in fakes if fake is not None]

    def mend_spare(self) -> None:
        """Somebody has put its service account right, and made a new key."""
        self.spare.grants.disabled = False
        self.ask(self.spare.grants.replace_key)
        (self._directory / "spare.json").write_text(self.spare.key_file())

    # ---- what a test asks for ------------------------------------------------------------------

    def accounts(self) -> str:
        """What of `accounts.toml` is about them. Secrets are in files of the directory."""
        for name, secret in (("grid", SECRET), ("till", OTHER_SECRET), ("vapid", PEM)):
            (self._directory / f"{name}.secret").write_text(secret)
        text = "".join(
            _FCM.format(name=name, file=file, url=url, key=ID_KEY)
            for name, file, url in (
                ("push", "fcm", self.fcm.url),
                ("spare", "spare", self.spare.url),
                ("nowhere", "fcm", "http://127.0.0.1:9"),
            )
        )
        for name, url in (("grid", self.grid.url), ("till", self.till.url)):
            text += _WEBHOOK.format(name=name, url=url)
        text += _WEBPUSH.format(subject=SUBJECT)
        return text + (_APNS.format(url=self.apns.url) if self.apns else "")

    def browser(self) -> str:
        """A new browser's subscription, as an address without its account."""
        return json.dumps(self.ask(lambda: self.web.subscribe(PUBLIC)))

    def is_gone(self, subscription: str) -> None:
        """It was unsubscribed."""
        endpoint = json.loads(subscription)["endpoint"]
        self.ask(lambda: self.web.change(endpoint, "gone"))

    def read_by(self, subscription: str) -> list[Any]:
        """The messages that a browser has shown."""
        endpoint = json.loads(subscription)["endpoint"]
        return self.ask(lambda: list(self.web.browser(endpoint).read))

    def sent_to(self, token: str) -> list[Any]:
        """The messages that an Android device was given by FCM."""
        return self.ask(lambda: [one.message for one in self.fcm.seen if one.token == token])

    def pushed_to(self, token: str) -> list[dict[str, Any]]:
        """The pushes that an iPhone was given."""
        assert self.apns is not None
        record = self.do(self.apns.order("record"))
        return [one for one in record if one["device"] == token]

    def posted_to(self, address: str, system: FakeWebhook | None = None) -> list[Any]:
        """What a system has been posted for one address, once for each `webhook-id`."""
        seen = (system or self.grid).seen
        return self.ask(lambda: [one for one in seen.values() if one.to == address])

    def pushed(self) -> list[Pushed]:
        """All that FCM has taken, of either project: its devices are told the delivery."""
        return [
            Pushed(one.at_ms, account, one.message.data[ID_KEY], one.token, taken=True)
            for account, fake in (("push", self.fcm), ("spare", self.spare))
            for one in self.ask(lambda fake=fake: list(fake.seen))  # type: ignore[misc]
        ]


def posted(url: str, body: bytes, headers: dict[str, str]) -> int:
    """The status that a POST is answered with."""
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


_FCM = """
[[accounts]]
name = "{name}"
channel = "push"
provider = "fcm"
unknown_after = "2s"
[accounts.fcm]
credentials = {{ file = "{file}.json" }}
base_url = "{url}"
id_key = "{key}"
connections = 8
"""
_WEBHOOK = """
[[accounts]]
name = "{name}"
channel = "push"
provider = "webhook"
[accounts.webhook]
url = "{url}"
secret = {{ file = "{name}.secret" }}
private_networks = true
receipts = true
"""
_WEBPUSH = """
[[accounts]]
name = "web"
channel = "push"
provider = "webpush"
[accounts.webpush]
private_key = {{ file = "vapid.secret" }}
subject = "{subject}"
private_networks = true
"""
_APNS = """
[[accounts]]
name = "iphone"
channel = "push"
provider = "apns"
[accounts.apns]
private_key = {{ file = "apns.p8" }}
key_id = "FAKE123456"
team_id = "TEAM123456"
topic = "com.example.app"
base_url = "{url}"
"""
