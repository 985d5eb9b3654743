"""The console script `bmo`: the first word chooses the command, Hydra reads the others.

Nothing here imports torch or Hydra before it is needed. `bmo --help` is therefore instant, and a
mistake in a configuration is reported without waiting for the imports.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from bmo_cli import __version__
from bmo_cli.errors import (
    BmoError,
    InputError,
    Interrupted,
    SweepFailed,
    escape_unprintable,
    suggest_nearest,
    wrap_os_error,
)

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
        "run the cells that a table of methods and problems lacks, then write the table",
        "bmo table toy preset=cpu root=DATA jobs=2     (first with dry_run=true: how long?)",
    ),
}
RUN_COMMANDS = {
    "runs": (
        "list runs: status, task, scheme, score, age",
        "bmo runs outputs status=failed,killed     (--csv: all metrics)",
    ),
    "compare": (
        "means, intervals, differences over equal seeds, effects of the swept keys, cost",
        "bmo compare outputs/DATE/SWEEP against=hyper=unrolled     (--csv)",
    ),
    "report": (
        "write one HTML page about runs: which is best, did it converge, curves, images",
        "bmo report outputs/DATE/SWEEP output=report.html",
    ),
}
"""Commands that read existing runs. They take folders and filters, without Hydra."""
SHELLS = ("bash", "zsh", "fish")


def usage() -> str:
    """The text that `bmo` and `bmo --help` print."""
    lines = ["bmo: an experiment runner for optimisation-derived learning", ""]
    lines += ["usage: bmo COMMAND [KEY=VALUE ...]", "", "commands"]
    for name, (purpose, example) in {**COMMANDS, **RUN_COMMANDS}.items():
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
        _dispatch(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        _exit_on_broken_pipe()
    except (BmoError, OSError) as error:
        if wants_traceback and not isinstance(error, Interrupted | SweepFailed):
            raise
        if isinstance(error, OSError):  # of writing to stdout
            _discard_output()
            error = wrap_os_error(error)
        _exit_with_message(error)


def _dispatch(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
    elif words[0] in ("-V", "--version"):
        print(f"bmo {__version__}")
    elif words[0] in ("-sc", "--shell-completion", "--shell_completion"):
        _complete(words)
    elif words[0] in COMMANDS:
        _run_with_hydra(words[0], words[1:])
    elif words[0] in RUN_COMMANDS:
        print(_query_runs(words[0], words[1:]))
    else:
        known = [*COMMANDS, *RUN_COMMANDS]
        hint = suggest_nearest(words[0], known) or f"; commands: {', '.join(known)}"
        raise InputError(f"unknown command '{words[0]}'{hint}")


def _query_runs(command: str, words: Sequence[str]) -> str:
    """The output of a command that reads existing runs."""
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


def _exit_on_broken_pipe() -> NoReturn:
    """Exit with 141 and no message, as in `bmo ... | head`."""
    _discard_output()
    raise SystemExit(141) from None


def _discard_output() -> None:
    """Discard buffered output: nobody reads it, and Python would report an error when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_with_hydra(command: str, words: Sequence[str]) -> None:
    # Idle OpenMP threads spin for milliseconds by default, which slows other jobs on the machine.
    # Without any spinning, every operation would wait until its threads have woken up.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    logging.raiseExceptions = False  # a log that cannot be written does not end the command
    # Hydra then raises its exceptions instead of printing a traceback and exiting.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    overrides = tuple(words)
    try:
        from bmo_cli.commands.invocation import read_invocation

        invocation = read_invocation(command, words)
        overrides = invocation.words
        for line in invocation.warnings:
            print(f"bmo: {escape_unprintable(line)}", file=sys.stderr)
        from bmo_cli.commands.launch import launch

        launch(invocation, *COMMANDS[command])
    except KeyboardInterrupt:
        print("\nbmo: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except (BmoError, BrokenPipeError):
        raise
    except Exception as error:
        from bmo_cli.config.messages import convert_to_bmo_error

        raise convert_to_bmo_error(error, overrides, command) from error


def _complete(words: Sequence[str]) -> None:
    """Complete words. Hydra completes `bmo KEY=VALUE`, so the command is removed from its line."""
    line = os.environ.get("COMP_LINE", "")
    parts = line.split(maxsplit=2)
    command = parts[1] if len(parts) > 1 and parts[1] in COMMANDS else None
    query = len(words) > 1 and words[1].startswith("query")
    if query and command is None:
        word = parts[1] if len(parts) > 1 else ""
        print(" ".join(name for name in [*COMMANDS, *RUN_COMMANDS] if name.startswith(word)))
        return
    if command is not None:
        rest = line.split(command, 1)[1].lstrip()
        os.environ["COMP_LINE"] = f"{parts[0]} {rest}"
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    from bmo_cli.commands.launch import show_with_hydra

    show_with_hydra(command or "train", words)


def _exit_with_message(error: BmoError) -> NoReturn:
    print(f"bmo: {escape_unprintable(str(error))}", file=sys.stderr)
    raise SystemExit(error.exit_code)
