"""``hpc-galaxy trace``: merge what the ranks have recorded, summarise it, show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpc_galaxy.files import shown
from hpc_galaxy.tracing.draw import draw_summary
from hpc_galaxy.tracing.merge import NAME, merge
from hpc_galaxy.tracing.operators import top_operators
from hpc_galaxy.tracing.reading import RankFile, find_rank_files
from hpc_galaxy.tracing.serve import serve
from hpc_galaxy.tracing.steps import read_steps
from hpc_galaxy.tracing.summary import summarise

PICTURE = "summary.png"
NAMED = 4


def trace(directories: Sequence[Path], out: Path | None, attempt: int | None, summary: bool, port: int | None) -> None:
    """Merge the traces of one or several stages; summarise or serve them if asked to.

    Parameters
    ----------
    directories : sequence of Path
        Stages' output directories.
    out : Path, optional
        The merged trace; without it, ``trace.json.gz`` in the first stage's trace.
    attempt : int, optional
        Which start of each stage; the newest without it.
    summary : bool
        Print where the time went, and draw it as ``summary.png``.
    port : int, optional
        Serve the merged trace to a browser on this machine, until interrupted; 0: at any free port.

    Raises
    ------
    InputError, FormatError
        A directory holds no trace, or what is no trace.
    OutputError
        `out` cannot be written.
    """
    found = [find_rank_files(directory, attempt) for directory in directories]
    target = out or found[0][0] / NAME
    files = [file for _, ranks in found for file in ranks]
    merged = merge(files, target)
    ranks = f"{merged.ranks} rank{'s' * (merged.ranks != 1)}"
    print(f"trace: {ranks}, {merged.events:,} events: {shown(target)}; open it at https://ui.perfetto.dev or with --open")
    if merged.killed:
        more = f" and {len(merged.killed) - NAMED} more" if len(merged.killed) > NAMED else ""
        print(f"trace: not closed, killed or still running: {', '.join(merged.killed[:NAMED])}{more}")
    if summary:
        for folder, ranks_files in found:
            _summarise(folder, ranks_files)
    if port is not None:
        _serve(target, port)


def _summarise(folder: Path, files: Sequence[RankFile]) -> None:
    steps, operators = read_steps(files), top_operators(files)
    print("\n" + "\n".join(summarise(files, steps, operators)), flush=True)
    if steps is not None:
        draw_summary(steps, operators, folder / PICTURE)
        print(f"({shown(folder / PICTURE)})")


def _serve(target: Path, port: int) -> None:
    with serve(target, port) as server:
        number = server.server_address[1]
        tunnel = f"from elsewhere, 'ssh -L {number}:127.0.0.1:{number}' first"
        print(f"trace: http://127.0.0.1:{number} shows it, until Ctrl-C; {tunnel}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
