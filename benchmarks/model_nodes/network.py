"""Nodes with a slow network on this one machine: network namespaces, joined by a bridge, each with a link of a given rate."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc_galaxy.launch import environment, find_mpirun

AGENT = Path(__file__).with_name("agent.sh")
NODE = "hgnode"  # agent.sh knows it as well
BRIDGE, LINK = "hgbridge", "hglink"
ADDRESSES = "10.77.0"
NETWORK = f"{ADDRESSES}.0/24"
FRAME = 9000  # bytes; large frames, because shaping costs processor time by the frame
# Bytes that may pass at full speed after a pause: two frames. A bucket has to hold a tick of the rate only where the kernel wakes the queue
# by ticks; with high-resolution timers two frames are enough: of 50 Mbit/s, 6.25 MB/s, 6.19 arrive, and headers are the rest.
BURST = 2 * FRAME + 100
QUEUE = "3s"  # that a full socket buffer takes at the slowest rate, so that nothing is dropped
# Messages go off at once, whatever their size. By default TCP's large ones ask first, and the answer waits in the same queue as the other
# direction's data: what should go both ways at once then goes one way after the other.
EAGER = 16_000_000  # bytes
EAGERLY = [word for name in ("eager_limit", "rndv_eager_limit", "max_send_size") for word in ("--mca", f"btl_tcp_{name}", str(EAGER))]
BUFFER = 4 << 20  # bytes; Linux's own limit
TIMEOUT = 200  # seconds a job


def available() -> bool:
    """Return whether namespaces can be made here."""
    return os.geteuid() == 0 and all(map(shutil.which, ("ip", "tc", "unshare")))


@contextmanager
def nodes(count: int, rate: str, buffer: int) -> Iterator[None]:
    """Make nodes whose links carry `rate`, such as ``50mbit``, each way, and whose sockets hold `buffer` bytes; remove them at the end."""
    remove(count)
    try:
        _run(f"ip link add {BRIDGE} type bridge", f"ip link set {BRIDGE} up", f"ip addr add {ADDRESSES}.254/24 dev {BRIDGE}")
        for number in range(1, count + 1):
            _add(number, rate, buffer)
        yield
    finally:
        remove(count)


def remove(count: int) -> None:
    """Remove so many nodes, where they are, and the bridge."""
    links = [f"{LINK}{number}" for number in range(1, count + 1)]
    # A node takes its link with it, but later: the link's name would still be taken when the next nodes are made.
    _run(*(f"ip link del {link}" for link in [*links, BRIDGE] if Path("/sys/class/net", link).exists()))
    names = subprocess.run(["ip", "netns", "list"], text=True, capture_output=True, check=True).stdout.split()
    _run(*(f"ip netns del {NODE}{number}" for number in range(1, count + 1) if f"{NODE}{number}" in names))


def said_by_nodes(ranks: int, rate: str, argv: list[str], eagerly: bool = True, buffer: int = BUFFER) -> str:
    """Run ``python *argv`` on so many nodes, a rank and a thread each; return what they print.

    Parameters
    ----------
    ranks : int
        So many.
    rate : str
        Of each link, as ``tc`` takes it.
    argv : list of str
        The program.
    eagerly : bool
        Whether large messages go off without asking.
    buffer : int
        Bytes that a socket takes at most before they are on their way; Open MPI goes on to its next message when it has taken all of one.

    Raises
    ------
    subprocess.CalledProcessError, subprocess.TimeoutExpired
        The job failed, or took more than `TIMEOUT` seconds.
    """
    hosts = ",".join(f"{ADDRESSES}.{number}:1" for number in range(1, ranks + 1))
    options = [
        *("--prtemca", "plm_ssh_agent", str(AGENT), "--prtemca", "plm_ssh_no_tree_spawn", "1", "--prtemca", "oob_tcp_if_include", NETWORK),
        *("--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", NETWORK),
        *(EAGERLY if eagerly else ()),
        *("--host", hosts, "--map-by", "ppr:1:node", "-n", str(ranks)),
    ]
    command = [find_mpirun() or "mpirun", *options, sys.executable, *argv]
    with nodes(ranks, rate, buffer):
        return _run_job(command, environment(ranks) | {"OMP_NUM_THREADS": "1"})


def _run_job(command: list[str], variables: dict[str, str]) -> str:
    """Return what a job prints; end all of it if it takes too long."""
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=variables) as job:
        try:
            output, _ = job.communicate(timeout=TIMEOUT)
        except BaseException:
            job.terminate()  # upon which mpirun ends its ranks
            raise
    if job.returncode:
        raise subprocess.CalledProcessError(job.returncode, command)
    return output


def _add(number: int, rate: str, buffer: int) -> None:
    node, outside = f"{NODE}{number}", f"{LINK}{number}"
    shape = f"root tbf rate {rate} burst {BURST} latency {QUEUE}"
    _run(
        f"ip netns add {node}",
        f"ip link add {outside} mtu {FRAME} type veth peer name eth0 mtu {FRAME} netns {node}",
        f"ip link set {outside} master {BRIDGE} up",
        f"ip -n {node} addr add {ADDRESSES}.{number}/24 dev eth0",
        f"ip -n {node} link set lo up",
        f"ip -n {node} link set eth0 up",
        # What most clusters use; others, such as BBR, take the first messages for the speed of the link.
        f"ip -n {node} route replace {NETWORK} dev eth0 src {ADDRESSES}.{number} congctl cubic",
        # A pause of a computation's length is no reason to begin slowly again.
        f"ip netns exec {node} sysctl -qw net.ipv4.tcp_slow_start_after_idle=0",
        f"ip netns exec {node} sysctl -qw 'net.ipv4.tcp_wmem=4096 16384 {buffer}'",
        f"tc -n {node} qdisc add dev eth0 {shape}",  # the node's way out
        f"tc qdisc add dev {outside} {shape}",  # and in
    )


def _run(*commands: str) -> None:
    for command in commands:
        subprocess.run(shlex.split(command), check=True)
