"""Pushes to Apple, against the fake on Node's HTTP/2: what leaves, and what came of it."""

from __future__ import annotations

from pathlib import Path

from tests.support.push_apns import device, put, running


async def test_two_thousand_pushes_by_two_connections(tmp_path: Path) -> None:
    async with running(tmp_path) as apns, apns.connected() as provider:
        await apns.warm(provider, 1_000)
        before = len(await apns.taken())
        for number in range(2_000):
            put(provider, f"shop:many-{number}:1", to=device(number))
        await apns.told.until(lambda: len(apns.told.answers) >= before + 2_000)
        answers = [answer for (answer,) in apns.told.answers.values()]
        assert {answer.kind for answer in answers} == {"accepted"}
        assert sorted((await apns.taken())[before:]) == [device(n) for n in range(2_000)]
        assert (await apns.fake.counts())["connections"] == 2
