"""Network namespaces for engines, and what goes wrong between them and the routers.

Each engine lives behind a pair of virtual Ethernet interfaces, so that a cable can be pulled,
packets dropped in silence, lost at random or held up, while both ends go on running. Needs root;
what this machine's kernel does not offer is found out at the start and said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_ADMIN_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def admin(*command: str) -> str | None:
    """Run an administrator's command; return why it failed, or None."""
    environment = {**os.environ, "PATH": _ADMIN_PATH}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, env=environment
        )
    except FileNotFoundError:
        return f"{command[0]} is not installed"
    if done.returncode:
        return (done.stderr or done.stdout).strip().splitlines()[0][:120]
    return None


def has(name: str) -> bool:
    """Return whether a command is there."""
    return shutil.which(name, path=_ADMIN_PATH) is not None


@dataclass(frozen=True, slots=True)
class Link:
    """One engine's namespace and the way there.

    Attributes:
        space: The namespace.
        outside: The router's end.
        inside: The engine's end.
        address: The engine's.
    """

    space: str
    outside: str
    inside: str
    address: str

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command that shall run inside."""
        return ("ip", "netns", "exec", self.space)

    def run(self, *command: str) -> str | None:
        """Run a command inside; return why it failed, or None."""
        return admin(*self.enter, *command)


def lay(index: int, tag: int) -> Link:
    """Make a namespace with an address of its own.

    Args:
        index: Which one, 0 to 255.
        tag: Tells runs on one machine apart, 0 to 55.

    Raises:
        PermissionError: This machine does not allow it; the message says why.
    """
    net = f"10.{200 + tag}.{index}"
    link = Link(f"chaos{tag}-{index}", f"chs{tag}o{index}", f"chs{tag}i{index}", f"{net}.2")
    for command in (
        ("ip", "netns", "add", link.space),
        ("ip", "link", "add", link.outside, "type", "veth", "peer", "name", link.inside),
        ("ip", "link", "set", link.inside, "netns", link.space),
        ("ip", "addr", "add", f"{net}.1/24", "dev", link.outside),
        ("ip", "link", "set", link.outside, "up"),
        (*link.enter, "ip", "addr", "add", f"{net}.2/24", "dev", link.inside),
        (*link.enter, "ip", "link", "set", link.inside, "up"),
        (*link.enter, "ip", "link", "set", "lo", "up"),
    ):
        failure = admin(*command)
        if failure is not None:
            take_up(link)
            raise PermissionError(f"{' '.join(command)}: {failure}")
    return link


def take_up(link: Link) -> None:
    """Remove a namespace and its interfaces."""
    admin("ip", "link", "del", link.outside)
    admin("ip", "netns", "del", link.space)


_DROP = ("-m", "comment", "--comment", "chaos", "-j", "DROP")


def drop(link: Link, share: float | None) -> None:
    """Drop packets both ways without a word: a share of them, or None for all."""
    lot: Sequence[str] = ()
    if share is not None:
        lot = ("-m", "statistic", "--mode", "random", "--probability", f"{share:.3f}")
    for chain in ("INPUT", "OUTPUT"):
        link.run("iptables", "-A", chain, *lot, *_DROP)


def let_pass(link: Link) -> None:
    """Drop nothing any more."""
    link.run("iptables", "-F")


def pull(link: Link, *, is_out: bool) -> None:
    """Pull the engine's cable, or put it in again."""
    link.run("ip", "link", "set", link.inside, "down" if is_out else "up")


def slow(link: Link, delay_ms: int, loss: float, *, has_netem: bool) -> None:
    """Hold packets up and lose some, by netem; by a narrow line where the kernel lacks it."""
    if has_netem:
        rule = ["netem", "delay", f"{delay_ms}ms", f"{delay_ms // 3}ms", "loss", f"{loss:.1%}"]
    else:
        rule = ["tbf", "rate", "16mbit", "burst", "32kb", "latency", "400ms"]
    admin("tc", "qdisc", "replace", "dev", link.outside, "root", *rule)
    link.run("tc", "qdisc", "replace", "dev", link.inside, "root", *rule)


def quicken(link: Link) -> None:
    """Hold nothing up any more."""
    admin("tc", "qdisc", "del", "dev", link.outside, "root")
    link.run("tc", "qdisc", "del", "dev", link.inside, "root")


def lacks(link: Link) -> dict[str, str]:
    """Return what this machine cannot do to a link, and why."""
    out = {}
    failure = link.run("iptables", "-A", "INPUT", *_DROP)
    link.run("iptables", "-F")
    if failure is not None:
        out["drop"] = failure
    lot = ("-m", "statistic", "--mode", "random", "--probability", "0.1")
    failure = link.run("iptables", "-A", "INPUT", *lot, *_DROP)
    link.run("iptables", "-F")
    if failure is not None:
        out["loss"] = failure
    failure = link.run("tc", "qdisc", "add", "dev", link.inside, "root", "netem", "delay", "1ms")
    quicken(link)
    if failure is not None:
        out["netem"] = failure
    return out
