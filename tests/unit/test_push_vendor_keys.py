"""What pushes are sent with: getui's tokens, and JPush's ids that survive a crash."""

from __future__ import annotations

from typing import Any

import pytest

from channels.provider import Answer, Bundle
from channels.push.vendors import getui_tokens
from channels.push.vendors.cids import FORGOTTEN, FRESH_MS, HELD_MAX, LIFE_MS, Cids
from channels.push.vendors.gateway import GatewayRefused
from tests.support.push_vendors import Clock, reply
from tests.support.sms_web import NOW_MS

# ---- getui's tokens ------------------------------------------------------------------------------


def test_the_signature_is_of_three_words_in_a_row() -> None:
    """By sha256sum."""
    assert getui_tokens.signature("keytokey", "1608172111917", "master") == (
        "8142d1cfb72ed52ffe60eeb845246d2c8d91afe415cfdacca6d8a4a4ee996ddd"
    )


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, {"code": 20001, "msg": "sign is invalid"}, "stop"),
        (401, {"code": 10002, "msg": ""}, "stop"),
        (401, {"code": 10003, "msg": ""}, "throttled"),
        (429, b"", "throttled"),
        (404, b"<html>", "stop"),
        (200, b"<html>", "later"),
        (200, {"code": 2, "msg": "starting"}, "later"),
        (200, {"code": 0, "msg": "", "data": {"token": "", "expire_time": "1"}}, "later"),
        (502, b"<html>", "later"),
    ],
)
def test_why_there_is_no_token(status: int, body: Any, told: str) -> None:
    expected = getui_tokens.NotSent if told == "later" else GatewayRefused
    with pytest.raises(expected) as caught:
        getui_tokens.understood(reply(status, body), NOW_MS)
    if isinstance(caught.value, GatewayRefused):
        outcome = caught.value.outcome
        assert (outcome.answer.kind == "throttled") == (told == "throttled")
        assert bool(outcome.stop) == (told == "stop")


@pytest.mark.parametrize(
    ("date", "said"),
    [
        ("Wed, 18 Nov 2026 11:06:40 GMT", "check app_id, app_key and master_secret"),
        ("Wed, 18 Nov 2026 10:56:40 GMT", "clock, 600 s ahead of getui's"),
        ("Wed, 18 Nov 2026 11:16:40 GMT", "clock, 600 s behind getui's"),
        ("", "and this machine's clock"),
    ],
)
def test_a_clock_that_is_off_is_told(date: str, said: str) -> None:
    with pytest.raises(GatewayRefused) as caught:
        getui_tokens.understood(reply(400, {"code": 20001, "msg": "sign"}, date=date), NOW_MS)
    assert caught.value.outcome.stop.endswith(said)


# ---- JPush's ids ---------------------------------------------------------------------------------


class Pool:
    """Gives ids, and stores notes."""

    def __init__(self, count: int = 10) -> None:
        self.clock = Clock()
        self.given = 0
        self.count = count
        self.stored: dict[str, bytes] = {}
        self.works = True

    async def fetch(self) -> list[str]:
        self.given += self.count
        return [f"cid-{self.given - n}" for n in range(self.count)]

    async def store(self, bundle: Bundle) -> bool:
        assert len(bundle.notes) <= FORGOTTEN + 1
        if self.works:
            for key, value in bundle.notes.items():
                self.stored.pop(key, None)
                if value is not None:
                    self.stored[key] = value
        return self.works

    def cids(self) -> Cids:
        made = Cids(self.fetch, self.store, self.clock)
        made.recall(dict(self.stored))
        return made


@pytest.fixture
def pool() -> Pool:
    return Pool()


async def test_an_id_is_stored_before_it_is_used_and_survives(pool: Pool) -> None:
    cid = await pool.cids().of("a", NOW_MS + 1, again=False)
    assert len(pool.stored) == 1
    assert await pool.cids().of("a", NOW_MS + 1, again=True) == cid  # another host's
    pool.works = False
    with pytest.raises(GatewayRefused) as caught:
        await pool.cids().of("b", NOW_MS + 1, again=False)
    assert caught.value.outcome.answer == Answer("retry", code="not-stored")


async def test_an_answer_lets_the_id_go(pool: Pool) -> None:
    cids = pool.cids()
    for kind in ("retry", "throttled", "unknown", "failed", "accepted"):
        await cids.of(kind, 0, again=False)
        cids.done(kind, Answer(kind))  # type: ignore[arg-type]
    await cids.of("next", 0, again=False)
    assert len(pool.stored) == 4


async def test_an_id_that_ended_is_not_sent_again_under_another(pool: Pool) -> None:
    cids = pool.cids()
    cid = await cids.of("a", NOW_MS + 10 * LIFE_MS, again=False)
    pool.clock.now += LIFE_MS
    with pytest.raises(GatewayRefused) as caught:
        await cids.of("a", NOW_MS + 10 * LIFE_MS, again=True)
    assert caught.value.outcome.answer.code == "cid-ended"
    assert await cids.of("a", NOW_MS + 10 * LIFE_MS, again=False) != cid  # it was refused before


async def test_old_ids_of_the_pool_are_not_begun_with(pool: Pool) -> None:
    cids = pool.cids()
    await cids.of("a", 0, again=False)
    pool.clock.now += FRESH_MS + 1
    await cids.of("b", 0, again=False)
    assert pool.given == 20


async def test_held_ids_have_a_bound_and_expire_with_their_deliveries() -> None:
    pool = Pool(HELD_MAX)
    cids = pool.cids()
    for number in range(HELD_MAX):
        await cids.of(str(number), NOW_MS + 1_000 + number % 2 * 1_000, again=False)
    with pytest.raises(GatewayRefused) as caught:
        await cids.of("one more", 0, again=False)
    assert caught.value.outcome.answer.code == "cids-full"
    pool.clock.now += 1_500
    for number in range(20):
        await cids.of(f"late {number}", NOW_MS + 9_000, again=False)
    assert len(pool.stored) == HELD_MAX // 2 + 20
