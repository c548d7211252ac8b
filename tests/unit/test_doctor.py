"""The doctor's reading of machines that we do not have, from what programs and files say there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hpc_galaxy import processor
from hpc_galaxy.slurm import doctor
from hpc_galaxy.slurm.doctor import Answer, Machine

KNL = """processor	: 0
model name	: Intel(R) Xeon Phi(TM) CPU 7250 @ 1.40GHz
flags		: fpu sse4_2 avx f16c fma avx2 bmi2 avx512f rdseed adx avx512pf avx512er avx512cd xsaveopt
"""
SAPPHIRE_RAPIDS = KNL.replace("Xeon Phi(TM) CPU 7250 @ 1.40GHz", "Xeon(R) Platinum 8480+").replace(
    "avx512cd", "avx512cd avx512_bf16 amx_bf16 amx_tile amx_int8"
)
GRACE = "processor\t: 0\nFeatures\t: fp asimd sve sve2 bf16 i8mm\n"
MEMINFO = "MemTotal:       98304000 kB\nMemFree:        1000 kB\nMemAvailable:   49152000 kB\n"

OPEN_MPI = "Open MPI v5.0.11, package: Open MPI user@localhost Distribution, ident: 5.0.11, repo rev: v5.0.11rc1, Sep 16, 2026 "
MPICH = "MPICH Version:      4.3.0\nMPICH Release date: Mon Feb  3 09:09:47 AM CST 2025\nMPICH ABI:          17:0:5\n"
HYDRA = "HYDRA build details:\n    Version:                                 4.3.0\n    Release Date:     Mon Feb  3 2025\n"
CRAY = "MPI VERSION    : CRAY MPICH version 8.1.28.13 (ANL base 3.4a2)\nMPI BUILD INFO : Wed Nov 15 21:00 2023\n"

# Slurm 22.05, 20.11 (stderr), and a Cray.
LIST_2205 = """MPI plugin types are...
	none
	cray_shasta
	pmi2
	pmix
specific pmix plugin versions available: pmix_v4
"""
LIST_2011 = "srun: MPI types are...\nsrun: cray_shasta\nsrun: none\nsrun: pmi2\n"


def said(**facts: object) -> Answer:
    return Answer(0, "a library's greeting\n" + json.dumps(facts) + "\n")


ABSENT = Answer(1, "", "Traceback (most recent call last):\nModuleNotFoundError: No module named 'x'\n")
COMPLETE = Machine(
    libraries={
        "torch": said(version="2.13.0+cpu", cuda=None, rocm=None, gpus=[]),
        "mpi4py": said(version="4.1.2", library=OPEN_MPI),
        "horovod": said(version="0.28.1", built={"mpi": True, "gloo": False, "nccl": False}),
        "h5py": said(version="3.16.0", hdf5="2.0.0"),
        "fitsio": said(version="1.4.2"),
        "decoder": said(compiled=True),
    },
    mpirun="/opt/bin/mpirun",
    mpirun_version="mpirun (Open MPI) 5.0.11\n\nReport bugs to ...\n",
    cpuinfo=KNL,
    meminfo=MEMINFO,
    cores=4,
    cores_of_node=272,
    srun="/usr/bin/srun",
    srun_mpi=Answer(0, LIST_2205),
    srun_version="slurm-wlm 22.05.8\n",
)


def advice(machine: Machine) -> dict[str, str]:
    return {finding.name: finding.advice for finding in doctor.examine(machine) if finding.advice}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OPEN_MPI, ("Open MPI", "5.0.11")),
        ("mpirun (Open MPI) 4.1.4\n", ("Open MPI", "4.1.4")),
        (MPICH, ("MPICH", "4.3.0")),
        (HYDRA, ("MPICH", "4.3.0")),
        (CRAY, ("Cray MPICH", "8.1.28.13")),
        ("Intel(R) MPI Library 2021.13 for Linux* OS\n", ("Intel MPI", "2021.13")),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240701\n", ("Intel MPI", "2021.13")),
        ("MVAPICH2 Version      :\t2.3.7\n", ("MVAPICH", "2.3.7")),
        ("something else", None),
    ],
)
def test_implementation(text: str, expected: tuple[str, str] | None) -> None:
    assert doctor.implementation(text) == expected


@pytest.mark.parametrize(
    ("text", "sets", "fast"),
    [
        (KNL, ["AVX2", "AVX-512"], False),
        (SAPPHIRE_RAPIDS, ["AVX2", "AVX-512", "AVX512_BF16", "AMX"], True),
        (GRACE, ["SVE", "BF16"], True),
        ("", [], False),
    ],
)
def test_instruction_sets(text: str, sets: list[str], fast: bool) -> None:
    assert processor.instruction_sets(text) == sets
    assert processor.bf16_is_fast(text) is fast


@pytest.mark.parametrize(
    ("text", "expected"), [(LIST_2205, ["none", "cray_shasta", "pmi2", "pmix"]), (LIST_2011, ["cray_shasta", "none", "pmi2"])]
)
def test_mpi_types(text: str, expected: list[str]) -> None:
    assert doctor.mpi_types(text) == expected


def test_a_complete_machine_gets_no_advice() -> None:
    values = {finding.name: finding.value for finding in doctor.examine(COMPLETE)}

    assert advice(COMPLETE) == {}
    assert values["MPI library"] == "Open MPI 5.0.11, through mpi4py 4.1.2"
    assert values["Horovod"] == "0.28.1 (built with mpi)"
    assert values["CPU"].startswith("Intel(R) Xeon Phi(TM) CPU 7250 @ 1.40GHz, 4 of 272 cores; AVX2, AVX-512; bf16 is slow")
    assert values["Memory"] == "93.8 GiB, 46.9 GiB of it available"
    assert values["Slurm"] == "22.05.8; srun --mpi=none|cray_shasta|pmi2|pmix; use --mpi=pmix for Open MPI"


def test_every_missing_piece_gets_one_line() -> None:
    bare = Machine(libraries=dict.fromkeys(doctor.PROGRAMS, ABSENT))
    given = advice(bare)

    assert set(given) == {"torch", "MPI library", "Launcher", "Horovod", "Slurm", "h5py", "fitsio", "Decoder"}
    assert all(len(line) <= 84 and "\n" not in line for line in given.values()), given


def test_a_library_that_crashes_is_not_called_missing() -> None:
    crashed = Answer(-11, "", "undefined symbol: ompi_mpi_comm_world")
    machine = replace(COMPLETE, libraries={**COMPLETE.libraries, "horovod": crashed})
    finding = doctor.horovod_finding(machine)

    assert finding.value == "does not work: undefined symbol: ompi_mpi_comm_world"
    assert "make horovod" in finding.advice


def test_the_launcher_of_another_mpi_is_found() -> None:
    assert "mpirun of Open MPI" in advice(replace(COMPLETE, mpirun_version=HYDRA))["Launcher"]


def test_launcher_and_library_of_one_family_agree() -> None:
    libraries = {**COMPLETE.libraries, "mpi4py": said(version="4.1.2", library=CRAY)}
    assert "Launcher" not in advice(replace(COMPLETE, libraries=libraries, mpirun_version=HYDRA))


def test_slurm_that_cannot_start_this_mpi() -> None:
    assert advice(replace(COMPLETE, srun_mpi=Answer(0, "", LIST_2011)))["Slurm"].startswith("none of these starts Open MPI")


def test_slurm_without_a_cluster() -> None:
    assert "node of a cluster" in advice(replace(COMPLETE, srun_mpi=Answer(1, "", "srun: fatal: no configuration")))["Slurm"]


def test_gpus_that_torch_and_horovod_cannot_use() -> None:
    machine = replace(COMPLETE, nvidia_smi=["NVIDIA A100", "NVIDIA A100"])

    assert doctor.gpu_finding(machine).value == "2 x NVIDIA A100"
    assert set(advice(machine)) == {"torch", "Horovod"}


def test_render_marks_advice() -> None:
    text = doctor.render([doctor.Finding("a", "1"), doctor.Finding("long", "2", "do this")]).plain
    assert text == "  a     1\n! long  2\n        -> do this"


def test_facts_need_json_on_the_last_line() -> None:
    assert Answer(0, "no json").facts() is None
    assert Answer(0, "").facts() is None
    assert Answer(None, error="no answer within 60 s").reason == "no answer within 60 s"
