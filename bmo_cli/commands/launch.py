"""Compose the configuration with Hydra, then start one run or a sweep.

This module replaces `hydra.main`, whose hooks receive the configuration alone. Here every run gets
a new folder, all jobs of a sweep are checked before the first one starts, and errors keep their
type.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra as hydra_package
from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from bmo_cli.commands.dispatch import Job
from bmo_cli.commands.invocation import NO_SWEEPS, Invocation
from bmo_cli.config.commands import format_command, quote_value, relative_to_cwd
from bmo_cli.config.help import register_help
from bmo_cli.config.locate import config_dir
from bmo_cli.config.overrides import list_overrides
from bmo_cli.config.own_files import config_dirs
from bmo_cli.config.paths import expand_home
from bmo_cli.errors import InputError, escape_unprintable, escape_unprintable_lines
from bmo_cli.results.files import write_atomically
from bmo_cli.results.folders import MadeFolder, make_unique

_HYDRA_VERSION = "1.3"
"""Version of Hydra whose defaults apply."""


def launch(invocation: Invocation, purpose: str, example: str) -> None:
    """Run a command once, or as a sweep.

    Args:
        invocation: the command line.
        purpose, example: of the command, for its help.

    Raises:
        BmoError: what went wrong.
        HydraException, OmegaConfBaseException: the configuration does not compose.
    """
    words = list(invocation.words)
    if invocation.wants_help:
        register_help(invocation.command, purpose, example, words)
        words.append("hydra/help=bmo_command")
    version.setbase(_HYDRA_VERSION)
    options = get_args_parser().parse_args(words)
    shows = (options.help, options.hydra_help, options.shell_completion, options.resolve)
    if any(shows) or options.cfg or options.info or (options.run and options.multirun):
        show_with_hydra(invocation.command, words)
        return
    app = _create_hydra(invocation.command, options.config_path, options.config_dir)
    name = options.config_name or invocation.command
    try:
        if _asks_for_sweep(app, name, options.run, invocation):
            _run_sweep(app, name, options.overrides, invocation)
        else:
            _run_once(app, name, options.overrides, invocation)
    finally:
        GlobalHydra.instance().clear()


def _asks_for_sweep(app: Hydra, name: str, run: bool, invocation: Invocation) -> bool:
    """Whether the command line or a YAML file asks for a sweep."""
    own = config_dirs(invocation.words) or any("hydra.mode" in word for word in invocation.words)
    if invocation.sweeps or run or not own:  # the shipped YAML files ask for none
        return invocation.sweeps
    overrides = [word for word in invocation.words if not word.startswith("-")]
    mode = app.get_mode(name, overrides)
    if mode == RunMode.MULTIRUN and invocation.command in NO_SWEEPS:
        raise InputError(NO_SWEEPS[invocation.command])
    return bool(mode == RunMode.MULTIRUN)


def show_with_hydra(command: str, words: Sequence[str]) -> None:
    """Let Hydra print help, a configuration or completions.

    Args:
        command: the command with this configuration.
        words: flags first, then overrides.
    """
    sys.argv = ["bmo", *words]
    main = hydra_package.main(
        version_base=_HYDRA_VERSION, config_path=str(config_dir()), config_name=command
    )
    main(_must_not_run)()


def _must_not_run(config: DictConfig) -> None:
    raise AssertionError("Hydra was asked to show something")


def _create_hydra(command: str, config_path: str | None, own: str | None) -> Hydra:
    path = create_config_search_path(config_path or str(config_dir()))
    if own is not None:
        place = f"file://{Path(own).absolute()}"
        path.prepend(provider="command-line", path=place, anchor=SearchPathQuery(provider="schema"))
    return Hydra.create_main_hydra2(task_name=command, config_search_path=path)


def _run_once(app: Hydra, name: str, overrides: Sequence[str], invocation: Invocation) -> None:
    """Run the command in a folder of its own; a resumed run keeps its folder."""
    words = [*overrides, "hydra.mode=RUN"]
    config = app.compose_config(name, words, run_mode=RunMode.RUN, with_log_configuration=True)
    callbacks, job = Callbacks(config), Job(invocation.command, invocation.typed)
    made = None
    if invocation.command not in ("restore", "table") and not isinstance(config.get("resume"), str):
        made = _make_folder(config, "hydra.run.dir")
    try:
        if made is not None and config.hydra.output_subdir == ".hydra":
            (made.path / ".hydra").mkdir()  # `bmo runs` recognises run folders by it
        callbacks.on_run_start(config=config, config_name=name)
        returned = run_job(
            hydra_context=HydraContext(config_loader=app.config_loader, callbacks=callbacks),
            task_function=job,
            config=config,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
        )
        callbacks.on_run_end(config=config, config_name=name, job_return=returned)
        if returned.status is JobStatus.FAILED:
            raise returned._return_value  # the public property would print a line of Hydra
    except Exception:
        if made is not None and not job.started:  # refused
            logging.shutdown()
            made.discard()
        raise


def _run_sweep(app: Hydra, name: str, overrides: Sequence[str], invocation: Invocation) -> None:
    """Check all jobs of a sweep, run them, and report those that failed."""
    from bmo_cli.jobs.sweep_end import rename_pickles, require_all_ok  # slow to import
    from bmo_cli.jobs.sweep_plan import list_jobs, plan_jobs

    words = [*overrides, "hydra.mode=MULTIRUN"]
    config = app.compose_config(name, words, run_mode=RunMode.MULTIRUN, with_log_configuration=True)
    HydraConfig.instance().set_config(config)  # names of folders interpolate ${hydra:...}
    callbacks, job = Callbacks(config), Job(invocation.command, invocation.typed)
    jobs = plan_jobs(config, invocation.command, invocation.typed)
    if invocation.dry_run:
        print(escape_unprintable_lines(list_jobs(config, jobs)))
        return
    if invocation.resumed is None:
        _make_sweep_folder(config)
    else:
        rename_pickles(invocation.resumed)
    callbacks.on_multirun_start(config=config, config_name=name)
    sweeper = Plugins.instance().instantiate_sweeper(
        config=config,
        hydra_context=HydraContext(config_loader=app.config_loader, callbacks=callbacks),
        task_function=job,
    )
    sweeper.sweep(arguments=list_overrides(config.hydra.overrides.task))
    job.finish()
    callbacks.on_multirun_end(config=config, config_name=name)
    require_all_ok(config)


def _make_sweep_folder(config: DictConfig) -> None:
    """Make the folder of a sweep, and record its name in the overrides from which jobs compose."""
    wanted = Path(expand_home(str(config.hydra.sweep.dir))).absolute()
    folder = _make_folder(config, "hydra.sweep.dir").path
    if folder != wanted:
        print(f"bmo: {escape_unprintable(_moved_message(wanted, folder))}", file=sys.stderr)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quote_value(folder)}")
    # Not every sweeper writes this file, from which `resume` reads the overrides of the sweep.
    write_atomically(folder / "multirun.yaml", OmegaConf.to_yaml(config).encode())


def _moved_message(wanted: Path, folder: Path) -> str:
    """The message about a sweep folder that differs from the requested one."""
    message = (
        f"{relative_to_cwd(wanted)} is there already, so that this sweep goes to "
        f"{relative_to_cwd(folder)}"
    )
    if not (wanted / "multirun.yaml").is_file():
        return message
    return f"{message}; the one there goes on with '{format_command('train', resume=wanted)}'"


def _make_folder(config: DictConfig, key: str) -> MadeFolder:
    """Make the folder that a key names, and set the key to its final name.

    Raises:
        InputError: the folder cannot be made.
    """
    HydraConfig.instance().set_config(config)  # its name interpolates ${hydra:...}
    wanted: Any = expand_home(str(OmegaConf.select(config, key)))
    try:
        if not wanted:
            raise OSError(errno.ENOENT, "its name is empty")
        made = make_unique(Path(wanted))
    except OSError as error:
        raise InputError(
            f"cannot create the output folder {wanted}: {error.strerror}; choose another with "
            f"{key}=DIR"
        ) from error
    with read_write(config.hydra), open_dict(config.hydra):
        OmegaConf.update(config, key, str(made.path))
    return made
