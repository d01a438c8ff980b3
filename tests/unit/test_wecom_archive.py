"""The session archive: items into messages, files that grow, and a reader that may die anywhere."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.provider import (
    BUNDLE_BYTES,
    BUNDLE_THINGS,
    Answer,
    Bundle,
    Link,
    ProviderInbound,
    ProviderReceipt,
    Stored,
    Unsendable,
)
from channels.wecom import archive, archive_source
from channels.wecom.archive import WecomArchiveProvider
from channels.wecom.archive_messages import CONTENT_BYTES, CUSTOMERS, read_item
from channels.wecom.archive_source import Archived, ArchiveUnreadable, JsonLinesArchive
from channels.wecom.config import ArchiveConfig
from hub.clock import SystemClock
from hub.contract.decode import Rejection, decode
from hub.contract.times import rfc3339
from hub.errors import ConfigError
from tests.support.ledger import eventually

ANN = "wmErxtDgAA9AW32YyyuYRimKr7D1KWlw"
BOB = "woErxtDgAA9AW32YyyuYRimKr7D1KWlx"
NOW_MS = 1_780_000_000_000
AT_MS = 1_779_999_999_000


def item(seq: int, text: str = "hi", **more: Any) -> dict[str, Any]:
    """A decrypted item, as WeCom's page 91774 shows it."""
    return {
        "seq": seq,
        "msgid": f"{seq}_1779999999_external",
        "action": "send",
        "from": ANN,
        "tolist": ["li"],
        "roomid": "",
        "msgtime": AT_MS,
        "msgtype": "text",
        "text": {"content": text},
    } | more


def told(message: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Address, agent and content of what an item leads to."""
    read = read_item(Archived(message["seq"], message), NOW_MS)
    return [(one.sender, one.agent, one.content) for one in read.inbound]


# ---- items ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [(ANN, "", {"text": "hi"})]),
        ({"from": "li", "tolist": [ANN]}, [(ANN, "li", {"text": "hi"})]),
        (
            {"from": "li", "tolist": [ANN, "wang", BOB, ANN]},
            [(ANN, "li", {"text": "hi"}), (BOB, "li", {"text": "hi"})],
        ),
        # A member whose name begins like a customer's id.
        ({"from": "wmartin", "tolist": [ANN]}, [(ANN, "wmartin", {"text": "hi"})]),
        ({"from": "li", "tolist": ["wang"]}, []),
        ({"roomid": "wrAA-1"}, [("~wrAA-1", "", {"text": "hi", "from": ANN})]),
        (
            {"roomid": "wrAA-1", "from": "li", "tolist": [ANN, BOB]},
            [("~wrAA-1", "li", {"text": "hi"})],
        ),
        ({"roomid": "wrAA-1", "from": "li", "tolist": ["wang"]}, []),
        ({"roomid": "no room"}, []),
        (
            {"msgtype": "image", "image": {"sdkfileid": "x", "filesize": 3}},
            [(ANN, "", {"image": {"sdkfileid": "x", "filesize": 3}})],
        ),
        (
            {"msgtype": "markdown", "info": {"content": "*"}},
            [(ANN, "", {"markdown": {"content": "*"}})],
        ),
        (
            {"action": "recall", "msgtype": "revoke", "revoke": {"pre_msgid": "7_external"}},
            [(ANN, "", {"event": "message_recalled", "message": "7_external"})],
        ),
        (
            {"action": "recall", "msgtype": "revoke", "from": "li", "tolist": [ANN], "revoke": {}},
            [(ANN, "", {"event": "message_recalled", "message": ""})],
        ),
        ({"msgtype": "hologram"}, [(ANN, "", {"hologram": {}})]),
        ({"msgtype": "Not a type"}, [(ANN, "", {"unsupported": "unknown"})]),
        (
            {"msgtype": "text", "text": {"content": "x" * 20_000}},
            [(ANN, "", {"unsupported": "text"})],
        ),
        ({"action": "switch"}, []),
        ({"from": None}, []),
        ({"tolist": None}, [(ANN, "", {"text": "hi"})]),
    ],
)
def test_what_an_item_says_and_where(more: dict[str, Any], expected: list[Any]) -> None:
    assert told(item(1) | more) == expected


def test_ids_and_times_are_usable_whatever_they_were() -> None:
    (one,) = read_item(Archived(7, item(7)), NOW_MS).inbound
    assert (one.id, one.at_ms) == ("7_1779999999_external", AT_MS)
    for bad in (None, "", "x" * 200, "ü", 5):
        (one,) = read_item(Archived(7, item(7, msgid=bad, msgtime="x")), NOW_MS).inbound
        assert (one.id, one.at_ms) == ("seq:7", NOW_MS)
    (one,) = read_item(Archived(7, item(7, msgtime=NOW_MS + 1)), NOW_MS).inbound
    assert one.at_ms == NOW_MS
    many = item(7, **{"from": "li", "tolist": [ANN, BOB]})
    ids = [one.id for one in read_item(Archived(7, many), NOW_MS).inbound]
    assert len(set(ids)) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
NAMES = st.sampled_from(
    ["action", "from", "tolist", "roomid", "msgtime", "msgtype", "msgid", "text"]
)
VALUES = JSON | st.sampled_from(
    ["send", "recall", "text", "image", ANN, "li", [ANN], {"content": "x"}]
)


@given(st.dictionaries(NAMES, VALUES))
def test_any_item_becomes_messages_that_the_hub_takes_or_none(fields: dict[str, Any]) -> None:
    message = item(1) | fields
    size = 0
    for one in read_item(Archived(1, message), NOW_MS).inbound:
        inbound = {"id": one.id, "channel": "wecom", "account": "archive", "customer": "c"}
        inbound |= {"content": one.content, "at": rfc3339(one.at_ms), "sender": one.sender}
        inbound |= {"agent": one.agent} if one.agent else {}
        payload = msgspec.json.encode(inbound)
        (found,) = decode("inbound", "archive", payload)
        assert not isinstance(found, Rejection), found
        size += len(payload)
    assert size < BUNDLE_BYTES


def test_the_largest_item_fits_a_bundle() -> None:
    customers = [f"wm{number:030}" for number in range(50)]
    text = "x" * (CONTENT_BYTES - 20)
    read = read_item(Archived(1, item(1, text, **{"from": "li", "tolist": customers})), NOW_MS)
    assert len(read.inbound) == CUSTOMERS
    assert sum(archive._size(one) for one in read.inbound) < BUNDLE_BYTES


# ---- files ---------------------------------------------------------------------------------------


def lines(*seqs: int) -> str:
    return "".join(json.dumps(item(seq)) + "\n" for seq in seqs)


async def seqs(source: JsonLinesArchive, after: int, most: int = 100) -> list[int]:
    return [one.seq for one in (await source.read(after, most)).items]


async def test_a_file_grows_and_a_line_counts_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(1, 2))
    source = JsonLinesArchive(path)
    assert await seqs(source, 0, most=1) == [1]
    assert await seqs(source, 1) == [2]
    half = lines(3)
    with path.open("a") as file:
        file.write(half[:30])
        file.flush()
        assert await seqs(source, 2) == []
        file.write(half[30:] + lines(5))
    assert await seqs(source, 2) == [3, 5]
    assert await seqs(JsonLinesArchive(path), 2) == [3, 5]  # another process
    assert await seqs(source, 1) == [2, 3, 5]  # from anywhere


async def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    source = JsonLinesArchive(tmp_path)
    assert await seqs(source, 0) == []
    (tmp_path / "01.jsonl").write_text(lines(1, 2))
    (tmp_path / "notes.txt").write_text(lines(99))
    assert await seqs(source, 0) == [1, 2]
    with (tmp_path / "01.jsonl").open("a") as file:
        file.write(lines(3) + lines(4).rstrip("\n"))  # its last line, before there was another
    (tmp_path / "02.jsonl").write_text(lines(5))
    assert await seqs(source, 2) == [3, 4, 5]
    (tmp_path / "01.jsonl").unlink()
    (tmp_path / "03.jsonl").write_text(lines(6))
    assert await seqs(source, 5) == [6]
    for after in range(7):
        expected = [seq for seq in (5, 6) if seq > after]
        assert await seqs(JsonLinesArchive(tmp_path), after) == expected


async def test_of_files_that_are_done_with_only_the_ends_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_text(lines(2 * number + 1, 2 * number + 2))
    read: list[str] = []
    stand_in = JsonLinesArchive._stand_in
    monkeypatch.setattr(
        JsonLinesArchive,
        "_stand_in",
        lambda source, file: (read.append(file.name), stand_in(source, file))[1],
    )
    assert await seqs(JsonLinesArchive(tmp_path), 7) == [8, 9, 10]
    assert read == ["3.jsonl", "4.jsonl"]


@pytest.mark.parametrize("again", ["cut", "replaced"])
async def test_a_file_that_begins_anew_is_read_anew(tmp_path: Path, again: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(1, 2, 3))
    source = JsonLinesArchive(path)
    assert await seqs(source, 0) == [1, 2, 3]
    if again == "replaced":
        (tmp_path / "b").write_text(lines(1, 2, 3, 4, 5, 6))
        (tmp_path / "b").replace(path)
        assert await seqs(source, 3) == [4, 5, 6]
    else:
        path.write_text(lines(4))
        assert await seqs(source, 3) == [4]


async def test_what_is_no_item_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_source, "LINE_BYTES", 1_000)
    monkeypatch.setattr(archive_source, "CHUNK_BYTES", 4_000)
    path = tmp_path / "a.jsonl"
    bad = [
        "{",
        "[1]",
        '"x"',
        '{"seq": 0}',
        '{"seq": "7"}',
        '{"seq": true}',
        "{}",
        "\udcff",
        "x" * 999,
    ]
    bad += ["y" * 1_001, "y" * 3_999, "y" * 4_000, "y" * 4_001, "y" * 12_345]
    text = lines(1) + "".join(f"{line}\n" for line in bad) + "\n  \n" + lines(2)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    page = await JsonLinesArchive(path).read(0, 100)
    assert [one.seq for one in page.items] == [1, 2]
    assert page.unreadable == len(bad)


async def test_what_goes_backwards_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(1, 2, 5, 3, 5, 6))
    source = JsonLinesArchive(path)
    page = await source.read(1, 100)
    assert ([one.seq for one in page.items], page.behind) == ([2, 5, 6], 2)
    with path.open("a") as file:
        file.write(lines(1))  # the whole archive began anew behind our back
    page = await source.read(6, 100)
    assert (page.items, page.behind) == ((), 1)


async def test_what_cannot_be_read_is_said_without_paths_and_contents(tmp_path: Path) -> None:
    with pytest.raises(ArchiveUnreadable, match="cannot be read: No such file"):
        await JsonLinesArchive(tmp_path / "secret").read(0, 1)


# ---- the provider --------------------------------------------------------------------------------


class Hub:
    """`Events` of one account: stores bundles when it may, all of one or nothing."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.notes: dict[str, bytes] = {}
        self.bundles: list[Bundle] = []
        self.links: list[Link] = []
        self.counts: dict[str, int] = {}
        self.store: Callable[[Bundle], str] = lambda _: "yes"
        """Whether a bundle is stored: `yes`, `no`, `silent` (neither stored nor answered), `late`
        (stored, and the answer is lost)."""
        self._taken: set[str] = set()

    def bundle(self, bundle: Bundle, stored: Stored) -> None:
        assert len(bundle.inbound) <= BUNDLE_THINGS
        assert len(msgspec.msgpack.encode(bundle)) <= BUNDLE_BYTES
        self.bundles.append(bundle)
        how = self.store(bundle)
        if how in ("yes", "late") and bundle.id not in self._taken:
            self._taken.add(bundle.id)
            self.said += [one.id.partition("_")[0] for one in bundle.inbound]
            self.notes |= {key: value for key, value in bundle.notes.items() if value is not None}
        if how in ("yes", "no"):
            stored(how == "yes")

    async def has(self, *, said: int, or_bundles: int) -> None:
        await eventually(lambda: len(self.said) >= said or len(self.bundles) >= or_bundles)

    def link(self, link: Link) -> None:
        self.links.append(link)

    def counted(self, name: str, *labels: str) -> None:
        self.counts[labels[-1]] = self.counts.get(labels[-1], 0) + 1

    def answered(self, delivery: str, answer: Answer) -> None:
        raise AssertionError

    def receipt(self, receipt: ProviderReceipt, stored: Stored) -> None:
        raise AssertionError

    def inbound(self, inbound: ProviderInbound, stored: Stored) -> None:
        raise AssertionError


def reader(hub: Hub, path: Path) -> WecomArchiveProvider:
    settings = ArchiveConfig(path=str(path), poll="1ms")
    return WecomArchiveProvider(
        settings, None, hub, SystemClock(), random.Random(1), account="archive"
    )


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr(archive, "STORED_S", 0.05)


@pytest.mark.parametrize("seed", range(8))
async def test_whoever_dies_wherever_each_is_told_once_and_in_order(
    tmp_path: Path, seed: int
) -> None:
    chance, path, hub = random.Random(seed), tmp_path / "a.jsonl", Hub()
    sizes = {seq: chance.choice((1, 1, 100, 15_000)) for seq in range(1, 301)}
    texts = [json.dumps(item(seq, "x" * size)) + "\n" for seq, size in sizes.items()]
    hub.store = lambda _: chance.choice(("yes", "yes", "yes", "no", "silent", "late"))
    written = 0
    while len(hub.said) < 300:
        provider = reader(hub, path)
        with path.open("a") as file:
            more = chance.randrange(1, 120)
            file.writelines(texts[written : written + more])
            written += more
        provider.start(dict(hub.notes))
        await hub.has(said=min(300, written), or_bundles=len(hub.bundles) + chance.randrange(1, 4))
        await provider.stop(0)
    assert hub.said == [str(seq) for seq in range(1, 301)]
    assert hub.notes == {"seq": b"300"}


async def test_a_bundle_that_is_not_stored_is_told_again_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(1, 2))
    hub = Hub()
    answers = ["no", "silent", "yes"]
    hub.store = lambda _: answers.pop(0)
    provider = reader(hub, tmp_path)
    provider.start({})
    await eventually(lambda: hub.said)
    await provider.stop(0)
    assert len(hub.bundles) == 3
    assert hub.bundles == [hub.bundles[0]] * 3
    assert hub.counts == {"archive_read": 2, "not_stored": 2}


async def test_items_of_no_conversation_move_the_place_too(tmp_path: Path) -> None:
    internal = json.dumps(item(9, **{"from": "li", "tolist": ["wang"]}))
    (tmp_path / "a.jsonl").write_text(internal + "\n")
    hub = Hub()
    provider = reader(hub, tmp_path)
    provider.start({})
    await eventually(lambda: hub.notes)
    await provider.stop(0)
    assert (hub.said, hub.notes) == ([], {"seq": b"9"})


async def test_an_archive_that_is_away_is_said_and_found_again(tmp_path: Path) -> None:
    hub, path = Hub(), tmp_path / "a.jsonl"
    provider = reader(hub, path)
    provider.start({"seq": b"1"})
    await eventually(lambda: hub.links)
    path.write_text(lines(1, 2))
    await eventually(lambda: hub.said)
    await provider.stop(0)
    assert [link.window for link in hub.links] == [0, 1]
    assert "No such file" in hub.links[0].reason
    assert hub.said == ["2"]


async def test_a_bug_is_seen_and_quotes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("what ann wrote")

    monkeypatch.setattr(archive, "read_item", broken)
    (tmp_path / "a.jsonl").write_text(lines(1))
    hub = Hub()
    provider = reader(hub, tmp_path)
    provider.start({})
    await eventually(lambda: hub.links and hub.links[-1].window == 0)
    await provider.stop(0)
    assert "error of its own" in hub.links[-1].reason
    assert "ann" not in capsys.readouterr().out + hub.links[-1].reason


def test_an_archive_sends_nothing(tmp_path: Path) -> None:
    provider = reader(Hub(), tmp_path)
    with pytest.raises(Unsendable) as caught:
        provider.prepare(None)  # type: ignore[arg-type]
    assert caught.value.failure == "config"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ArchiveConfig(path="archive.jsonl"), "path: must be absolute"),
        (ArchiveConfig(path="/a", poll="soon"), "poll"),
    ],
)
def test_a_wrong_table_is_told(settings: ArchiveConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        archive.check(settings)


async def test_reading_lets_others_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_source, "CHUNK_BYTES", 2_000)
    monkeypatch.setattr(archive_source, "LINE_BYTES", 500)
    (tmp_path / "a.jsonl").write_text(lines(*range(1, 200)))
    reading = asyncio.create_task(JsonLinesArchive(tmp_path).read(198, 10))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert [one.seq for one in reading.result().items] == [199]
    assert turns > 10
