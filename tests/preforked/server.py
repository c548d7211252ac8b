"""Import everything once, then fork a process for each client: ``server.py SOCKET CLIENT``.

SOCKET appears when clients may come. It ends when its standard input does.
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import sys
import traceback
import types
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hpc_galaxy.ending import end_with

# What a stage imports at its beginning and at its end. Nothing that starts MPI: a forked process has to do that itself.
MODULES = (
    "torch",
    "torch._dynamo",
    "torch.distributed.run",
    "matplotlib.pyplot",
    "tensorboardX",
    "hpc_galaxy.cli",
    "hpc_galaxy.bricks.survey",
    "hpc_galaxy.injection.inject",
    "hpc_galaxy.cutouts.extract",
    "hpc_galaxy.splits.split",
    "hpc_galaxy.splits.audit.audit",
    "hpc_galaxy.training.train",
    "hpc_galaxy.training.run",
    "hpc_galaxy.training.predict",
    "hpc_galaxy.realism.report",
    "hpc_galaxy.realism.html.build",
)
INTEGER = struct.Struct("=i")
STREAMS = 3


class Request(NamedTuple):
    """What a client has handed over."""

    ignored: list[int]
    argv: list[str]
    environ: dict[bytes, bytes]
    files: list[int]  # the standard streams and the directory


def receive(connection: socket.socket) -> Request:
    """Read what a client sends."""
    begin, files, _, _ = socket.recv_fds(connection, INTEGER.size, STREAMS + 1)
    if len(begin) < INTEGER.size:
        raise EOFError
    (length,) = INTEGER.unpack(begin)
    content = b""
    while len(content) < length:
        part = connection.recv(length - len(content))
        if not part:
            raise EOFError
        content += part
    ignored, count, *rest = content.split(b"\0")[:-1]
    argv, variables = rest[: int(count)], rest[int(count) :]
    environ = dict(variable.split(b"=", 1) for variable in variables)
    return Request([int(number) for number in ignored.split()], [*map(os.fsdecode, argv)], environ, files)


class Server:
    """Forks, and tells each client how its process has ended."""

    def __init__(self, path: str) -> None:
        self.clients: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{path}.new")
        self.listener.listen(64)
        Path(f"{path}.new").rename(path)  # whoever sees it finds somebody who listens
        self.ended, told = socket.socketpair()
        for each in (self.ended, told):
            each.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(told.fileno())
        self.told = told
        self.selector.register(self.listener, selectors.EVENT_READ, self.begin)
        self.selector.register(self.ended, selectors.EVENT_READ, self.reap)
        self.selector.register(sys.stdin, selectors.EVENT_READ, self.leave)

    def serve(self) -> Request:
        """Return, in a new process, what it has to do."""
        while True:
            for key, _ in self.selector.select():
                request = key.data()
                if request is not None:
                    return request

    def begin(self) -> Request | None:
        """Fork for a client."""
        connection, _ = self.listener.accept()
        try:
            request = receive(connection)
        except (EOFError, OSError):  # it was killed meanwhile
            connection.close()
            return None
        process = os.fork()
        if not process:
            return request
        for file in request.files:
            os.close(file)
        self.clients[process] = connection
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.lose(process))
        self.tell(connection, process)
        return None

    def tell(self, connection: socket.socket, number: int) -> None:
        """Send a number to a client, if it is still there."""
        with suppress(OSError):
            connection.sendall(INTEGER.pack(number))

    def reap(self) -> None:
        """Tell the clients of all processes that have ended."""
        with suppress(BlockingIOError):
            self.ended.recv(4096)
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                process, status = ended
                connection = self.clients.pop(process)
                self.tell(connection, status)
                with suppress(KeyError):
                    self.selector.unregister(connection)
                connection.close()

    def lose(self, process: int) -> None:
        """A client was killed, or has nothing more to wait for."""
        connection = self.clients.get(process)
        if connection is not None:
            self.selector.unregister(connection)
            os.kill(process, signal.SIGKILL)

    def leave(self) -> None:
        """End with whoever has started the server."""
        for process in self.clients:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        os._exit(0)

    def close(self) -> None:
        """Leave nothing of the server in a new process."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.selector.close()
        for each in (self.listener, self.ended, self.told, *self.clients.values()):
            each.close()


def become(request: Request, client: str) -> None:
    """Be what the client stands for."""
    os.setsid()
    os.fchdir(request.files[STREAMS])
    for number, stream in enumerate(request.files[:STREAMS]):
        os.dup2(stream, number)
    for file in request.files:
        os.close(file)
    for name in list(os.environb):
        del os.environb[name]
    os.environb.update(request.environ)
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    random.seed()
    sys.executable = client  # what it starts is preforked as well


def run(argv: list[str]) -> None:
    """Do what ``python ARGV`` does."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    what, *rest = argv
    sys.argv = argv if what[0] != "-" else [what, *rest[1:]]
    if what == "-m":
        sys.path[0] = str(Path.cwd())
        runpy._run_module_as_main(rest[0])
        return
    command = what == "-c"
    sys.path[0] = "" if command else str(Path(what).resolve().parent)
    exec(compile(rest[0] if command else Path(what).read_text(), "<string>" if command else what, "exec"), module.__dict__)


def run_and_tell(argv: list[str]) -> None:
    """Do it, and show an error without what is below it here."""
    try:
        run(argv)
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise SystemExit(1) from None


def main(path: str, client: str) -> None:
    """Serve; in a forked process, do the client's work."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError:  # what a process then needs it will import, or miss, itself
            traceback.print_exc()
    gc.collect()
    gc.freeze()  # the collector leaves the pages that processes share
    server = Server(path)
    request = server.serve()
    server.close()
    become(request, client)
    end_with(lambda: run_and_tell(request.argv))


if __name__ == "__main__":
    main(*sys.argv[1:])
