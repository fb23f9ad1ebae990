"""One network for all addresses that one caller has."""

import pytest

from core.networks import canonical, network_of


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("198.51.100.7", "198.51.100.7/32"),
        ("::ffff:198.51.100.7", "198.51.100.7/32"),
        ("::ffff:c633:6407", "198.51.100.7/32"),
        ("64:ff9b::c633:6407", "198.51.100.7/32"),
        ("2002:c633:6407:1::9", "198.51.100.7/32"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_networks(text: str, network: str) -> None:
    assert network_of(text) == network


def test_budgets_count_wider_networks_of_ipv4() -> None:
    wide = {network_of(f"198.51.100.{last}", ipv4_prefix=24) for last in (0, 7, 255)}
    assert wide == {"198.51.100.0/24"}


def test_one_address_has_one_spelling() -> None:
    forms = ("198.51.100.7", "::ffff:198.51.100.7", "::FFFF:C633:6407")
    assert {canonical(form) for form in forms} == {"198.51.100.7"}
    assert canonical("2001:DB8:0::1") == "2001:db8::1"
