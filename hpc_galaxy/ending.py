"""How ``hpc-galaxy`` ends: at once, when everybody who waits for its end has been told."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable


def end_with(program: Callable[[], object]) -> None:
    """Run `program` and end the process with the exit code that it asks for by `SystemExit`, or 0. Does not return.

    Python would go on to take apart, one by one, the million objects that torch brings (benchmarks/bench_start.py). What ends here as it
    always does: threads are waited for, functions registered with `atexit` called (MPI's and Horovod's end are among them), and what was
    printed goes out. The processes of Python's `multiprocessing` end in this way as well.

    Parameters
    ----------
    program : callable
        What it raises besides `SystemExit` is raised, and Python ends the process.
    """
    code = 0
    try:
        program()
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            raise  # it is a message, which Python prints
        code = leaving.code or 0
    if sys.getprofile() or sys.gettrace():  # a profiler or a debugger has something to say afterwards
        raise SystemExit(code)
    threading._shutdown()  # type: ignore[attr-defined]  # as Python calls it before all else
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads them any more: Python has its own end for that
        raise SystemExit(code) from None
    os._exit(code)
