"""The reader of customer service against a scripted WeCom, in virtual time: what it asks for, and
that whatever ends the process, and when, nothing is lost and nothing is published twice."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest

from channels.http import NotSent, Unanswered
from channels.provider import BUNDLE_THINGS, NOTE_BYTES, NOTE_KEY_CHARS, Bundle, Stored
from channels.wecom.config import KfConfig
from channels.wecom.errors import refused
from channels.wecom.kf_messages import Understood
from channels.wecom.kf_place import LATE_S, SEGMENT, SEGMENTS, Place, place_of
from channels.wecom.kf_reader import CURSOR_TRIES, PAGE, UNTOLD_S, KfReader
from tests.support.virtual_loop import VirtualClock, VirtualLoop, run

START_MS = 1_790_000_000_000
START_S = START_MS // 1_000
CONFIG = KfConfig(corp_id="c", secret="s", open_kfid="wk1")

Problem = BaseException | Mapping[str, Any]


def text(number: int, sent_s: int) -> dict[str, Any]:
    return {
        "msgid": f"m{number}",
        "external_userid": f"wm{number % 7}",
        "send_time": sent_s,
        "origin": 3,
        "msgtype": "text",
        "text": {"content": f"text {number}"},
    }


def ended(number: int, sent_s: int) -> dict[str, Any]:
    event = {"event_type": "session_status_change", "external_userid": "wm1", "change_type": 3}
    return {"msgid": f"m{number}", "send_time": sent_s, "msgtype": "event", "event": event}


class Kf:
    """sync_msg of one account: cursors are numbers."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.log: list[dict[str, Any]] = []
        self.asked: list[tuple[float, dict[str, Any]]] = []
        self.problems: list[Problem | None] = []
        """What the next calls meet; None: nothing."""
        self.short = False
        self.chance = random.Random(1)
        self.page = 1_000

    def write(self, count: int, make: Callable[[int, int], dict[str, Any]] = text) -> None:
        now_s = START_S + int(self.loop.time())
        self.log += [make(len(self.log) + i, now_s) for i in range(count)]

    async def call(
        self, name: str, body: Mapping[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        assert name == "kf/sync_msg"
        assert body is not None
        self.asked.append((self.loop.time(), dict(body)))
        await asyncio.sleep(0.01)
        problem = self.problems.pop(0) if self.problems else None
        if isinstance(problem, BaseException):
            raise problem
        if problem is not None:
            return dict(problem)
        begin = int(body.get("cursor", "0"))
        limit = min(body["limit"], self.page)
        if self.short:
            limit = self.chance.randrange(limit + 1)
        page = self.log[begin : begin + limit]
        end = begin + len(page)
        return {"msg_list": page, "next_cursor": str(end), "has_more": int(end < len(self.log))}


class Store:
    """What an account does with what is reported, and what it keeps when a process ends."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.notes: dict[str, bytes] = {}
        self.inbound: list[str] = []
        self.commands: list[str] = []
        self.bundles: list[int] = []
        self.refuse = 0
        """So many are not stored."""
        self.last = math.inf
        """After so many commits the process ends, before it is told."""
        self.ended = asyncio.Event()
        self.generation = 0
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.counts: dict[str, int] = {}

    def events(self) -> Events:
        return Events(self, self.generation)

    def commit(self, bundle: Bundle) -> None:
        things = len(bundle.receipts) + len(bundle.inbound) + len(bundle.commands)
        assert things <= BUNDLE_THINGS
        self.bundles.append(things)
        self.inbound += [one.id for one in bundle.inbound]
        self.commands += [one.id for one in bundle.commands]
        for key, value in bundle.notes.items():
            assert value is not None
            assert len(key) <= NOTE_KEY_CHARS
            assert len(value) <= NOTE_BYTES
            self.notes[key] = value


class Events:
    """The account's ear in one process; deaf when that has ended."""

    def __init__(self, store: Store, generation: int) -> None:
        self.store = store
        self.generation = generation

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        self.store.loop.call_later(self.store.delay_s(), self._commit, bundle, stored)

    def _commit(self, bundle: Bundle, stored: Stored) -> None:
        store = self.store
        if self.generation != store.generation:
            return  # fenced: the process is no more
        if store.refuse:
            store.refuse -= 1
            stored(False)
            return
        store.commit(bundle)
        if len(store.bundles) == store.last:
            store.generation += 1
            store.ended.set()
            return
        stored(True)

    def counted(self, name: str, *labels: str) -> None:
        self.store.counts[labels[-1]] = self.store.counts.get(labels[-1], 0) + 1


class Scene:
    """One account: WeCom, what is kept, and the process that reads."""

    def __init__(self, loop: VirtualLoop, seed: int = 1) -> None:
        self.loop = loop
        self.kf = Kf(loop)
        self.store = Store(loop)
        self.seed = seed
        self.reader: KfReader | None = None

    def start(self) -> KfReader:
        events: Any = self.store.events()
        clock = VirtualClock(self.loop, START_MS)
        chance = random.Random(self.seed)
        self.reader = KfReader(CONFIG, self.kf, events, clock, chance, "a")
        self.reader.start(dict(self.store.notes))
        return self.reader

    async def kill(self) -> None:
        """Nothing that was not committed ever is."""
        self.store.generation += 1
        assert self.reader is not None
        await self.reader.stop()

    async def all_read(self, within_s: float = 600.0) -> None:
        async with asyncio.timeout(within_s):
            while len(self.store.inbound) < len(self.kf.log):  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.05)

    def assert_each_once(self) -> None:
        wanted = [one["msgid"] for one in self.kf.log]
        assert self.store.inbound == wanted
        assert self.store.commands == [
            one["msgid"] for one in self.kf.log if one["msgtype"] == "event"
        ]


def played(play: Callable[[Scene], Awaitable[None]]) -> Callable[[], None]:
    """A test that plays with a scene in virtual time; whatever reads at its end is killed."""

    def test() -> None:
        async def main(loop: VirtualLoop) -> None:
            scene = Scene(loop)
            await play(scene)
            await scene.kill()

        run(main)

    return test


@played
async def test_it_reads_at_the_start_by_a_hint_and_by_itself(scene: Scene) -> None:
    scene.kf.write(3)
    reader = scene.start()
    await asyncio.sleep(1)
    assert scene.store.inbound == ["m0", "m1", "m2"]
    assert "cursor" not in scene.kf.asked[0][1]
    assert "token" not in scene.kf.asked[0][1]

    scene.kf.write(1)
    reader.hint("T")
    await asyncio.sleep(1)
    assert len(scene.store.inbound) == 4
    told = scene.kf.asked[-1][1]
    assert (told["cursor"], told["token"], told["limit"]) == ("3", "T", PAGE)

    scene.kf.write(1)  # and the callback is lost
    await scene.all_read(90)
    await asyncio.sleep(700)
    assert "token" not in scene.kf.asked[-1][1]  # it is too old
    bundles = len(scene.store.bundles)
    await asyncio.sleep(600)
    assert len(scene.store.bundles) == bundles  # nothing happened: nothing is written
    assert scene.store.counts["kf_polled"] > 10


@played
async def test_a_hint_while_it_reads_is_not_forgotten(scene: Scene) -> None:
    scene.store.delay_s = lambda: 5.0
    scene.kf.write(1)
    reader = scene.start()
    await asyncio.sleep(1)  # the page is being stored
    scene.kf.write(1)
    reader.hint("T")
    await scene.all_read(15)


@played
async def test_pages_without_a_token_keep_their_distance_until_a_hint(
    scene: Scene,
) -> None:
    scene.kf.page = 10
    scene.kf.write(50)
    reader = scene.start()
    await asyncio.sleep(25)
    times = [at_s for at_s, _ in scene.kf.asked]
    assert len(times) == 3
    assert min(b - a for a, b in pairwise(times)) >= UNTOLD_S - 0.1
    reader.hint("T")
    await asyncio.sleep(1)
    scene.assert_each_once()


@played
async def test_long_pages_are_stored_in_parts_that_fit(scene: Scene) -> None:
    scene.kf.write(150, ended)  # two things each
    scene.kf.write(150, lambda n, at: text(n, at) | {"text": {"content": "长" * 1_000}})
    scene.start()
    await scene.all_read()
    assert len(scene.kf.asked) == 1
    assert len(scene.store.bundles) > 3
    scene.assert_each_once()


@played
async def test_what_is_not_stored_is_read_again(scene: Scene) -> None:
    scene.kf.write(5)
    scene.store.refuse = 3
    scene.start()
    await scene.all_read()
    scene.assert_each_once()
    assert scene.store.counts["not_stored"] == 3


@played
async def test_it_outlasts_whatever_fails_and_does_not_hammer(scene: Scene) -> None:
    scene.kf.write(5)
    scene.kf.problems = [
        *[refused(-1)] * 4,
        *[NotSent("no access token: refused")] * 4,
        *[Unanswered("the reply is not WeCom's JSON")] * 4,
        refused(45009, until_ms=START_MS + 300_000),
        refused(48002),
        {"msg_list": "what", "next_cursor": ""},
        RuntimeError("a bug"),
    ]
    scene.start()
    await scene.all_read(1_200)
    scene.assert_each_once()
    times = [at_s for at_s, _ in scene.kf.asked]
    assert len(times) == 17
    assert times[13] >= 300
    assert not any(b - a < 0.5 for a, b in pairwise(times))


@played
async def test_a_hint_ends_a_pause_but_not_one_that_was_asked_for(scene: Scene) -> None:
    scene.kf.problems = [Unanswered("HTML")] * 8 + [refused(45009, until_ms=START_MS + 600_000)]
    scene.start()
    while len(scene.kf.asked) < 8:
        scene.reader.hint("T")
        await asyncio.sleep(0.1)
    assert scene.loop.time() < 15  # not the two minutes that eight failures are otherwise
    scene.reader.hint("T")
    await asyncio.sleep(5)
    assert len(scene.kf.asked) == 9
    for _ in range(100):
        scene.reader.hint("T")
        await asyncio.sleep(1)
    assert len(scene.kf.asked) == 9


@played
async def test_a_token_that_is_refused_is_left_out(scene: Scene) -> None:
    scene.kf.write(1)
    reader = scene.start()
    await asyncio.sleep(1)
    scene.kf.write(1)
    scene.kf.problems = [refused(95007)]
    reader.hint("T")
    await scene.all_read(30)
    assert ["token" in body for _, body in scene.kf.asked] == [False, True, False]


@played
async def test_a_page_that_leads_nowhere_is_not_asked_for_in_a_ring(scene: Scene) -> None:
    page = {"msg_list": [text(0, START_S)], "next_cursor": "", "has_more": 1}
    scene.kf.problems = [page] * 100
    scene.start().hint("T")
    await asyncio.sleep(120)
    assert len(scene.kf.asked) < 12
    assert scene.store.inbound == ["m0"]


@played
async def test_a_cursor_that_goes_backwards_publishes_nothing_again(scene: Scene) -> None:
    scene.kf.write(30)
    reader = scene.start()
    await scene.all_read()
    # WeCom answers with old pages, and a cursor from the past.
    scene.kf.problems = [
        {"msg_list": scene.kf.log[5:25], "next_cursor": "10", "has_more": 1},
    ]
    scene.kf.write(10)
    reader.hint("T")
    await scene.all_read()
    await asyncio.sleep(100)
    scene.assert_each_once()
    assert scene.store.counts["kf_repeated"] >= 20


@played
async def test_a_cursor_that_is_refused_begins_anew_and_publishes_what_is_new(scene: Scene) -> None:
    many = (SEGMENTS + 1) * SEGMENT + 500  # more than ids are kept
    for _ in range(many // 100):
        scene.kf.write(100)
        await asyncio.sleep(2)
    scene.start()
    await scene.all_read()
    scene.kf.write(50)
    scene.kf.problems = [refused(40058)] * CURSOR_TRIES
    assert scene.reader is not None
    scene.reader.hint("T")
    await asyncio.sleep(60)
    scene.assert_each_once()
    anew = [body for _, body in scene.kf.asked if "cursor" not in body]
    assert len(anew) == 2
    assert scene.store.counts["kf_cursor_refused"] == 1
    assert not place_of(scene.store.notes).again


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_lost_or_published_twice_wherever_the_process_ends(seed: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        chance = random.Random(seed)
        scene = Scene(loop, seed)
        scene.kf.short = chance.random() < 0.5
        scene.kf.chance = chance
        scene.kf.page = chance.choice((7, 100, 1_000))
        scene.store.delay_s = lambda: chance.choice((0.0, 0.02, 0.3))
        faults: list[Problem | None] = [
            None, None, None, None, refused(-1), Unanswered("cut"), NotSent("down")
        ]  # fmt: skip
        for _ in range(12):
            scene.kf.problems = chance.choices(faults, k=3)
            scene.store.refuse = chance.choice((0, 0, 0, 1))
            reader = scene.start()
            for _ in range(chance.randrange(4)):
                scene.kf.write(chance.choice((0, 1, 3, 250)), chance.choice((text, text, ended)))
                reader.hint("T")
                await asyncio.sleep(chance.choice((0.001, 0.011, 0.03, 0.5, 3.0)))
            await scene.kill()
        scene.kf.problems = []
        reader = scene.start()
        reader.hint("T")
        await scene.all_read()
        scene.assert_each_once()
        await scene.kill()

    run(main)


def long_story(loop: VirtualLoop) -> Scene:
    """Two pages of three parts each."""
    scene = Scene(loop)
    scene.kf.page = 150
    scene.store.delay_s = lambda: 0.01
    for _ in range(2):
        scene.kf.write(50, ended)
        scene.kf.write(100, lambda n, at: text(n, at) | {"text": {"content": "长" * 1_000}})
    return scene


@pytest.mark.parametrize("committed", range(1, 8))
def test_a_process_that_ends_between_a_commit_and_its_news(committed: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        scene = long_story(loop)
        scene.store.last = committed
        scene.start().hint("T")
        if committed <= 6:
            await scene.store.ended.wait()
            assert len(scene.store.inbound) < 300 or committed == 6
        else:
            await scene.all_read()
        await scene.kill()
        scene.start().hint("T")
        await scene.all_read()
        await asyncio.sleep(100)
        scene.assert_each_once()
        await scene.kill()

    run(main)


@pytest.mark.parametrize("step", range(20))
def test_a_process_that_ends_at_any_step(step: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        scene = long_story(loop)
        scene.start().hint("T")
        await asyncio.sleep(0.0051 * step)
        await scene.kill()
        scene.start().hint("T")
        await scene.all_read()
        await asyncio.sleep(100)
        scene.assert_each_once()
        await scene.kill()

    run(main)


# ---- the place -----------------------------------------------------------------------------------


def lead(number: int, at_s: int) -> Understood:
    return Understood(f"m{number}", at_s)


def test_a_place_is_found_again_in_its_notes() -> None:
    place, notes = Place(), {}
    for step in range(60):
        after = place.after([lead(step * 100 + i, 1_000 + step) for i in range(100)])
        after = after.at(f"c{step}", more=step % 2 == 0)
        notes |= after.notes(place)
        place = after
        assert place_of(notes) == place
    assert len(notes) <= SEGMENTS + 3
    assert max(len(note) for note in notes.values()) < 8 * 1_024


def test_what_is_older_than_all_that_was_forgotten_is_not_new() -> None:
    place = Place()
    for step in range((SEGMENTS + 2) * SEGMENT):
        place = place.after([lead(step, 100_000 + step)])
    floor_s = place.floor_s
    assert floor_s == 100_000 + SEGMENT - 1
    late, ancient = lead(-1, floor_s), lead(-2, floor_s - LATE_S)
    assert place.fresh([late, ancient]) == [late]
    assert place.from_the_beginning().fresh([late, ancient]) == []
    new = lead(-3, floor_s + 1)
    assert place.from_the_beginning().fresh([new, new]) == [new]


@pytest.mark.parametrize("note", [b"", b"\xff", b"\x95\x01\x02\x03\x04\x05"])
def test_notes_that_cannot_be_read_are_a_beginning(note: bytes) -> None:
    assert place_of({"kf/cursor": note}) == Place()
