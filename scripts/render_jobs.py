"""Write `jobs/`: the scripts of every stage on every site that has a profile, to be read and edited by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from hpc_galaxy.files import write_text
from hpc_galaxy.slurm.script import Job, render
from hpc_galaxy.slurm.site import list_sites, load_site
from hpc_galaxy.slurm.submit import CHAIN

RUN = Path("/path/to/run/run.toml")
NODES = {"extract": 50, "split": 4, "train": 64, "realism": 1}


def render_all() -> dict[str, str]:
    """Return each script by its name."""
    scripts = {}
    for name in list_sites():
        site = load_site(name)
        for stage in CHAIN:
            account = "ACCOUNT" if site.account else ""
            job = Job(stage, site, NODES[stage], "04:00:00", account, RUN)
            command = f"hpc-galaxy submit {stage} --site {name} --nodes {NODES[stage]} --time 04:00:00 -c {RUN}"
            scripts[f"{name}/{stage}.sh"] = render(job, command + (f" --account {account}" if account else ""))
    return scripts


def main() -> None:
    """Write them into the directory that is given."""
    for name, script in render_all().items():
        write_text(Path(sys.argv[1]) / name, script)


if __name__ == "__main__":
    main()
