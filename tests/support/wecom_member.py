"""What tests of a member's account share: a small WeCom that gives a member tasks, an account that
stores in turns and forgets what was not stored, and hosts that can be killed at every step."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from channels.http import Unanswered
from channels.provider import (
    BUNDLE_BYTES,
    BUNDLE_THINGS,
    NOTE_BYTES,
    NOTES_MAX,
    Answer,
    Bundle,
    Link,
    ProviderCommand,
    ProviderInbound,
    ProviderReceipt,
    Stored,
    Submission,
)
from channels.wecom.config import MemberConfig
from channels.wecom.errors import refused
from channels.wecom.member import MemberProvider
from channels.wecom.tasks import KEY, head_note, part_note
from hub.contract.types import Delivery
from tests.support.deliveries import delivery_of
from tests.support.virtual_loop import Process, VirtualClock, VirtualLoop, run

START_MS = 1_790_000_000_000
HOUR_S = 3_600
TURN_S = 0.01
"""A turn of the account: what was told within it is stored at its end, or not at all."""
CONFIG = MemberConfig(corp_id="c", secret="s", userid="u1")


def delivery(number: int, content: dict[str, Any] | None = None, **fields: Any) -> Delivery:
    """One of the deliveries `shop:i<number>:1`."""
    known = {"id": f"shop:i{number}:1", "customer": f"c{number}", "to": f"wm{number}"}
    known |= {"channel": "wecom", "account": "a"}
    return delivery_of(content or {"text": "hello"}, **(known | fields))


class WeCom:
    """Gives one member tasks, and lets her confirm them `confirms_s` after they were made."""

    def __init__(self, loop: VirtualLoop, start_ms: int = START_MS) -> None:
        self.loop = loop
        self.start_ms = start_ms
        """What its clock said at the beginning."""
        self.calls: list[tuple[float, str, dict[str, Any]]] = []
        self.tasks: dict[str, dict[str, Any]] = {}
        self.moments: dict[str, dict[str, Any]] = {}
        self.confirms_s: float | None = 5 * 60.0
        self.bad: dict[str, int] = {}
        """Status of those who do not get it; -1: not taken into a task at all."""
        self.problems: dict[str, list[Exception | str | None]] = {}
        """By call, what the next ones meet: an error instead, or "lost": done, and no answer."""
        self.answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
        """Of calls that have no other answer here."""
        self.step: Callable[[str], None] = lambda what: None
        """Called before and after whatever a call does."""

    def named(self, name: str) -> list[tuple[float, dict[str, Any]]]:
        """When it was called, and with what."""
        return [(at, body) for at, called, body in self.calls if called.endswith(name)]

    async def call(
        self, name: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        given = dict(body or {}) | query
        await asyncio.sleep(0.02)
        self.calls.append((self.loop.time(), name, given))
        self.step(f"{name} asked")
        await asyncio.sleep(0)
        queued = self.problems.get(name.rpartition("/")[2], [])
        problem = queued.pop(0) if queued else None
        if isinstance(problem, Exception):
            raise problem
        answer = self._answer(name.rpartition("/")[2], given)
        self.step(f"{name} done")
        await asyncio.sleep(0.02)
        if problem == "lost":
            raise Unanswered("no whole answer")
        return answer

    async def close(self) -> None:
        pass

    def _answer(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        if name in self.answers:
            return self.answers[name](body)
        made: Callable[[dict[str, Any]], dict[str, Any]] = getattr(self, f"_{name}", lambda _: {})
        return made(body)

    def _add_msg_template(self, body: dict[str, Any]) -> dict[str, Any]:
        to = body.get("external_userid") or body["chat_id_list"]
        fails = [one for one in to if self.bad.get(one) == -1]
        if set(fails) == set(to):
            raise refused(41048)
        msgid = f"msg{len(self.tasks)}"
        self.tasks[msgid] = {
            **body,
            "to": [one for one in to if one not in fails],
            "create_time": int(self.start_ms / 1_000 + self.loop.time()),
            "made": self.loop.time(),
            "cancelled": False,
        }
        return {"msgid": msgid, "fail_list": fails}

    def _get_groupmsg_list_v2(self, body: dict[str, Any]) -> dict[str, Any]:
        shown = [{"msgid": id, **task} for id, task in self.tasks.items()]
        begin, end = body["start_time"], body["end_time"]
        listed = [one for one in shown if begin <= one["create_time"] <= end]
        return {
            "group_msg_list": [one | {"create_time": str(one["create_time"])} for one in listed]
        }

    def _confirmed(self, task: dict[str, Any]) -> bool:
        if self.confirms_s is None or task["made"] + self.confirms_s > self.loop.time():
            return False
        return not (task["cancelled"] and task["cancelled"] < task["made"] + self.confirms_s)

    def _get_groupmsg_task(self, body: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks[body["msgid"]]
        if task["made"] + 20 > self.loop.time():
            raise refused(41063)
        return {"task_list": [{"userid": "u1", "status": 2 * self._confirmed(task)}]}

    def _get_groupmsg_send_result(self, body: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks[body["msgid"]]
        to, size = task["to"], body["limit"]
        begin = int(body.get("cursor", 0))
        key = "chat_id" if task["chat_type"] == "group" else "external_userid"
        good = 1 if self._confirmed(task) else 0
        page = [
            {key: one, "userid": "u1", "status": self.bad.get(one, good) if good else 0}
            for one in to[begin : begin + size]
        ]
        rest = str(begin + size) if begin + size < len(to) else ""
        return {"send_list": page, "next_cursor": rest}

    def _cancel_groupmsg_send(self, body: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks[body["msgid"]]
        if task["cancelled"]:
            raise refused(41093)
        task["cancelled"] = self.loop.time()
        return {}

    def _add_moment_task(self, body: dict[str, Any]) -> dict[str, Any]:
        number = len(self.moments)
        created = int(self.start_ms / 1_000 + self.loop.time())
        self.moments[f"mo{number}"] = {**body, "create_time": created, "made": self.loop.time()}
        return {"jobid": f"job{number}"}

    def _get_moment_list(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"moment_list": [{"moment_id": id, **one} for id, one in self.moments.items()]}

    def _get_moment_task_result(self, body: dict[str, Any]) -> dict[str, Any]:
        moment = "mo" + body["jobid"].removeprefix("job")
        if self.moments[moment]["made"] + 60 > self.loop.time():
            return {"status": 2}
        return {"status": 3, "result": {"errcode": 0, "moment_id": moment}}

    def _get_moment_task(self, body: dict[str, Any]) -> dict[str, Any]:
        done = self._confirmed({"cancelled": False, **self.moments[body["moment_id"]]})
        return {"task_list": [{"userid": "u1", "publish_status": int(done)}]}

    def _get_moment_send_result(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"customer_list": [{"external_userid": f"wm{n}"} for n in range(3)]}


class Account:
    """What is stored of an account, whoever owns it. Its deliveries are claimed already: those
    without a stored answer are submitted again by the next owner."""

    def __init__(self) -> None:
        self.submissions: dict[str, Submission] = {}
        self.notes: dict[str, bytes] = {}
        self.answers: dict[str, Answer] = {}
        self.receipts: dict[str, list[ProviderReceipt]] = {}
        self.inbound: list[ProviderInbound] = []
        self.commands: list[ProviderCommand] = []
        self.counts: Counter[str] = Counter()
        self.links: list[Link] = []
        self.notes_most = 0

    def last(self, delivery: str) -> ProviderReceipt | None:
        """The last word on a delivery."""
        answer = self.answers.get(delivery)
        told = self.receipts.get(answer.provider_ids[0]) if answer and answer.provider_ids else None
        return told[-1] if told else None

    @property
    def over(self) -> bool:
        """Whether everything has its last word."""
        return all(
            name in self.answers
            and (self.answers[name].receipts == 0 or self.last(name) is not None)
            for name in self.submissions
        )

    def take(self, bundle: Bundle) -> None:
        """Store it."""
        assert len(bundle.receipts + bundle.inbound + bundle.commands) <= BUNDLE_THINGS
        assert sum(len(note or b"") for note in bundle.notes.values()) <= BUNDLE_BYTES
        for receipt in bundle.receipts:
            self.receipts.setdefault(receipt.provider_id, []).append(receipt)
        self.inbound += bundle.inbound
        self.commands += bundle.commands
        for key, value in bundle.notes.items():
            if value is None:
                self.notes.pop(key, None)
            else:
                assert len(value) <= NOTE_BYTES
                self.notes[key] = value
        self.notes_most = max(self.notes_most, len(self.notes))
        assert self.notes_most <= NOTES_MAX


def rewire(provider: MemberProvider, wecom: WeCom) -> None:
    """Every part of it asks the scripted WeCom."""
    provider._client = wecom  # type: ignore[assignment]
    provider._orders._api = wecom
    for work in provider._driver._works.values():
        work._api = wecom  # type: ignore[attr-defined]


class Host:
    """One process that owns the account: `Events` for its provider, until it is killed."""

    def __init__(
        self, loop: VirtualLoop, account: Account, wecom: WeCom, config: MemberConfig = CONFIG
    ) -> None:
        self.loop = loop
        self.account = account
        self.process = Process(loop, "host")
        self.step: Callable[[str], None] = lambda what: None
        self.lost = False
        """The account has another owner: nothing is stored any more."""
        self._letters: list[Callable[[], None]] = []
        self._open = 0
        self._window = 0
        clock = VirtualClock(loop, START_MS)
        self.provider = MemberProvider(config, None, self, clock, random.Random(7), account="a")
        rewire(self.provider, wecom)

    async def run(self) -> None:
        """Own the account for ever."""
        self.provider.start(dict(self.account.notes))
        names = [name for name in self.account.submissions if name not in self.account.answers]
        while True:
            while names and self._open < self._window:
                self._open += 1
                self.submit_again(names.pop(0))
            await asyncio.sleep(TURN_S if names else HOUR_S)

    def submit(self, one: Delivery, *, expires_s: float = 24 * HOUR_S) -> None:
        """One more, now."""
        submitted(self.account, self.provider, one, expires_s=expires_s)
        self._open += 1
        self.provider.submit(self.account.submissions[one.id])

    def submit_again(self, name: str) -> None:
        """One that an earlier owner may have sent."""
        self.provider.submit(msgspec.structs.replace(self.account.submissions[name], again=True))

    def answered(self, delivery: str, answer: Answer) -> None:
        def store() -> None:
            if self.lost:
                return
            self._open -= 1
            if answer.kind in ("accepted", "failed"):
                assert delivery not in self.account.answers, "answered twice"
                self.account.answers[delivery] = answer

        self._put(store)

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        noted(self.provider, bundle)

        def store() -> None:
            self.step("before a bundle")
            if self.lost:
                stored(False)
            elif self.process.alive:
                self.account.take(bundle)
                self.step("after a bundle")
                stored(True)

        self._put(store)

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None:
        raise AssertionError("a receipt without its note")

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None:
        raise AssertionError("an event without its bundle")

    def link(self, link: Link) -> None:
        self._window = link.window
        self.account.links.append(link)

    def counted(self, name: str, *labels: str) -> None:
        assert name == "tact_provider_total"
        self.account.counts[labels[-1]] += 1

    def _put(self, letter: Callable[[], None]) -> None:
        if not self.process.alive:
            return
        self._letters.append(letter)
        if len(self._letters) == 1:
            self.loop.call_later(TURN_S, self._turn)

    def _turn(self) -> None:
        letters, self._letters = self._letters, []
        for letter in letters:
            if self.process.alive:
                letter()


def noted(provider: MemberProvider, bundle: Bundle) -> None:
    """Memory says what the notes of a bundle say, when it is handed over."""
    for key, note in bundle.notes.items():
        id, _, part = key.removeprefix(KEY).partition("/")
        task = provider._shelf.tasks.get(id)
        if note is None:
            assert task is None or (part and int(part) not in task.parts), "still in memory"
        else:
            assert task is not None, "not in memory"
            known = part_note(task, int(part)) if part else head_note(task)
            assert known[key] == note, "other than in memory"


def submitted(
    account: Account, provider: MemberProvider, one: Delivery, *, expires_s: float = 24 * HOUR_S
) -> None:
    """The account claims a delivery."""
    expires_ms = START_MS + int(expires_s * 1_000)
    account.submissions[one.id] = Submission(one.id, provider.prepare(one), expires_ms)


async def until(
    condition: Callable[[], Any], loop: VirtualLoop, hours: float = 100, every_s: float = 20
) -> None:
    """Wait in virtual time."""
    end = loop.time() + hours * HOUR_S
    while not condition():
        assert loop.time() < end, "it did not come"
        await asyncio.sleep(every_s)


class Scene:
    """A host that runs, its account and WeCom."""

    def __init__(self, loop: VirtualLoop, config: MemberConfig = CONFIG) -> None:
        self.loop = loop
        self.wecom = WeCom(loop)
        self.account = Account()
        self.config = config
        self.host = self.own()

    def own(self) -> Host:
        """Another host takes the account over."""
        self.host = Host(self.loop, self.account, self.wecom, self.config)
        self.host.process.start(self.host.run(), "run")
        return self.host

    async def until_over(self, hours: float = 100) -> None:
        await until(lambda: self.account.over, self.loop, hours)

    def kill_at(self, steps: Iterable[int]) -> None:
        """Kill the host after so many steps from now, the next one after so many of its own, …"""
        left = [*steps]

        def step(what: str) -> None:
            if left:
                left[0] -= 1
                if left[0] <= 0:
                    left.pop(0)
                    self.host.process.kill()

        self.wecom.step = self.host.step = step

    async def until_over_by_owners(self) -> None:
        """As `until_over`; whoever is killed has a successor, with the same steps to count."""
        while True:
            await until(lambda: self.account.over or not self.host.process.alive, self.loop)
            if self.account.over:
                return
            self.own().step = self.wecom.step

    def words(self) -> dict[str, tuple[str, Any, str]]:
        """The last word on each delivery."""
        return {
            name: (told.status, told.failure, told.code)
            for name in self.account.submissions
            if (told := self.account.last(name)) is not None
        }

    async def ended(self) -> None:
        await self.host.provider.stop(0)
        self.host.process.kill()


def scene(play: Any, config: MemberConfig = CONFIG) -> Scene:
    """Play it in virtual time."""

    async def main(loop: VirtualLoop) -> Scene:
        made = Scene(loop, config)
        await asyncio.sleep(0.001)
        await play(made)
        await made.ended()
        return made

    return run(main)
