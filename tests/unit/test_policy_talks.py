"""The tables about what is said are strict too, and a policy carries its words files along."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from channels import wecom
from channels.wecom import app_events
from hub import limits
from hub.errors import PolicyError
from hub.policy import talks
from hub.policy.document import load_policy, parse_policy, policy_version
from hub.policy.files import policy_text
from hub.policy.policy import Policy
from hub.service.cli import app

BASE = """
version = 1
timezone = "Asia/Shanghai"
[categories.marketing]
route = ["wecom", "sms"]
"""
WINDOW = """
[[windows]]
name = "after"
channels = ["wecom"]
on = "next"
"""
LISTED = 'words = ["casino", "赌博"]'
WORDS = f"""
[[words]]
name = "bad"
{LISTED}
on = "drop"
"""
REPLY = """
[[replies]]
name = "price"
match = ["price"]
answer = { text = "From 99" }
category = "marketing"
app = "bot"
"""
REMINDER = """
[[reminders]]
name = "slow"
after = "15m"
app = "desk"
"""
ARCHIVE = """
[archive]
channels = ["wecom"]
"""
ALL = BASE + WINDOW + WORDS + REPLY + REMINDER + ARCHIVE


def error_of(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    return caught.value


# ---- what is valid -------------------------------------------------------------------------------


def test_the_example_of_the_manual_is_valid() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
    document = parse_policy(manual.partition("```toml\n")[2].partition("```")[0])
    assert document.windows and document.words and document.replies and document.reminders
    assert document.archive


def test_defaults_and_what_is_compiled() -> None:
    policy = Policy(parse_policy(ALL + 'keep = "3660d"'))
    (window,), (reply,), (reminder,) = policy.windows, policy.replies, policy.reminders
    assert (window.limit, window.within_ms, window.action) == (5, 48 * 3_600_000, "next")
    assert (reply.every_ms, reply.within_ms, reply.dnd) == (86_400_000, 600_000, None)
    assert (reminder.after_ms, reminder.again_ms, reminder.manager) == (900_000, None, None)
    assert [policy.windows_on(channel) for channel in ("wecom", "sms")] == [True, False]
    assert policy.archived("wecom") == 3_660 * 86_400_000
    assert policy.archived("sms") is None
    assert Policy(parse_policy(BASE)).words is None


def test_a_document_without_these_tables_has_the_version_it_always_had() -> None:
    """The first was computed by the release before them."""
    versions = [policy_version(parse_policy(BASE + table)) for table in ("", WINDOW, WORDS, REPLY)]
    assert versions[0] == "aa3f32f3470f"
    assert len(set(versions)) == 4


@pytest.mark.parametrize(
    ("said", "matches"),
    [
        ({"text": "What is the PRICE?"}, True),
        ({"text": "p r-i\u200bc.e"}, True),
        ({"text": "prize"}, False),
        ({"text": "price", "channel": "sms"}, False),
        ({"text": "price", "account": "lin"}, False),
        ({"text": "price", "event": "friend_added"}, False),
    ],
)
def test_a_reply_matches_words_on_its_accounts(said: dict[str, str], matches: bool) -> None:
    rule = 'channels = ["wecom"]\naccounts = ["ann"]\n'
    (reply,) = Policy(parse_policy(BASE + REPLY + rule)).replies
    assert reply.matches(**({"channel": "wecom", "account": "ann"} | said)) is matches


def test_a_reply_may_want_the_word_alone_or_an_event() -> None:
    exact = Policy(parse_policy(BASE + REPLY + 'how = "exact"')).replies[0]
    assert [exact.matches("sms", "a", text) for text in ("Price!", "the price")] == [True, False]
    event = REPLY.replace('match = ["price"]', 'event = "friend_added"')
    added = Policy(parse_policy(BASE + event)).replies[0]
    assert added.matches("sms", "a", "", "friend_added")
    assert not added.matches("sms", "a", "friend_added")
    assert not added.matches("sms", "a", "", "friend_deleted")


def test_every_event_that_accounts_tell_is_in_the_contract_and_can_be_answered() -> None:
    folder = Path(wecom.__file__).parent
    told = {name for name, _ in app_events.EVENTS.values()}
    for module in folder.glob("*.py"):
        told |= set(re.findall(r'"event": "(\w+)"', module.read_text()))
    assert told <= set(talks.EVENTS) and {"group_join_way", "friend_added"} <= told
    page = (folder.parents[1] / "docs" / "contract.md").read_text()
    assert [name for name in talks.EVENTS if f"`{name}`" not in page] == []


# ---- what is not ---------------------------------------------------------------------------------

BAD = [
    (WINDOW.replace('channels = ["wecom"]', ""), "windows[0].channels", "is missing"),
    (WINDOW.replace('"wecom"', ""), "windows[0].channels", "is empty"),
    (WINDOW.replace("wecom", "fax"), "windows[0].channels", "known: wecom, sms, push"),
    (WINDOW.replace("next", "drop"), "windows[0].on", "allowed: hold, next"),
    (WINDOW + "limit = 0", "windows[0].limit", "expected `int` >= 1"),
    (WINDOW + 'within = "2 days"', "windows[0].within", "is not a duration"),
    (WINDOW + "per = 1", "windows[0].per", "allowed: name, categories, channels, apps"),
    (WINDOW + WORDS.replace("bad", "after"), "words[0].name", "already the name of windows[0]"),
    (WORDS.replace('"casino", "赌博"', ""), "words[0].words", "is empty"),
    (WORDS.replace("casino", "...\u200b"), "words[0].words[0]", "nothing to look for"),
    (WORDS.replace("casino", "x" * 65), "words[0].words[0]", "65 characters, at most 64"),
    (WORDS.replace("drop", "hold"), "words[0].on", "allowed: drop"),
    (WORDS.replace('on = "drop"', ""), "words[0]", "does nothing: needs on, alert or both"),
    (WORDS + 'alert = "Quality"', "words[0].alert", "cannot be an app"),
    (WORDS + 'categories = ["promo"]', "words[0].categories", "unknown category 'promo'"),
    (WORDS + 'file = "words.txt"', "words[0].file", "either words or a file"),
    (WORDS.replace("words =", "#"), "words[0]", "needs words or file"),
    (
        WORDS.replace('words = ["casino", "赌博"]', 'file = "w.txt"'),
        "words[0].file",
        "'w.txt' is not",
    ),
    (WORDS + '[files]\n"w.txt" = ["x"]', "files", "no rule of words names 'w.txt'"),
    ("[files]\nx = [1]", "files[...][0]", "expected `str`"),
    (REPLY.replace('"marketing"', '"promo"'), "replies[0].category", "known: marketing"),
    (REPLY.replace("category", "#"), "replies[0].category", "is missing: an answer is an intent"),
    (REPLY.replace("app =", "#"), "replies[0].app", "is missing"),
    (REPLY.replace('"bot"', '"Bot"'), "replies[0].app", "cannot be an app"),
    (REPLY + 'event = "friend_added"', "replies[0]", "needs match or event, and not both"),
    (REPLY.replace("match", "#"), "replies[0]", "needs match or event, and not both"),
    (REPLY.replace('match = ["price"]', 'event = "friend"'), "replies[0].event", "friend_added, "),
    (REPLY.replace('"price"]', "]"), "replies[0].match", "is empty"),
    (REPLY.replace('"price"]', '"!"]'), "replies[0].match[0]", "nothing to look for"),
    (REPLY + 'how = "begins"', "replies[0].how", "allowed: contains, exact"),
    (REPLY.replace("answer", "#"), "replies[0]", "does nothing: needs answer, dnd or both"),
    (REPLY.replace("answer", 'dnd = "all" #'), "replies[0].category", "goes with answer"),
    (REPLY.replace('"From 99"', "99"), "replies[0].answer", "text: must be a string"),
    (REPLY.replace("text =", "fax ="), "replies[0].answer", "has either text alone, or any of"),
    (REPLY.replace('text = "From 99"', ""), "replies[0].answer", "is empty"),
    (REPLY + 'dnd = "category:promo"', "replies[0].dnd", "unknown category 'promo'"),
    (REPLY + 'dnd = "channel:fax"', "replies[0].dnd", "unknown channel 'fax'"),
    (REPLY + 'dnd = "sms"', "replies[0].dnd", "allowed: all, category:<name> or channel:<wecom|"),
    (REPLY + 'every = "daily"', "replies[0].every", "is not a duration"),
    (REPLY + 'within = "0s"', "replies[0].within", "is not a duration"),
    (REPLY + "accounts = []", "replies[0].accounts", "would match nothing"),
    (REMINDER.replace('app = "desk"', ""), "reminders[0].app", "is missing"),
    (REMINDER.replace('after = "15m"', ""), "reminders[0].after", "is missing"),
    (REMINDER.replace("15m", "15"), "reminders[0].after", "is not a duration"),
    (REMINDER + 'again_after = "x"', "reminders[0].again_after", "is not a duration"),
    (REMINDER + 'manager = "lin"', "reminders[0].manager", "goes with again_after"),
    (REMINDER + 'channels = ["fax"]', "reminders[0].channels", "unknown channel 'fax'"),
    (ARCHIVE.replace('"wecom"', '"fax"'), "archive.channels", "unknown channel 'fax'"),
    (ARCHIVE.replace('"wecom"', ""), "archive.channels", "is empty"),
    (ARCHIVE + 'keep = "3661d"', "archive.keep", "longer than 3660d"),
    (ARCHIVE + "days = 1", "archive.days", "allowed: channels, keep"),
    ("[archive]", "archive.channels", "is missing"),
]


@pytest.mark.parametrize(("table", "place", "problem"), BAD)
def test_the_error_names_the_place_and_what_is_allowed(
    table: str, place: str, problem: str
) -> None:
    error = error_of(BASE + table)
    assert error.facts["place"] == place
    assert problem in error.message
    assert error.message.startswith(place)
    assert "\n" not in error.message


def test_too_many_words() -> None:
    many = ", ".join(f'"w{number}"' for number in range(limits.POLICY_WORDS))
    listed = WORDS.replace('"casino", "赌博"', many)
    parse_policy(BASE + listed)
    error = error_of(BASE + listed + WORDS.replace("bad", "more"))
    assert error.message == "words: 20002 words, at most 20000"


# ---- words files ---------------------------------------------------------------------------------

FROM_FILE = BASE + WORDS.replace(LISTED, 'file = "lists/bad.txt"')


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "lists").mkdir()
    file = tmp_path / "policy.toml"
    file.write_text(FROM_FILE, encoding="utf-8")
    return file


def test_what_is_applied_needs_no_file(policy: Path) -> None:
    words = policy.parent / "lists" / "bad.txt"
    words.write_text('\ufeff# a comment\ncasino\n\n 赌博 \r\n"\\\x7f\x01🎰', encoding="utf-8")
    here, text = load_policy(policy), policy_text(policy)
    words.unlink()
    there = parse_policy(text)
    assert there == here
    assert there.words
    assert there.words[0].words == ["casino", "赌博", '"\\\x7f\x01🎰']
    assert policy_version(there) == policy_version(here)
    policy.write_text(text, encoding="utf-8")  # as a hub keeps it
    assert policy_text(policy) == text
    assert text.startswith(FROM_FILE.rstrip("\n"))


def test_a_rule_is_the_same_with_its_words_in_a_file(policy: Path) -> None:
    (policy.parent / "lists" / "bad.txt").write_text("casino\n赌博\n", encoding="utf-8")
    assert policy_version(load_policy(policy)) == policy_version(parse_policy(BASE + WORDS))


def test_a_policy_without_files_is_applied_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("# to the letter\n" + ALL, encoding="utf-8")
    assert policy_text(file) == "# to the letter\n" + ALL


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"x" * (limits.WORDS_FILE_BYTES + 1), "larger than 524288 bytes"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"casino\n# none\n...\n", "word 2, '...', has no letter"),
        (b"# none\n", "is empty"),
    ],
)
def test_the_error_names_policy_key_and_file(
    policy: Path, content: bytes | None, problem: str
) -> None:
    words = policy.parent / "lists" / "bad.txt"
    if content is not None:
        words.write_bytes(content)
    with pytest.raises(PolicyError) as caught:
        load_policy(policy)
    assert caught.value.message.startswith(f"{policy}: words[0]")
    assert problem in caught.value.message
    assert caught.value.facts["place"] in ("words[0].file", "words[0].words")


def test_a_policy_too_large_with_its_files(policy: Path) -> None:
    text = BASE
    for number in range(3):
        name = f"lists/bad{number}.txt"
        lines = "\n".join(f"{number}{line:05}{'x' * 50}" for line in range(6_600))
        (policy.parent / name).write_text(lines, encoding="utf-8")
        text += WORDS.replace(LISTED, f'file = "{name}"').replace('"bad"', f'"bad{number}"')
    policy.write_text(text, encoding="utf-8")
    with pytest.raises(PolicyError, match="larger than 1048576 bytes with its words files"):
        load_policy(policy)


@pytest.mark.parametrize("rules", ["words = 5", "words = [5]", '[[words]]\nfile = 5\nname="x"'])
def test_what_else_is_wrong_is_told_by_the_place(tmp_path: Path, rules: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(BASE.replace("[cat", f"{rules}\n[cat"), encoding="utf-8")
    with pytest.raises(PolicyError, match="expected"):
        load_policy(file)


def test_policy_check_says_what_each_rule_does(policy: Path) -> None:
    (policy.parent / "lists" / "bad.txt").write_text("casino\n赌博\n", encoding="utf-8")
    policy.write_text(FROM_FILE + WINDOW + REPLY + REMINDER + ARCHIVE, encoding="utf-8")
    result = CliRunner().invoke(app, ["policy", "check", str(policy)])
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines()[2:]]
    assert lines == [
        "after: at most 5 of wecom within 48h of the customer's last message, next",
        "bad: none with any of 2 words, drop",
        "price: to a message that contains any of 1 words: "
        "answers as marketing at most once in 24h, told to bot",
        "slow: reminds desk after 15m",
        "archive: wecom for 400d",
    ]
