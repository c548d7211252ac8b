"""Stands for a Python that has imported everything already, see `preforked`.

It hands its arguments, environment, directory, standard streams and ignored signals to the server, which forks a process for them; passes
signals on to that process, and ends as that one ends. Where it is killed itself, the server kills that one as well. What it cannot hand
over it starts in the usual way.
"""

import os
import signal
import socket
import struct
import sys
from contextlib import suppress

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)
INTEGER = struct.Struct("=i")


def asked() -> list[str]:
    """Return the arguments, if they name a module, a command or a file; with -u before them, as torchrun gives it, as well."""
    argv = sys.argv[2:] if sys.argv[1:2] == ["-u"] else sys.argv[1:]
    return argv if argv and (argv[0] in ("-m", "-c") or argv[0][0] != "-") else []


def connect() -> socket.socket | None:
    """Reach the server, if it is there."""
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(os.environ["PREFORKED_SOCKET"])
    except (KeyError, OSError):
        return None
    return server


def hand_over(server: socket.socket, argv: list[str], ignored: list[int]) -> None:
    """Send what the process has to be: fields, each ended by a NUL, standard streams and the directory."""
    fields = [" ".join(map(str, ignored)), str(len(argv)), *argv]
    variables = [name + b"=" + value for name, value in os.environb.items()]
    text = b"".join(field + b"\0" for field in [*map(os.fsencode, fields), *variables])
    socket.send_fds(server, [INTEGER.pack(len(text))], [0, 1, 2, os.open(".", os.O_RDONLY)])
    server.sendall(text)


def receive(server: socket.socket) -> int:
    """Read a number from the server."""
    said = server.recv(INTEGER.size, socket.MSG_WAITALL)
    if len(said) < INTEGER.size:
        sys.exit("preforked: the server has ended")
    return INTEGER.unpack(said)[0]


def pass_on(process: int, number: int) -> None:
    """Send the process a signal, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(process, number)


def end_as(status: int) -> None:
    """End by the signal or with the code of the process."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def main() -> None:
    """Hand over, wait, and end in the same way."""
    argv = asked()
    server = connect() if argv else None
    if server is None:
        fresh = os.environ["PREFORKED_PYTHON"]
        os.execv(fresh, [fresh, *sys.argv[1:]])
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    ignored = [int(number) for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN]
    hand_over(server, argv, ignored)
    process = receive(server)
    with open("/proc/self/comm", "w") as name:
        name.write(f"for {process}")  # by which others find the process
    for number in set(PASSED_ON).difference(ignored):
        signal.signal(number, lambda number, _: pass_on(process, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    end_as(receive(server))


main()
