"""Every error a user can meet. Each says where, what (got and expected), and what to do next."""

from __future__ import annotations

from pathlib import Path


class HpcGalaxyError(Exception):
    """A problem the user can solve; shown as one line, without a traceback.

    Parameters
    ----------
    where : str or Path
        The file, configuration key or launch that is at fault.
    problem : str
        What is wrong: what was found and what was expected.
    remedy : str
        What to do next.
    """

    exit_code = 1

    def __init__(self, where: str | Path, problem: str, remedy: str) -> None:
        self.where, self.problem, self.remedy = str(where), problem, remedy
        super().__init__(f"{where}: {problem}; {remedy}")

    def __reduce__(self) -> tuple[type[HpcGalaxyError], tuple[str, str, str]]:
        return type(self), (self.where, self.problem, self.remedy)


class ConfigError(HpcGalaxyError):
    """The configuration has an unknown key or a value of the wrong kind."""

    exit_code = 2


class LaunchError(HpcGalaxyError):
    """The job was started in a way that cannot work (for example N copies of rank 0)."""

    exit_code = 3


class InputError(HpcGalaxyError):
    """An input file is missing, unreadable, or not what its name promises."""


class OutputError(HpcGalaxyError):
    """A file cannot be written: no permission, no space, no quota."""


class FormatError(HpcGalaxyError):
    """A file written by this package is damaged, incomplete or of another version."""


class StaleOutputError(HpcGalaxyError):
    """An output exists already and was written with another configuration."""


class StageError(HpcGalaxyError):
    """A stage went through its work list, and some of it failed."""


class PreemptedError(HpcGalaxyError):
    """A signal has asked for an end; everything is saved, and the same command continues."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again
