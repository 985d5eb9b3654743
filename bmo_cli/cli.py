"""The console script `bmo`: the first word chooses the command, everything after it is Hydra.

Nothing here imports torch or Hydra before it is needed: `bmo --help` is instant and a mistake in
a configuration is reported without waiting for either.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bmo_cli import __version__
from bmo_cli.config.own_files import CONFIG_DIR_FLAGS, config_dirs, require_free_names
from bmo_cli.config.paths import at_home
from bmo_cli.errors import (
    BmoError,
    InputError,
    Interrupted,
    exits_as_errors,
    nearest,
    printable,
    wrap_os_error,
    wrap_resource_error,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMANDS = {
    "train": (
        "train and hyper-train a scheme on a task, evaluate it, write a run folder",
        "bmo train task=deconv hyper=bmo seed=1",
    ),
    "eval": (
        "evaluate a trained run, on other data or noise if you like",
        "bmo eval run=outputs/DATE/RUN eval.iterations=20 task.noise=2",
    ),
    "certify": (
        "say whether a trained run converges, and which assumptions of the theory it meets",
        "bmo certify run=outputs/DATE/RUN",
    ),
    "restore": (
        "restore a blurred photograph of your own with a trained run",
        "bmo restore run=outputs/DATE/RUN input=blurred.png kernel=kernel.png output=sharp.png "
        "boundary=pad",
    ),
    "audit": (
        "check every hyper-gradient against finite differences, every operator against its norm",
        "bmo audit problem=convex",
    ),
    "table": (
        "run what a table of methods and problems lacks, then write it",
        "bmo table toy preset=cpu root=DATA jobs=2     (first with dry_run=true: how long?)",
    ),
}
OF_RUNS = {
    "runs": (
        "list runs: status, task, scheme, score, age",
        "bmo runs outputs status=failed,killed     (--csv: all metrics)",
    ),
    "compare": (
        "means, intervals, differences of equal seeds, effects of what was swept, cost",
        "bmo compare outputs/DATE/SWEEP against=hyper=unrolled     (--csv)",
    ),
    "report": (
        "write one HTML page about runs: which is best, did it converge, curves, images",
        "bmo report outputs/DATE/SWEEP output=report.html",
    ),
}
"""Commands about runs that are there: folders and filters, without Hydra."""
_FLAGS_WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
}
_FLAGS = _FLAGS_WITH_VALUE | {
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--info", "-i", "--shell-completion", "-sc"),
}
_DRY_RUN = "--dry-run"
_NO_NAMES = {"nan", "inf", "true", "false", "null"}
_ONLY_SHOW = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i"}
SHELLS = ("bash", "zsh", "fish")


def usage() -> str:
    """What `bmo` and `bmo --help` print."""
    lines = ["bmo: an experiment runner for optimisation-derived learning", ""]
    lines += ["usage: bmo COMMAND [KEY=VALUE ...]", "", "commands"]
    for name, (purpose, example) in {**COMMANDS, **OF_RUNS}.items():
        lines += [f"  {name:<9}{purpose}", f"{'':11}{example}"]
    lines += [
        "",
        "bmo COMMAND --help lists the choices of every group and the keys; --cfg job prints the",
        "configuration; -m sweeps over comma-separated values (bmo train -m seed=0,1,2).",
        f'Shell completion: eval "$(bmo -sc install={SHELLS[0]})" ({", ".join(SHELLS)})',
    ]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the console script."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        _command(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_gone()
    except (BmoError, OSError) as error:
        if wants_traceback:
            raise
        if isinstance(error, OSError):  # of the output
            _silence()
            error = wrap_os_error(error)
        _stop(error)


def _command(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
    elif words[0] in ("-V", "--version"):
        print(f"bmo {__version__}")
    elif words[0] in ("-sc", "--shell-completion", "--shell_completion"):
        _completion(words)
    elif words[0] in COMMANDS:
        _run(words[0], words[1:])
    elif words[0] in OF_RUNS:
        print(_said(words[0], words[1:]))
    else:
        known = [*COMMANDS, *OF_RUNS]
        hint = nearest(words[0], known) or f"; commands: {', '.join(known)}"
        raise InputError(f"unknown command '{words[0]}'{hint}")


def _said(command: str, words: Sequence[str]) -> str:
    """What a command about runs answers."""
    if command == "runs":
        from bmo_cli.results import runs

        return runs.USAGE if _wants_help(words) else runs.list_runs(words)
    if command == "compare":
        from bmo_cli.report import summary

        return summary.USAGE if _wants_help(words) else summary.summary(words)
    from bmo_cli.report import page

    return page.USAGE if _wants_help(words) else page.write_report(words)


def _wants_help(words: Sequence[str]) -> bool:
    return bool({"--help", "-h"} & set(words))


def _reader_gone() -> NoReturn:
    """`bmo ... | head`: leave quietly."""
    _silence()
    raise SystemExit(141) from None


def _silence() -> None:
    """What is still to be printed has no place; Python would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(command: str, words: Sequence[str]) -> None:
    # Idle OpenMP threads otherwise spin for milliseconds, which hurts every other job on the
    # machine; not spinning at all makes each operation wait until its threads have woken up.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    logging.raiseExceptions = False  # a log that cannot be written is no reason to stop
    # Makes Hydra hand its exceptions to us, instead of printing a traceback of its own.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    overrides, dry_run = list(words), False
    try:
        if command != "table" and _DRY_RUN in words:
            words, dry_run = [word for word in words if word != _DRY_RUN], True
        _require_single(command, words)
        words = overrides = (_table_named if command == "table" else _flags_first)(words)
        require_free_names(words)
        words = overrides = _readable(words)
        overrides = _with_recorded(command, words)
        _hydra(command, overrides, typed=list(words), dry_run=dry_run)
    except KeyboardInterrupt:
        print("\nbmo: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except (BmoError, BrokenPipeError):
        raise
    except Exception as error:
        raise _translated(error, overrides, command) from error


_NO_SWEEPS = {
    "table": "bmo table runs its cells itself, without -m; see table.rows",
    "restore": "bmo restore works on one photograph at a time, without -m",
}
_SWEEPS = {"-m", "--multirun", "hydra.mode=MULTIRUN"}


def _require_single(command: str, words: Sequence[str]) -> None:
    """Refuse a sweep of a command that has none."""
    if command in _NO_SWEEPS and _SWEEPS & set(words):
        raise InputError(_NO_SWEEPS[command])


def _table_named(words: Sequence[str]) -> list[str]:
    """`bmo table NAME task=TASK` as Hydra's `table=NAME only=TASK`."""
    words = _flags_first(["dry_run=true" if word == _DRY_RUN else word for word in words])
    found = [
        f"table={word}"
        if re.fullmatch(r"\w[\w-]*", word)
        else re.sub(r"^task=", "only=", word)  # a group of its own, which a table has not
        for word in words
    ]
    shows = any(word in _ONLY_SHOW for word in words)
    if not shows and not any(word.startswith("table=") for word in found):
        from bmo_cli.config.locate import choices

        names = ", ".join(choices(config_dirs(words), ("table",))["table"])
        raise InputError(f"name a table: bmo table NAME, with NAME one of {names}")
    return found


def _hydra(
    command: str, overrides: Sequence[str], typed: Sequence[str], *, dry_run: bool = False
) -> None:
    import hydra

    from bmo_cli.config.help import register_help
    from bmo_cli.config.locate import config_dir
    from bmo_cli.jobs.invocation import present

    if "--help" in overrides or "-h" in overrides:
        register_help(command, *COMMANDS[command], overrides)
        overrides = [*overrides, "hydra/help=bmo_command"]
    if dry_run and not _SWEEPS & set(overrides):
        raise InputError(
            "--dry-run lists the jobs of a sweep (-m, or resume=SWEEP) or the cells of a table; "
            "--cfg job shows the configuration of a run"
        )
    sys.argv = ["bmo", *overrides]
    failures: list[Exception] = []
    present.dry_run, present.typed = dry_run, tuple(word for word in typed if word[0] != "-")
    job = _job(command, present.typed, failures)
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)(job)()
    if failures:
        raise failures[0]


def _job(
    command: str, typed: Sequence[str], failures: list[Exception]
) -> Callable[[DictConfig], Any]:
    """The function that Hydra calls with the composed configuration.

    The error of a single run is handed back in `failures`, past Hydra, which would print a line of
    its own. In a sweep Hydra would stop at it: there it is recorded in the job's folder, and the
    sweep's end tells of it.
    """

    def job(config: DictConfig) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from bmo_cli.commands.dispatch import run_job

        try:
            with exits_as_errors():
                return run_job(command, config, typed)
        except Interrupted as error:
            _stop(error)  # leaves Hydra as well: a sweep does not go on with its next job
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return math.nan  # what a sweeper takes as a failed trial
            failures.append(error)

    return job


def _flags_first(words: Sequence[str]) -> list[str]:
    """Hydra's parser wants its flags before or after all overrides; users mix them."""
    flags: list[str] = []
    rest = iter(words)
    overrides = []
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        if word.split("=")[0] not in _FLAGS:
            hint = nearest(word, {*_FLAGS, _DRY_RUN}) or "; see bmo --help"
            raise InputError(f"unknown flag '{word}'{hint}")
        flag, equals, value = word.partition("=")
        if flag in _FLAGS_WITH_VALUE:
            following = value if equals else next(rest, None)
            if not following:
                raise InputError(f"{flag} is given without a value: {flag} VALUE")
            word = f"{flag}={at_home(following) if flag in CONFIG_DIR_FLAGS else following}"
        flags.append(word)
    return flags + overrides


def _readable(words: Sequence[str]) -> list[str]:
    from bmo_cli.config.typed import readable  # which imports Hydra

    return readable(words)


def _with_recorded(command: str, words: list[str]) -> list[str]:
    """`eval`, `restore` and a resumed `train` start from what was typed for the run they name."""
    if not any("=" in word for word in words):
        return words
    from bmo_cli.config.commands import quoted
    from bmo_cli.config.snapshot import (
        combine,
        recorded_overrides,
        recorded_sweep,
        refuse_changes_of_a_sweep,
    )
    from bmo_cli.config.typed import text_of

    key = "resume" if command == "train" else "run"
    folder = text_of(words, key)
    if folder is None:
        return words
    sweep = None
    if command == "train":  # the others write elsewhere
        from bmo_cli.results.run_folder import require_closed

        require_closed(Path(folder))
        sweep = recorded_sweep(Path(folder))
    if sweep is not None:
        from bmo_cli.jobs.invocation import present

        refuse_changes_of_a_sweep(words)
        present.resumed = Path(folder).absolute()
        typed = [word for word in words if not word.startswith("resume=")]
        where = f"hydra.sweep.dir={quoted(Path(folder).absolute())}"
        for text in sweep.left_out:
            key = text.split("=", 1)[0]
            if any(word.startswith(f"{key}=") for word in words):
                continue
            if key == "hydra.sweep.subdir":
                raise InputError(f"{folder} was started with {text}; its jobs are there: type it")
            print(
                f"bmo: not taken from {folder}: {printable(text)} (type it again, if you trust it)",
                file=sys.stderr,
            )
        return _flags_first([*combine(sweep.overrides, typed), where, "--multirun"])
    if command == "train" and _SWEEPS & set(words):
        raise InputError(
            f"{folder} is no sweep, and a run goes on alone: leave out -m; a sweep goes on with "
            "resume=SWEEP"
        )
    own_choices = bool(config_dirs(words))
    recorded = recorded_overrides(Path(folder), all_of_them=own_choices)
    # A resumed run goes on in its folder; its snapshot is only replaced once it is known to work.
    here = [f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]
    return _flags_first(combine(recorded, words) + (here if command == "train" else []))


def _translated(error: Exception, overrides: Sequence[str], command: str) -> BmoError:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from bmo_cli.config.locate import GROUPS

    if str(error).startswith("Unable to configure handler") and isinstance(
        error.__cause__, Exception
    ):
        error = error.__cause__  # of a log, where it cannot be written
    found = wrap_resource_error(error)
    if isinstance(found, BmoError):
        return found
    if isinstance(error, ValueError) and str(error).startswith("Only one of --"):
        return InputError(str(error))
    if isinstance(error, TypeError | ValueError):  # of Hydra, where a group is given no name
        for word in overrides:
            key, _, value = word.lstrip("+~").partition("=")
            named = re.fullmatch(r"[A-Za-z_][\w/-]*", value)
            if key in GROUPS and (not named or value.lower() in _NO_NAMES):
                return InputError(
                    f"'{word}': a group takes the name of a choice; "
                    f"'bmo {command} --help' lists the choices"
                )
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return wrap_os_error(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        detail = " ".join(str(error).split())
        return BmoError(
            f"internal error: {type(error).__name__}: {detail} "
            "(HYDRA_FULL_ERROR=1 shows the traceback)"
        )
    from bmo_cli.config.locate import config_dir
    from bmo_cli.config.messages import one_line

    return InputError(one_line(error, overrides, command, config_dir()))


def _completion(words: Sequence[str]) -> None:
    """Hydra completes `bmo KEY=VALUE`; the command in between is taken out of the line it sees."""
    line = os.environ.get("COMP_LINE", "")
    parts = line.split(maxsplit=2)
    command = parts[1] if len(parts) > 1 and parts[1] in COMMANDS else None
    query = len(words) > 1 and words[1].startswith("query")
    if query and command is None:
        word = parts[1] if len(parts) > 1 else ""
        print(" ".join(name for name in [*COMMANDS, *OF_RUNS] if name.startswith(word)))
        return
    if command is not None:
        rest = line.split(command, 1)[1].lstrip()
        os.environ["COMP_LINE"] = f"{parts[0]} {rest}"
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    _hydra(command or "train", list(words), typed=[])


def _stop(error: BmoError) -> NoReturn:
    print(f"bmo: {printable(str(error))}", file=sys.stderr)
    raise SystemExit(error.exit_code)
