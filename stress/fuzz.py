"""Throw damaged and hostile input at bmo: .venv/bin/python stress/fuzz.py [PART ...].

Parts, with the number of cases: overrides (2000), images (2000), checkpoints (500), configs (200).
Every case runs in a forked process with limits on memory and time, in a scratch folder. It has to
end well, or with the exit code of a mistake and one line; a traceback, a hang, a crash, code that
was run or a file outside the run folder counts as bad, and is printed with what caused it. Exit
code 1 if anything was bad. --seed changes the cases, --cases their number.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import resource
import signal
import string
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

import bmo_cli.cli
import bmo_cli.commands.dispatch
import bmo_cli.commands.evaluate
import bmo_cli.experiment.certificate_report
import bmo_cli.training.run
from bmo_cli.config.locate import GROUPS, choices
from bmo_cli.data.images.file import read_image, write_image
from bmo_cli.data.images.photograph import Photograph
from bmo_cli.errors import InputError
from bmo_cli.experiment.checkpoint import load_checkpoint
from bmo_cli.nets.dncnn import DnCNN

SECONDS, BYTES = 60, 12 * 2**30
TINY = [
    *("debug=tiny", "device=cpu", "data.crop=16", "data.eval_crop=24", "net=dncnn", "net.width=4"),
    *("net.depth=2", "hyper=bmo", "task.kernel_count=2", "task.kernel_size=5", "train.steps=1"),
    *("train.validate_every=1", "eval.images=0", "eval.test=false"),
]


@dataclass(frozen=True)
class Ended:
    """How a case ended: its exit code (None: killed by the time limit) and what it said."""

    code: int | None
    said: str


def isolated(work: Callable[[], object], folder: Path, seconds: float = SECONDS) -> Ended:
    """Run something in a fork of this process, standing in `folder`."""
    log = folder.parent / f"{folder.name}.log"
    process = os.fork()
    if process == 0:
        code = 99
        try:
            os.setsid()
            os.chdir(folder)
            resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
            for number, file in ((1, os.devnull), (2, str(log))):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            code = None
            break
        time.sleep(0.002)
    said = log.read_text(errors="replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    return Ended(code, said)


def command(words: list[str]) -> Callable[[], None]:
    """`bmo WORDS`."""

    def run() -> None:
        sys.argv = ["bmo", *words]
        bmo_cli.cli.main()

    return run


def fault_of(ended: Ended, allowed: tuple[int, ...] = (0, 2, 3)) -> str:
    """What is wrong with the way a command ended; nothing if it ended as promised."""
    if ended.code is None:
        return "did not end"
    if "Traceback" in ended.said:
        return "a traceback"
    if ended.code not in allowed:
        return f"exit code {ended.code}"
    lines = ended.said.splitlines()
    if ended.code == 2 and (len(lines) != 1 or not lines[0].startswith("bmo: ")):
        return f"{len(lines)} lines instead of one"
    return ""


# --- overrides ------------------------------------------------------------------------------------


def _keys() -> list[str]:
    from hydra import compose, initialize_config_dir
    from omegaconf import DictConfig

    from bmo_cli.config.locate import config_dir

    def leaves(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in node:
            child = node._get_node(key)
            yield f"{prefix}{key}"
            if isinstance(child, DictConfig) and not child._is_none():
                yield from leaves(child, f"{prefix}{key}.")

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return [*leaves(compose("train", []), ""), *GROUPS]


def _value(draw: random.Random) -> str:
    letters = string.printable + "äß漢\u202e\x00\x07"
    numbers = ["0", "-1", "1e400", "nan", "-inf", "1e-320", "10**9", "1_000", "0x10", "99999999999"]
    texts = ["null", "true", "", "''", "~", "[]", "{}", "???", "a=b", "[1,[2,[3]]]", "{a:{b:1}}"]
    texts += ["${seed}", "${x}", "${oc.env:HOME}", "${hydra:a}", "${", "../../etc", "/dev/zero"]
    texts += ["${now:%Y}", "${train}", "{_target_:os.system}", "os.system", "bmo_cli.nets.dncnn.X"]
    texts += ["/dev/stdin", "a,b", "range(3)", "choice(1,2)", "glob(*)", "int(3)", "-m", "'", '"a']
    kind = draw.random()
    if kind < 0.3:
        return draw.choice(numbers)
    if kind < 0.6:
        return draw.choice(texts)
    if kind < 0.75:
        return str(draw.choice([draw.randint(-5, 40), draw.uniform(-2, 50)]))
    return "".join(draw.choice(letters) for _ in range(draw.randint(1, 12)))


def overrides(draw: random.Random, folder: Path, cases: int) -> Iterator[tuple[str, str]]:
    """One or two overrides with any string for any key, before those that keep a run short."""
    keys, known = _keys(), choices()
    last = ["train.max_minutes=0.02", "eval.iterations=1", "train.iterations=1", "train.batch=2"]
    for _ in range(cases):
        words = []
        for _ in range(draw.randint(1, 2)):
            key = draw.choice(keys)
            if draw.random() < 0.05:
                key = "".join(draw.choice(string.ascii_letters + "._-/+~") for _ in range(8))
            mark = draw.choice(["", "", "", "", "+", "++", "~"])
            value = draw.choice(list(known[key])) if key in known and draw.random() < 0.5 else ""
            words.append(f"{mark}{key}={value or _value(draw)}".replace("\x00", "\\0"))
        given = {word.lstrip("+~").split("=")[0] for word in words}
        short = [word for word in [*TINY, *last] if word.split("=")[0] not in given]
        ended = isolated(command(["train", *words, *short, "hydra.run.dir=run"]), folder)
        fault = fault_of(ended)
        if ended.code is None and any(_ENDLESS.match(word) for word in words):
            fault = ""  # which is what was asked for
        yield repr(words), fault and f"{fault}: {ended.said[-1500:]}"
        _empty(folder)


_ENDLESS = re.compile(r"\+*(eval|train)\.(iterations|batch)=\d{7}")


def _empty(folder: Path) -> None:
    import shutil

    for item in folder.iterdir():
        shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()


# --- images ---------------------------------------------------------------------------------------


def _images(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for depth, channels in ((8, 1), (8, 3), (8, 4), (16, 1), (16, 3), (16, 4)):
        pixels = rng.integers(0, 2**depth, (17, 23, channels)).astype(f"uint{depth}")
        alpha = pixels[..., 3] if channels == 4 else None
        photograph = Photograph(pixels[..., : min(channels, 3)], alpha)
        for suffix in (".png", ".tif", ".jpg", ".bmp"):
            with contextlib.suppress(InputError):
                write_image(folder / f"{depth}-{channels}{suffix}", photograph)
    array = rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    image.quantize(16).save(folder / "palette.png")
    image.convert("1").save(folder / "one.png")
    for kind in ("tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate"):
        image.save(folder / f"{kind}.tif", compression=kind)
    image.save(folder / "progressive.jpg", progressive=True)
    return sorted(folder.iterdir())


def _damaged(draw: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    kind = draw.random()
    if kind < 0.25:
        return bytes(data[: draw.randrange(len(data))])
    if kind < 0.4:
        start = draw.randrange(len(data))
        data[start : start + draw.randint(1, 64)] = draw.randbytes(draw.randint(0, 64))
        return bytes(data)
    if kind < 0.5:  # numbers in headers: sizes, offsets, counts
        start = draw.randrange(max(1, min(len(data), 256) - 4))
        data[start : start + 4] = draw.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)])
        return bytes(data)
    for _ in range(draw.randint(1, 20)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def images(draw: random.Random, folder: Path, cases: int) -> Iterator[tuple[str, str]]:
    """Bit flips, truncation, noise and absurd numbers in files of every format that is read."""
    sources = _images(folder)
    for start in range(0, cases, 20):
        files = []
        for i in range(start, min(start + 20, cases)):
            source = draw.choice(sources)
            file = folder / f"damaged-{i}{source.suffix}"
            file.write_bytes(_damaged(draw, source.read_bytes()))
            files.append((source.name, file))
        ended = isolated(lambda files=files: [_read(file) for _, file in files], folder)
        for name, file in files:
            clean = ended.code == 0 and not ended.said.strip()
            alone = ended if clean else isolated(lambda file=file: _read(file), folder)
            fault = fault_of(alone, (0,)) or ("it said something" if alone.said.strip() else "")
            yield f"{name}, {file.name}", fault and f"{fault}: {alone.said[-1500:]}"
            file.unlink()


def _read(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read_image(file, 1.0)
        except InputError as error:
            assert "\n" not in str(error), error


# --- checkpoints ----------------------------------------------------------------------------------


def _trained(folder: Path) -> Path:
    ended = isolated(command(["train", *TINY, "hydra.run.dir=run"]), folder)
    if ended.code != 0:
        raise SystemExit(f"the run to damage did not train: {ended.said}")
    return folder / "run"


def checkpoints(draw: random.Random, folder: Path, cases: int) -> Iterator[tuple[str, str]]:
    """Every byte range flipped, by turns; each has to be recognised, one in ten by the command."""
    run = _trained(folder)
    file = run / "checkpoints" / "best.safetensors"
    content, omega = file.read_bytes(), DnCNN(width=4, depth=2)
    length = -(-len(content) // cases)
    for i in range(cases):
        start = (i * length) % len(content)
        data = bytearray(content)
        for place in range(start, min(start + length, len(content))):
            data[place] ^= draw.randint(1, 255)
        file.write_bytes(data)
        if i % 10:

            def load() -> None:
                try:
                    load_checkpoint(file, omega)
                except InputError as error:
                    print(f"bmo: {error}", file=sys.stderr)
                    raise SystemExit(2) from None

            ended = isolated(load, folder)
        else:
            ended = isolated(command(["eval", "run=run", "hydra.run.dir=found"]), folder)
        fault = fault_of(ended, (2,))
        yield f"bytes {start} to {start + length}", fault and f"{fault}: {ended.said[-1500:]}"
    file.write_bytes(content)
    ended = isolated(command(["eval", "run=run", "hydra.run.dir=found"]), folder)
    if ended.code != 0:
        yield "the checkpoint as it was", f"exit code {ended.code}: {ended.said[-1500:]}"


# --- configurations of a run folder ---------------------------------------------------------------

_MARK = "pwned"
_TARGETS = [
    {"_target_": "os.system", "command": f"touch {_MARK}"},
    {"_target_": "os.system", "_args_": [f"touch {_MARK}"]},
    {"_target_": "builtins.exec", "_args_": [f"open('{_MARK}', 'w')"]},
    {"_target_": "builtins.eval", "_args_": [f"open('{_MARK}', 'w')"]},
    {"_target_": "subprocess.run", "args": ["touch", _MARK]},
    {"_target_": "subprocess.Popen", "_args_": [["touch", _MARK]]},
    {"_target_": "importlib.import_module", "name": "antigravity"},
    {"_target_": "pathlib.Path.touch", "_args_": [_MARK]},
    {"_target_": "pathlib.Path", "_args_": [_MARK]},
    {"_target_": "shutil.rmtree", "path": ".."},
    {"_target_": "torch.load", "f": "evil.pt", "weights_only": False},
    {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "x", "source": "local"},
    {"_target_": "torch.optim.Adam.__init__.__globals__"},
    {"_target_": "torch.optim.adam.torch.os.system", "_args_": [f"touch {_MARK}"]},
    {"_target_": "torch.optim.optimizer.functools.partial"},
    {"_target_": "bmo_cli.experiment.build.load_plugins", "plugins": ["evil.py"]},
    {"_target_": "bmo_cli.nets.dncnn.torch.load", "f": "evil.pt"},
    {"_target_": "bmo_cli.data.images.file.Path.touch", "_args_": [_MARK]},
    {"_target_": "hydra._internal.utils._locate", "path": "os.system"},
    {"_target_": "evil.Evil"},
    {"_target_": ["os.system"]},
    {"_target_": None},
    {"_target_": "os.system", "_partial_": True},
]
_GROUPS = ("task", "net", "gkm", "gkm.operator", "hyper", "data", "optim", "train", "eval", "hydra")


def configs(draw: random.Random, folder: Path, cases: int) -> Iterator[tuple[str, str]]:
    """Hostile targets, nested and aliased, bombs, paths that leave the folder, plug-ins."""
    run = _trained(folder)
    file = run / ".hydra" / "config.yaml"
    good = file.read_text()
    (folder / "evil.py").write_text(f"open('{_MARK}', 'w')\nclass Evil: pass\n")
    before = _listing(folder)
    for i in range(cases):
        text = _hostile(draw, good)
        file.write_text(text)
        words = draw.choice([["eval", "run=run"], ["certify", "run=run"], ["train", "resume=run"]])
        words = [*words, *([] if words[0] == "train" else ["hydra.run.dir=found"])]
        if words[0] == "train":
            words.append("train.steps=2")
        ended = isolated(command(words), folder)
        fault = fault_of(ended, (0, 1, 2))
        _remove(folder / "found")
        if (folder / _MARK).exists():
            fault = "code was run"
            (folder / _MARK).unlink()
        elif _listing(folder) != before:
            fault = f"touched {sorted(_listing(folder) ^ before)}"
            before = _listing(folder)
        yield f"{i}: {words[0]}, {text[:300]!r}", fault and f"{fault}: {ended.said[-1500:]}"
    file.write_text(good)


def _hostile(draw: random.Random, good: str) -> str:
    config = yaml.safe_load(good)
    kind = draw.random()
    if kind < 0.1:
        levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
        return f"a0: &a0 [lol, lol]\n{levels}\n{good}"
    if kind < 0.2:
        rows = [f'b{i}: "{f"${{b{i - 1}}}" * 9}"' for i in range(1, 12)]
        return f"b0: lol\n{chr(10).join(rows)}\n{good}\nseed: ${{b11}}\n"
    if kind < 0.3:
        return draw.choice(
            [
                "[" * 5000,
                "a: " * 3000,
                "x: !!python/object/apply:os.system ['touch pwned']\n" + good,
                good.replace("seed: 0", "seed: ${oc.env:HOME}"),
                good.replace("seed: 0", "seed: ${seed}"),
                good + "\nplugins: [evil.py]\n",
                good[: draw.randrange(len(good))],
                "\x00\xff",
                good.replace("device: cpu", "device: 'cuda:999999'"),
                good + f"\noutput: {_MARK}\n",
            ]
        )
    node = dict(draw.choice(_TARGETS))
    if draw.random() < 0.3:
        node = {"_target_": "bmo_cli.gkm.scheme.GKM", "operator": node}
    path = draw.choice(_GROUPS).split(".")
    parent = config
    for key in path[:-1]:
        parent = parent.setdefault(key, {})
    if draw.random() < 0.3 and isinstance(parent.get(path[-1]), dict):
        parent[path[-1]][draw.choice(["width", "operator", "_args_", "x", "weights"])] = node
    else:
        parent[path[-1]] = node
    return yaml.safe_dump(config)


def _remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _listing(folder: Path) -> set[str]:
    """Everything beside the run folder."""
    found = [*folder.iterdir(), *folder.parent.iterdir()]
    return {str(item) for item in found if item.suffix != ".log"}


# --- all ------------------------------------------------------------------------------------------

PARTS = {"overrides": (overrides, 2000), "images": (images, 2000)}
PARTS |= {"checkpoints": (checkpoints, 500), "configs": (configs, 200)}


def main() -> int:
    """Run the parts, print what was bad and how many cases there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    all_bad = 0
    for part in given.parts or PARTS:
        function, usual = PARTS[part]
        cases, bad, start = given.cases or usual, 0, time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / part
            folder.mkdir()
            for case, fault in function(random.Random(given.seed), folder, cases):
                if fault:
                    bad += 1
                    print(f"BAD {part}: {case}\n    {fault}", flush=True)
        took = time.monotonic() - start
        print(f"{part}: {cases} cases, {bad} bad, {took:.0f} s", flush=True)
        all_bad += bad
    return 1 if all_bad else 0


if __name__ == "__main__":
    sys.exit(main())
