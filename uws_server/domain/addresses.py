"""Which addresses nobody may be sent to by a name or link that is not the operator's."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where clouds answer questions about the machine, its identity and its keys.
_METADATA = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",
        "fd20:ce::/32",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
    )
)
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


def faces(address: str) -> tuple[Address, ...]:
    """An address, and the IPv4 address that it stands for where it is an IPv6 one made of that.

    :raises ValueError: it is no address.
    """
    numbers = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(numbers, ipaddress.IPv6Address):
        inner = numbers.ipv4_mapped or numbers.sixtofour
        if numbers in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(numbers) & 0xFFFFFFFF)
        if inner is not None:
            return numbers, inner
    return (numbers,)


def forbidden(address: str, denied: Iterable[str] = ()) -> bool:
    """Whether it is link-local, of a cloud's metadata, nobody's own, or in a ``denied`` network (CIDR)."""
    networks = [*_METADATA, *(ipaddress.ip_network(text) for text in denied)]
    return any(
        face.is_multicast or face.is_unspecified or any(face in network for network in networks)
        for face in faces(address)
    )


def public(address: str) -> bool:
    """Whether it is one that the whole internet reaches, and no forbidden one."""
    return not forbidden(address) and all(face.is_global for face in faces(address))
