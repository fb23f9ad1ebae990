"""Which network an address belongs to: one caller has all addresses of it, so it is what counts.

The one place that knows: limits count an IPv4 address and a /64 of IPv6, budgets of mail a /24 and
a /64. An IPv4 address that comes in IPv6's clothes is the IPv4 address.
"""

import ipaddress
from functools import lru_cache
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_IPV4_BITS: Final = 2**32 - 1


def find_address(text: str) -> Address | None:
    """The address in `text`, an IPv4 one out of its IPv6 form (mapped, NAT64, 6to4, Teredo).

    6to4 and Teredo hand out whole networks for one IPv4 address: that one is who asks.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & _IPV4_BITS)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address


@lru_cache(4096)
def network_of(client_ip: str, *, ipv4_prefix: int = 32, ipv6_prefix: int = 64) -> str:
    """The network in text; whatever is no address stands for itself."""
    address = find_address(client_ip)
    if address is None:
        return client_ip
    prefix = ipv4_prefix if address.version == 4 else ipv6_prefix
    return str(ipaddress.ip_network((address, prefix), strict=False))


def canonical(client_ip: str) -> str:
    """One spelling for one address, for logs and for services that are told who asks."""
    address = find_address(client_ip)
    return client_ip if address is None else str(address)
