"""Compose and check all jobs of a sweep before the first one starts, or list them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bmo_cli.config.effective import resolve_and_check
from bmo_cli.config.messages import explain_hydra_error
from bmo_cli.config.names import NAMED
from bmo_cli.config.overrides import list_overrides
from bmo_cli.config.schema import AnyConfig
from bmo_cli.errors import BmoError, InputError
from bmo_cli.jobs.dimension import Dimension
from bmo_cli.jobs.estimate import Work, list_works
from bmo_cli.jobs.search import check_search
from bmo_cli.results.result import RunResult
from bmo_cli.results.run_folder import RunFolder


@dataclass(frozen=True)
class SweepJob:
    """A job that passed its checks.

    Attributes:
        overrides: those of the job, without those that all jobs share.
        config: resolved and checked.
        choices: the choice of every group.
        folder: of the job.
    """

    overrides: tuple[str, ...]
    config: AnyConfig
    choices: dict[str, str | None]
    folder: Path


def plan_jobs(config: DictConfig, command: str, typed: Sequence[str]) -> list[SweepJob]:
    """Compose and check every job.

    Of a sweeper that chooses values itself, the jobs at the limits of its search space are checked.

    Args:
        config: of the sweep, with Hydra's section.
        command: that the jobs run.
        typed: overrides of the command line, without those recorded in a run.

    Raises:
        InputError: a job cannot run; the message names its overrides.
    """
    words_of_jobs, varied = combine_overrides(config)
    jobs = [
        _plan_job(
            config, (command, typed), number, words, [w for w in words if _key_of(w) in varied]
        )
        for number, words in enumerate(words_of_jobs)
    ]
    exact = is_basic(config.hydra.sweeper)
    if exact:
        _require_own_folders(jobs)
    _require_files(command, jobs, exact=exact)
    return jobs


def _require_files(command: str, jobs: Sequence[SweepJob], *, exact: bool) -> None:
    """Check the files of every job that is not done."""
    from bmo_cli.jobs.sweep_files import SweepFiles

    files = SweepFiles(command)
    for number, job in enumerate(jobs):
        if exact and _read_done_result(job) is not None:
            continue
        with _name_job_in_errors(number, job.overrides):
            files.require(job.config)


@contextmanager
def _name_job_in_errors(number: int, own: Sequence[str]) -> Iterator[None]:
    """Context that adds the job to the message of an error."""
    try:
        yield
    except BmoError as error:
        which = f"job {number} of the sweep, {' '.join(own) or 'as it is'}"
        raise InputError(f"{which}: {error}") from error


def _require_own_folders(jobs: Sequence[SweepJob]) -> None:
    numbers: dict[Path, int] = {}
    for number, job in enumerate(jobs):
        other = numbers.setdefault(job.folder, number)
        if other != number:
            raise InputError(
                f"jobs {other} and {number} of the sweep would share the folder {job.folder}; "
                "choose another hydra.sweep.subdir"
            )


def list_jobs(config: DictConfig, jobs: Sequence[SweepJob]) -> str:
    """A line for each job with its overrides, status and estimated time; then the total.

    Args:
        config: of the sweep, with Hydra's section.
        jobs: of the sweep; of a search those at its limits, from which the total is estimated.
    """
    exact, at_a_time = is_basic(config.hydra.sweeper), config.get("jobs", 1)
    works = [_describe_work(job, exact=exact) for job in jobs]
    if exact:
        return list_works(works, "job", 0, at_a_time)
    count = config.hydra.sweeper.get("n_trials", len(works))
    lines = list_works(works, "job", 0, at_a_time, scale=count / len(works))
    return f"{lines} (a search of {count} trials, which chooses between these limits)"


def _describe_work(job: SweepJob, *, exact: bool) -> Work:
    from bmo_cli.jobs.status import can_resume, is_done  # which imports torch

    folder, config = RunFolder(job.folder), job.config
    result = folder.read_result() if exact else None
    done = result if result is not None and is_done(result, config) else None
    if done is not None:
        state = "done"
    elif can_resume(folder, config):
        state = "goes on"
    else:
        failed = result is not None and result.status == "failed"
        state = "failed, runs again" if failed else "to run"
    learns, name = job.choices["hyper"] != "none", " ".join(job.overrides)
    return Work(name, state, done is None, config, learns, done)


def _read_done_result(job: SweepJob) -> RunResult | None:
    """The result of a job that is done, else None."""
    from bmo_cli.jobs.status import is_done  # which imports torch

    result = RunResult.read(job.folder)
    return result if result is not None and is_done(result, job.config) else None


def combine_overrides(config: DictConfig) -> tuple[list[list[str]], set[str]]:
    """The overrides of the jobs, and the keys in which they differ.

    Args:
        config: of the sweep.

    Returns:
        Every combination of values for Hydra's own sweeper. For one that chooses values itself,
        every value of a choice and both ends of a range, each with the first values of the others.
    """
    hydra = config.hydra
    given = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    parser = OverridesParser.create(config_loader=_config_loader())
    overrides = parser.parse_overrides([*given, *list_overrides(hydra.overrides.task)])
    varied = {item.get_key_element() for item in overrides if item.is_sweep_override()}
    if is_basic(hydra.sweeper):
        jobs = [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]
        return jobs, varied
    if str(hydra.sweeper["_target_"]).endswith(".bmo_search.Search"):
        check_search(config, overrides)
    values = {
        item.get_key_element(): Dimension.of(item).limits
        if item.is_sweep_override()
        else [item.get_value_element_as_str()]
        for item in overrides
    }
    return list(_vary_one_at_a_time(values)), varied


def is_basic(sweeper: Any) -> bool:
    """Whether this is Hydra's own sweeper, which runs every combination.

    Args:
        sweeper: the section `hydra.sweeper`.
    """
    return str(sweeper["_target_"]).endswith(".BasicSweeper")


def _vary_one_at_a_time(values: dict[str, list[str]]) -> Iterator[list[str]]:
    first = {key: several[0] for key, several in values.items() if several}
    yield [f"{key}={value}" for key, value in first.items()]
    for key, several in values.items():
        for value in several[1:]:
            yield [f"{k}={v}" for k, v in (first | {key: value}).items()]


def _plan_job(
    config: DictConfig,
    asked: tuple[str, Sequence[str]],
    number: int,
    words: Sequence[str],
    own: Sequence[str],
) -> SweepJob:
    """A job of the command and the overrides that the user `asked` for."""
    with _name_job_in_errors(number, own):
        composed = _compose_job(config, words)
        folder = _job_folder(config, composed, number)
        choices = {group: composed.hydra.runtime.choices.get(group) for group in NAMED}
        with open_dict(composed):
            del composed["hydra"]
        command, typed = asked
        checked = resolve_and_check(command, composed, typed)
        return SweepJob(tuple(own), checked.config, choices, folder)


def _compose_job(config: DictConfig, words: Sequence[str]) -> DictConfig:
    name, hydra = str(config.hydra.job.config_name), GlobalHydra.instance().hydra
    assert hydra is not None
    try:
        return hydra.compose_config(
            name,
            [*list_overrides(config.hydra.overrides.hydra), *words],
            run_mode=RunMode.RUN,
            with_log_configuration=False,
        )
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain_hydra_error(error, words, name)) from error


def _job_folder(config: DictConfig, composed: DictConfig, number: int) -> Path:
    """The folder in which Hydra's launchers run a job. Its name may hold the number of the job."""
    with read_write(composed.hydra), open_dict(composed.hydra.job):
        composed.hydra.job.num, composed.hydra.job.id = number, str(number)
    HydraConfig.instance().set_config(composed)
    try:
        subdir = str(OmegaConf.select(composed, "hydra.sweep.subdir"))
    finally:
        HydraConfig.instance().set_config(config)
    return Path(str(config.hydra.sweep.dir)) / subdir


def _config_loader() -> Any:
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    return hydra.config_loader


def _key_of(word: str) -> str:
    return word.split("=", 1)[0]
