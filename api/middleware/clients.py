"""The address of the client behind proxies that we trust, in one spelling."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from litestar.types import Scope

from core.networks import canonical

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNKNOWN = "unknown"
# Nobody calls from there but a neighbour: who comes with X-Forwarded-For is a proxy.
_NEIGHBOURS: list[Network] = [
    ipaddress.ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8"),
        *("169.254.0.0/16", "fc00::/7", "fe80::/10", "::1/128"),
    )
]


class ClientAddress:
    """X-Forwarded-For is believed only from peers in `trusted`, and only up to the first hop,
    from the right, that is not one of them: everything left of it was written by the client."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted: list[Network] = [
            ipaddress.ip_network(entry, strict=False) for entry in trusted
        ]
        self._resolve = lru_cache(4096)(self._resolve_uncached)
        self.unnamed_proxy: str | None = None
        """One that passes on the requests of others and is not in `trusted`: all are one caller."""

    def of(self, scope: Scope) -> str:
        client = scope.get("client")
        peer = client[0] if client else ""
        forwarded = b",".join(
            value for name, value in scope["headers"] if name == b"x-forwarded-for"
        )
        return self._resolve(peer, forwarded.decode("latin-1")[-1024:])

    def _resolve_uncached(self, peer: str, forwarded: str) -> str:
        address = peer
        hops = [hop for hop in forwarded.split(",") if hop.strip()]
        while hops and _is_in(address, self._trusted):
            parsed = _parse_hop(hops.pop())
            if parsed is None:
                break
            address = parsed
        if hops and _is_in(address, _NEIGHBOURS):
            self.unnamed_proxy = address
        return canonical(address) or UNKNOWN


def _is_in(text: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _parse_hop(hop: str) -> str | None:
    """An address of the header; some proxies add the port (`1.2.3.4:5`, `[::1]:5`)."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
