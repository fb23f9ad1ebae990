"""The address of the client behind proxies that we trust, in one spelling."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from litestar.types import Scope

from core.networks import canonical

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNKNOWN = "unknown"


class ClientAddress:
    """X-Forwarded-For is believed only from peers in `trusted`, and only up to the first hop,
    from the right, that is not one of them: everything left of it was written by the client."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted: list[Network] = [
            ipaddress.ip_network(entry, strict=False) for entry in trusted
        ]
        self._resolve = lru_cache(4096)(self._resolve_uncached)

    def of(self, scope: Scope) -> str:
        client = scope.get("client")
        peer = client[0] if client else ""
        if not self._trusted:
            return self._resolve(peer, "")
        forwarded = b",".join(
            value for name, value in scope["headers"] if name == b"x-forwarded-for"
        )
        return self._resolve(peer, forwarded.decode("latin-1")[-1024:])

    def _resolve_uncached(self, peer: str, forwarded: str) -> str:
        return canonical(self._find_client(peer, forwarded)) or UNKNOWN

    def _find_client(self, peer: str, forwarded: str) -> str:
        if not self._is_trusted(peer):
            return peer
        address = peer
        for hop in reversed(forwarded.split(",")):
            parsed = _parse_hop(hop)
            if parsed is None:
                break
            address = parsed
            if not self._is_trusted(parsed):
                break
        return address

    def _is_trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)


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
