"""NetworkPolicies, enforced: the objects that the cluster has, as nft rules by address on each node.

A small part of what a network plug-in does, for this cluster's network (IPv4, bridges whose packets pass
netfilter): peers by selectors and by block, ports by number. What it does not know it refuses, so that no
policy is enforced by half.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.node import Failed

Document = dict[str, Any]

TABLE = "inet uws-policies"
_PAUSE = 0.2  # s between two looks at the cluster


@contextmanager
def enforced(cluster: Cluster) -> Iterator[None]:
    """Have the cluster's NetworkPolicies hold, for pods that come and go too, until the block ends."""
    over = threading.Event()

    def follow(last: str) -> None:
        while not over.wait(_PAUSE):
            rules = _look(cluster)
            if rules != last:
                _apply(cluster, rules)
                last = rules

    rules = _look(cluster)
    _apply(cluster, rules)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow, rules)
        try:
            yield
        finally:
            over.set()
            wait([following])
            _apply(cluster, f"table {TABLE}\ndelete table {TABLE}\n")
    following.result()


def _look(cluster: Cluster) -> str:
    def every(kind: str) -> list[Document]:
        items: list[Document] = cluster.get("--all-namespaces", kind)["items"]
        return items

    return translate(every("networkpolicies"), every("pods"), every("namespaces"))


def _apply(cluster: Cluster, rules: str) -> None:
    for node in cluster.nodes():
        if node.lives():
            node.inside("nft", "--file", "-", text=rules)


def translate(policies: Iterable[Document], pods: Iterable[Document], namespaces: Iterable[Document]) -> str:
    """The rules, in nft's words; they take the place of what was there, all at once.

    :raises Failed: a policy says something that is not translated.
    """
    labels = {one["metadata"]["name"]: one["metadata"].get("labels", {}) for one in namespaces}
    there = [_Pod(one, labels.get(one["metadata"]["namespace"], {})) for one in pods]
    there = sorted((pod for pod in there if pod.ip), key=lambda pod: pod.ip)
    chains: dict[tuple[str, str], list[str]] = {}
    for policy in policies:
        spec, home = policy["spec"], policy["metadata"]["namespace"]
        _only(spec, "podSelector", "policyTypes", "ingress", "egress")
        for direction in spec["policyTypes"]:
            lines = [
                line
                for rule in spec.get(direction.lower(), [])
                for line in _rule(rule, direction, home, there)
            ]
            for pod in there:
                if pod.namespace == home and _selects(spec["podSelector"], pod.labels):
                    chains.setdefault((direction, pod.ip), []).extend(lines)
    named = {key: f"{key[0]}-{key[1].replace('.', '-')}" for key in sorted(chains)}
    # Both sides are asked, and both must permit a packet.
    jumps = [f"ip {_SIDE[direction][0]} {ip} jump {name}" for (direction, ip), name in named.items()]
    parts = [_chain(name, [*chains[key], "drop"]) for key, name in named.items()]
    parts.append(_chain("asked", ["ct state established,related accept", *jumps]))
    parts += [
        _chain(hook, [f"type filter hook {hook} priority filter; policy accept;", "jump asked"])
        for hook in ("forward", "input")
    ]
    return f"table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n{''.join(parts)}}}\n"


_SIDE = {"Egress": ("saddr", "daddr", "to"), "Ingress": ("daddr", "saddr", "from")}
"""Where the pod of a policy stands in a packet, where its peer does, and what the peers are called."""


class _Pod:
    def __init__(self, document: Document, of_namespace: Mapping[str, str]) -> None:
        over = document["status"].get("phase") in {"Succeeded", "Failed"}
        on_host = document["spec"].get("hostNetwork", False)
        self.ip = "" if over or on_host else document["status"].get("podIP", "")
        self.namespace = document["metadata"]["namespace"]
        self.labels = document["metadata"].get("labels", {})
        self.of_namespace = of_namespace


def _chain(name: str, lines: Iterable[str]) -> str:
    return "".join((f"chain {name} {{\n", *(f"{line}\n" for line in lines), "}\n"))


def _rule(rule: Document, direction: str, home: str, pods: list[_Pod]) -> Iterator[str]:
    """What permits a packet by one rule, one line for each kind of peer and port."""
    _, side, peers = _SIDE[direction]
    _only(rule, peers, "ports")
    for where in _peers(rule.get(peers), f"ip {side}", home, pods):
        for port in rule.get("ports") or [None]:
            yield f"{where} {_port(port)} return".strip()


def _peers(peers: list[Document] | None, side: str, home: str, pods: list[_Pod]) -> Iterator[str]:
    if not peers:
        yield ""
    for peer in peers or []:
        _only(peer, "ipBlock", "namespaceSelector", "podSelector")
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            _only(block, "cidr", "except")
            if ":" in block["cidr"]:
                continue  # there is no IPv6 here
            but = f" {side} != {{ {', '.join(block['except'])} }}" if block.get("except") else ""
            yield f"{side} {block['cidr']}{but}"
            continue
        found = [
            pod.ip
            for pod in pods
            if _selects(peer.get("podSelector", {}), pod.labels)
            and (
                _selects(peer["namespaceSelector"], pod.of_namespace)
                if "namespaceSelector" in peer
                else pod.namespace == home
            )
        ]
        if found:
            yield f"{side} {{ {', '.join(found)} }}"


def _port(port: Document | None) -> str:
    if port is None:
        return ""
    _only(port, "protocol", "port")
    protocol = port.get("protocol", "TCP").lower()
    if not isinstance(port.get("port", 0), int):
        raise Failed(f"a port by name is not translated: {port}")
    return f"{protocol} dport {port['port']}" if "port" in port else f"meta l4proto {protocol}"


def _selects(selector: Document, labels: Mapping[str, str]) -> bool:
    _only(selector, "matchLabels", "matchExpressions")
    wanted = selector.get("matchLabels", {})
    for one in selector.get("matchExpressions", []):
        if one["operator"] != "In":
            raise Failed(f"a selector with {one['operator']} is not translated")
        if labels.get(one["key"]) not in one["values"]:
            return False
    return all(labels.get(key) == value for key, value in wanted.items())


def _only(document: Document, *known: str) -> None:
    if strange := set(document) - set(known):
        raise Failed(f"of a NetworkPolicy, {', '.join(sorted(strange))} is not translated")
