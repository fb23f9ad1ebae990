"""One key a mailbox, however its address is spelled; and what is never refused."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from core.people.keys import PersonKeys, open_person_keys, plain_key
from core.people.mailboxes import DATA, MailHost, read_mailbox, registrable
from core.settings import Environment, SettingsError
from tests.harness.settings import NOWHERE, build_settings

ONE_MAILBOX = {
    "gmail": ["adalove@gmail.com", "Ada.Love@gmail.com", "a.d.a.l.o.v.e+x@GoogleMail.com"],
    "proton": [
        "adalove@proton.me",
        "ada.love@proton.me",
        "ada-love@proton.me",
        "ada_love@protonmail.com",
        "AdaLove+ring@pm.me",
        "adalove@protonmail.ch",
    ],
    "yahoo": ["adalove@yahoo.com", "adalove-shop@yahoo.com", "adalove-x+y@yahoo.com"],
    "aol": ["adalove@aol.com", "adalove-shop@aol.com"],
    "fastmail": ["ada@fastmail.com", "x@ada.fastmail.com", "any.thing@ada.fastmail.com"],
    "icloud": ["ada.love@icloud.com", "ada.love@me.com", "Ada.Love+x@mac.com"],
    "yandex": [
        "ada.love@yandex.ru",
        "ada-love@ya.ru",
        "ada.love+x@yandex.com",
        "ada-love@yandex.kz",
    ],
    "outlook": ["ada@outlook.com", "ada+tag@outlook.com", "ADA+other@outlook.com"],
    "own domain": ["ada@shop.example", "ada+x@shop.example", "ADA@SHOP.EXAMPLE."],
    "umlauts": ["ada@müller.example", "ada@xn--mller-kva.example", "ada@MÜLLER.example"],
    "Unicode": [
        "ada@shop.example",
        "\uff41\uff44\uff41@shop.example",
        "ada@\uff53\uff48\uff4f\uff50.example",
        "ada\u200b@shop.example",
    ],
    "ligatures": ["office@shop.example", "o\ufb03ce@shop.example"],
    "composed": ["jos\u00e9@shop.example", "jose\u0301@shop.example"],
    "quoted": ["ada@shop.example", '"ada"@shop.example', '"a\\da"@shop.example'],
    "dots of other letters": [
        "ada@shop.example",
        "ada@shop\u3002example",
        "ada@shop.example\u3002",
        "ada@shop\uff61example\uff61.",
    ],
}


@pytest.mark.parametrize("host", ONE_MAILBOX)
def test_spellings_of_one_mailbox(host: str) -> None:
    assert len({read_mailbox(spelling).address for spelling in ONE_MAILBOX[host]}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada.love@outlook.com", "adalove@outlook.com"),
        ("ada@outlook.com", "ada@hotmail.com"),
        ("ada@yahoo.com", "ada@ymail.com"),
        ("ada.love@icloud.com", "adalove@icloud.com"),
        ("ada-love@outlook.com", "ada@outlook.com"),
        ("ada@fastmail.com", "ada@fastmail.fm"),
        ("x@ada.fastmail.com", "x@bob.fastmail.com"),
        ("ada.love@shop.example", "adalove@shop.example"),
        ("ada@shop.example", "ada@shop.test"),
        ("ada@gmail.com", "ada@proton.me"),
        ("+ada@shop.example", "+bob@shop.example"),
        ("-@yahoo.com", "-a@yahoo.com"),
    ],
)
def test_two_mailboxes_stay_two(one: str, other: str) -> None:
    assert read_mailbox(one).address != read_mailbox(other).address


@pytest.mark.parametrize(
    "domain",
    ["mailinator.com", "guerrillamail.com", "yopmail.com", "sharklasers.com", "temp-mail.io"],
)
def test_throw_away_domains_are_known_with_all_below(domain: str) -> None:
    for spelled in (
        domain,
        domain.upper(),
        f"foo.{domain}",
        f"a.b.{domain}",
        f"{domain}.",
        f"{domain}\u3002",
    ):
        assert read_mailbox(f"ada@{spelled}").is_disposable, spelled
    assert not read_mailbox(f"ada@our-own-{domain}").is_disposable
    assert not read_mailbox(f"ada@{domain}.shop.example").is_disposable


@pytest.mark.parametrize(
    "address",
    [
        "x@simplelogin.com", "x@duck.com", "x@mozmail.com", "x@privaterelay.appleid.com",
        "x@passmail.net", "x@addy.io", "x@icloud.com", "x@gmail.com", "x@outlook.com",
        "x@proton.me", "x@fastmail.com", "x@me.fastmail.com", "x@gmx.de", "x@qq.com",
        "x@microsoft.com", "x@google.com", "x@tuta.com", "x@posteo.de", "x@shop.co.uk",
    ],
)  # fmt: skip
def test_what_is_never_called_throw_away(address: str) -> None:
    assert not read_mailbox(address).is_disposable


def test_no_public_suffix_is_listed_as_throw_away() -> None:
    """It would take all the domains below it along."""
    listed = _lines(DATA / "disposable_domains.txt")
    assert len(listed) > 10_000
    assert {name for name in listed if "." not in name} == set()
    assert listed & _lines(DATA / "public_suffixes.txt") == set()


def _lines(path: Path) -> set[str]:
    return {line for line in path.read_text().splitlines() if not line.startswith("#")}


@pytest.mark.parametrize(
    ("domain", "owner"),
    [
        ("shop.example", "shop.example"),
        ("a.b.shop.example", "shop.example"),
        ("shop.co.uk", "shop.co.uk"),
        ("mail.shop.co.uk", "shop.co.uk"),
        ("shop.com.tr", "shop.com.tr"),
        ("a.shop.com.tr", "shop.com.tr"),
        ("a.b.c.ck", "b.c.ck"),
        ("www.ck", "www.ck"),
        ("a.www.ck", "www.ck"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("x.eu.org", "eu.org"),
    ],
)
def test_who_registered_a_domain(domain: str, owner: str) -> None:
    assert registrable(domain) == owner


def test_hosts_are_counted_by_kind() -> None:
    kinds = {
        "ada@gmail.com": ("gmail.com", MailHost.LARGE),
        "ada@ya.ru": ("yandex.ru", MailHost.LARGE),
        "x@ada.fastmail.com": ("fastmail.com", MailHost.SHARED),
        "ada@duck.com": ("duck.com", MailHost.ALIAS),
        "ada@mail.shop.co.uk": ("shop.co.uk", MailHost.OWN),
    }
    found = {address: read_mailbox(address) for address in kinds}
    assert {address: (box.domain, box.host) for address, box in found.items()} == kinds


@pytest.mark.parametrize(
    "address", ["", "@", "ada", "ada@", "@shop.example", "a@b@c", "ada@-..", '"@x']
)
def test_what_is_no_address_is_read_all_the_same(address: str) -> None:
    assert read_mailbox(address).address.count("@") >= 1


OLD, NEW = SecretStr("o" * 32), SecretStr("n" * 32)


def test_a_key_says_nothing_without_the_pepper() -> None:
    one, other = (
        PersonKeys(pepper).caller("ada@shop.example", "203.0.113.7") for pepper in (OLD, NEW)
    )
    assert one.person_keys[0] != other.person_keys[0]
    assert one.network != other.network
    assert one.mail_domain != other.mail_domain
    written = (one.person_keys[0], one.network, one.wide_network, one.mail_domain)
    for told in ("ada", "shop", "203.0", plain_key("ada@shop.example")):
        assert told not in " ".join(written)


def test_a_changed_pepper_recognises_who_was_here() -> None:
    before = PersonKeys(OLD).caller("ada@pm.me", "203.0.113.7")
    after = PersonKeys(NEW, OLD).caller("a.da@proton.me", "198.51.100.7")
    assert before.person_keys[0] in after.person_keys
    assert after.person_keys[0] not in before.person_keys


def test_keys_from_before_the_pepper_are_recognised() -> None:
    keys = PersonKeys(NEW, OLD).caller("Ada.Love+x@googlemail.com", "203.0.113.7").person_keys
    plain = plain_key("adalove@gmail.com")
    assert plain in keys
    assert PersonKeys(OLD).wrapped(plain) in keys
    assert PersonKeys(NEW).wrapped(plain) in keys


def test_networks_are_those_of_a_provider() -> None:
    def of(client_ip: str) -> tuple[str, str]:
        caller = PersonKeys(NEW).caller("ada@shop.example", client_ip)
        return caller.network, caller.wide_network

    home = of("203.0.113.7")
    assert of("203.0.113.250") == of("::ffff:203.0.113.9") == home
    assert of("203.0.114.7")[0] != home[0]
    assert of("203.0.114.7")[1] == home[1]
    assert of("203.1.113.7")[1] != home[1]
    six = of("2001:db8:1::1")
    assert of("2001:db8:1:ffff::1") == six
    assert (of("2001:db8:2::1")[0] != six[0], of("2001:db8:2::1")[1]) == (True, six[1])
    assert of("2001:db9::1")[1] != six[1]


def test_production_needs_a_pepper() -> None:
    nowhere = {"database_url": "postgresql://x", "worker_database_url": "postgresql://x"}
    settings = build_settings(**nowhere, redis_url="redis://x", redis_prefix="x")
    assert open_person_keys(settings)
    production = settings.model_copy(
        update={"app_env": Environment.PRODUCTION, "supabase_url": NOWHERE}
    )
    with pytest.raises(SettingsError, match="PERSON_KEY_PEPPER"):
        open_person_keys(production)
    assert open_person_keys(production.model_copy(update={"person_key_pepper": NEW}))
