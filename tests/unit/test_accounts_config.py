"""`accounts.toml`: what is allowed, and how well it is said what is not."""

from __future__ import annotations

import contextlib
import pickle
from importlib import import_module
from pathlib import Path
from random import Random

import pytest

from channels.accounts import AccountConfig, parse_accounts
from channels.provider import Provider, Unsendable
from channels.registry import PROVIDERS
from hub.clock import SystemClock
from hub.errors import ConfigError
from hub.service.accounts import _Nobody, read_accounts
from tests.support.sms_web import delivery

HEAD = 'version = 1\n[[accounts]]\nname = "sms"\nchannel = "sms"\nprovider = "smpp"\n'
SMPP = '[accounts.smpp]\nhost = "h"\nsystem_id = "s"\npassword = { env = "PW" }\n'
GOOD = HEAD + SMPP
ENVIRONMENT = {"PW": "secret12"}


def parsed(text: str, directory: Path = Path()) -> list:
    return parse_accounts(text, directory, ENVIRONMENT)


def test_a_good_one_with_defaults() -> None:
    (account,) = parsed(GOOD)
    assert (account.name, account.channel, account.duplicates) == ("sms", "sms", "never")
    assert account.ms("unknown_after") == 600_000
    assert account.settings.password == "secret12"
    assert account.limits_of("account") == []


def test_secrets_are_never_shown_and_travel_between_processes() -> None:
    (account,) = parsed(GOOD)
    assert "secret12" not in repr(account) + repr(account.settings)
    assert pickle.loads(pickle.dumps(account)) == account


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("fromfile\nrest\n")
    (account,) = parsed(GOOD.replace('{ env = "PW" }', '{ file = "pw" }'), tmp_path)
    assert account.settings.password == "fromfile"


def test_documented_limits_hold_unless_the_account_has_its_own() -> None:
    text = (
        'version = 1\n[[accounts]]\nname = "a"\nchannel = "sms"\nprovider = "aliyun"\n%s'
        '[accounts.aliyun]\naccess_key_id = "k"\naccess_key_secret = { env = "PW" }\n'
        'sign_name = "s"\ntemplates = { otp = "SMS_1" }\n'
    )
    (account,) = parsed(text % "")
    assert account.limits_of("recipient") == ["1/min", "5/h", "10/day"]
    (account,) = parsed(text % '[accounts.limits]\naccount = ["5/s"]\n')
    assert account.limits_of("account") == ["5/s"]
    assert account.limits_of("recipient") == ["1/min", "5/h", "10/day"]  # each list by itself
    (account,) = parsed(text % "[accounts.limits]\nrecipient = []\n")
    assert account.limits_of("recipient") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "version: must be 1"),
        ("version = 1\nx = 2", "x: unknown key; allowed: version, accounts"),
        ("version = 1\naccounts = 3", "write each as [[accounts]]"),
        ("version = ", "not TOML"),
        (GOOD.replace('"smpp"', '"smtp"'), "account sms: provider: known are aliyun, "),
        (GOOD.replace('channel = "sms"', 'channel = "push"'), "serves channel sms"),
        (GOOD.replace('name = "sms"', 'name = "s m"'), "name: 1 to 64"),
        (GOOD.replace("host =", "hots ="), "account sms: smpp: hots: unknown key"),
        (GOOD.replace("[accounts.smpp]", "dupl = 1\n[accounts.smpp]"), "dupl: unknown key"),
        (
            GOOD.replace("[accounts.smpp]", "[accounts.limits]\nacount = []\n[accounts.smpp]"),
            "limits.acount: unknown key; did you mean account?",
        ),
        (GOOD.replace('{ env = "PW" }', '"inline"'), "a secret is not written here"),
        (GOOD.replace('"PW"', '"NOPE"'), "smpp.password: the variable NOPE is not set"),
        (GOOD.replace('{ env = "PW" }', '{ file = "nope" }'), "cannot be read"),
        (GOOD.replace("[accounts.smpp]", 'unknown_after = "x"\n[accounts.smpp]'), "duration"),
        (GOOD.replace("[accounts.smpp]", 'timezone = "x"\n[accounts.smpp]'), "IANA"),
        (GOOD.replace("[accounts.smpp]", 'failover = "x"\n[accounts.smpp]'), "failover"),
        (GOOD + GOOD.removeprefix("version = 1\n"), "there are two of this name"),
        (GOOD.replace("[accounts.smpp]", "settings = 1\n[accounts.smpp]"), "settings"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert said in caught.value.message


OUTSIDE = '[[accounts]]\nname = "inbox"\nchannel = "sms"\nprovider = "gateway"\n'


def test_a_gateway_may_serve_an_account_of_any_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PW", "secret12")
    path = tmp_path / "accounts.toml"
    path.write_text(GOOD + OUTSIDE + OUTSIDE.replace("inbox", "box").replace("sms", "push"))
    found = [(account.name, account.channel) for account in read_accounts(path)]
    assert found == [("sms", "sms"), ("inbox", "sms"), ("box", "push")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OUTSIDE + 'failover = "sms"\n', "account inbox: failover: the gateway sends"),
        (OUTSIDE + '[accounts.limits]\naccount = ["1/s"]\n', "account inbox: limits: the gateway"),
        (OUTSIDE + '[accounts.gateway]\nurl = "x"\n', "account inbox: gateway: url: unknown key"),
        (OUTSIDE.replace("sms", "fax"), "account inbox: channel"),
        (OUTSIDE.replace("inbox", "push").replace("sms", "push"), "named like its channel"),
        (
            GOOD.replace('"sms"', '"a"', 1).replace(SMPP, 'failover = "inbox"\n' + SMPP) + OUTSIDE,
            "account a: failover: the hub does not send by inbox",
        ),
    ],
)
def test_what_a_gateway_serves_the_hub_neither_limits_nor_hands_over(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text if text.startswith("version") else GOOD + text)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[accounts.limits]\naccount = ["50/x"]\n', "limits.account"),
        ('[accounts.sms]\nsignature = "x"\n', "signature"),
        ("[accounts.sms]\nmax_segments = 0\n", "max_segments"),
        ('[accounts.sms]\ncodings = ["gbk"]\n', "gbk"),
    ],
)
def test_a_file_is_checked_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, said: str
) -> None:
    """Also what only limits and providers know."""
    monkeypatch.setenv("PW", "secret12")
    path = tmp_path / "accounts.toml"
    path.write_text(GOOD + more)
    with pytest.raises(ConfigError) as caught:
        read_accounts(path)
    assert str(path) in caught.value.message
    assert "sms" in caught.value.message
    assert said in caught.value.message


# ---- accounts of one application ----------------------------------------------------------------

APP = """version = 1
[[accounts]]
name = "crm"
channel = "wecom"
provider = "wecom-app"
[accounts.wecom]
corp_id = "ww1"
agent_id = 1000002
secret = { env = "PW" }
callback_token = { env = "TOKEN" }
callback_key = { env = "KEY" }
"""
SHARED = {"PW": "secret12", "TOKEN": "token", "KEY": "k" * 43}


def sharing(name: str, provider: str, table: str) -> str:
    head = f'[[accounts]]\nname = "{name}"\nchannel = "wecom"\nprovider = "{provider}"\n'
    return f"{head}[accounts.wecom]\n{table}\n"


def shared(*entries: str) -> list[AccountConfig]:
    return parse_accounts(APP + "".join(entries), Path(), SHARED)


def test_accounts_share_the_credentials_of_their_application() -> None:
    kf = sharing("kf", "wecom-kf", 'app = "crm"\nopen_kfid = "wk1"')
    li = sharing("li", "wecom-member", 'app = "crm"\nuserid = "li"\nrule = "weekly_7"')
    for account in shared(kf, li):
        assert (account.settings.corp_id, account.settings.secret) == ("ww1", "secret12")
        assert account.settings.callback_key == "k" * 43
    assert shared(li)[1].limits_of("recipient") == ["7/week"]
    assert shared()[0].limits_of("recipient") == ["30/min", "1000/h"]


@pytest.mark.parametrize(
    ("provider", "key"),
    [("wecom-kf", 'open_kfid = "wk1"'), ("wecom-member", 'userid = "li"'), ("wecom-app", "")],
)
def test_how_long_a_content_may_be_is_configuration(provider: str, key: str) -> None:
    own = key and f'app = "crm"\n{key}'
    own = own or 'corp_id = "ww2"\nagent_id = 1\nsecret = { env = "PW" }'
    for limit, sendable in ((5, True), (4, False)):
        table = f"{own}\n[accounts.wecom.content]\ntext = {limit}\nmass_text = {limit}"
        account = shared(sharing("one", provider, table))[1]
        made = PROVIDERS[provider].make(account, _Nobody(), SystemClock(), Random(1))
        with contextlib.nullcontext() if sendable else pytest.raises(Unsendable):
            made.prepare(delivery({"text": "abcde"}, to="wm1"))


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([("kf", "wecom-kf", 'app = "cmr"\nopen_kfid = "wk1"')], "kf: wecom.app: must name"),
        ([("kf", "wecom-kf", 'open_kfid = "wk1"')], "kf: corp_id: needed"),
        (
            [("li", "wecom-member", 'app = "crm"\nuserid = "li"\ngive_up = "96h"')],
            "li: receipts_for: must be longer than wecom.give_up",
        ),
        ([("kf", "wecom-kf", 'app = "crm"')], "open_kfid"),
        (
            [("li", "wecom-member", 'app = "crm"\nuserid = "li"\nrule = "weekly"')],
            "wecom: rule: Invalid enum value 'weekly'; allowed: monthly_days, weekly_7, daily_1",
        ),
        (
            [("kf", "wecom-kf", 'app = "crm"\nopen_kfid = "wk1"\nbase_url = "https://a..b"')],
            "base_url must be a URL",
        ),
        (
            [(name, "wecom-kf", 'app = "crm"\nopen_kfid = "wk1"') for name in ("kf", "kf2")],
            "kf2: account kf is the same already",
        ),
        (
            [(name, "wecom-member", f'app = "crm"\nuserid = "{name}"') for name in ("li", "LI")],
            "LI: account li is the same already",
        ),
        ([("kf", "wecom-kf", 'app = "crm"\nopen_kfid = "wk1"\ncallback_key = "x"')], "secret"),
    ],
)
def test_accounts_that_cannot_be(entries: list[tuple[str, str, str]], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        shared(*(sharing(*entry) for entry in entries))


@pytest.mark.parametrize("name", [name for name in PROVIDERS if not PROVIDERS[name].outside])
def test_every_provider_has_all_that_an_account_asks_of_one(name: str) -> None:
    kind = PROVIDERS[name]
    made = getattr(import_module(kind.module), kind.provider_name)
    asked = {one for one in (*vars(Provider), *Provider.__annotations__) if not one.startswith("_")}
    assert {"resend", "idle", "submit", "stop"} <= asked
    assert [one for one in sorted(asked) if not hasattr(made, one)] == []
