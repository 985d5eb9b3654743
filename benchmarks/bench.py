"""Time and memory against a plain PyTorch loop: .venv/bin/python benchmarks/bench.py [PART ...].

Parts: training, memory, implicit, libraries, restoring, coding, growth, startup (default: all).
Every time is a ratio: the plain loop and its rivals take turns, and the median of the ratios of
each turn is shown with its quartiles. The plain loop has a process of its own, as whoever writes it
has: what `bmo` sets for its process (memory that was freed is kept) does not help it; "in our
process" it does. Memory is measured in a process of its own each. Run it on a quiet machine. With
--out=DIR it also writes bench.json and growth.png there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from workloads import Posed, by_higher, motion

from bmo_cli.commands.restore import Restorer
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.gkm.proximal import ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import BMO, Unrolled
from bmo_cli.hyper.implicit import Implicit
from bmo_cli.jobs.allocator import keep_freed_memory
from bmo_cli.linear.matrix import Matrix
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.solver.functions import L1, LeastSquares
from bmo_cli.solver.problem import Problem, Sample, SquaredError
from bmo_cli.tasks.deconvolution import Deconvolution
from bmo_cli.training.hypergradient import HyperGradient
from bmo_cli.training.threads import CpuThreads

MIB = 2**20


# --- measuring ------------------------------------------------------------------------------------


def take_turns(
    rivals: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Seconds of each and its ratio to the first, which is the plain loop."""
    for run in rivals.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, run in rivals.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            times[name].append(time.perf_counter() - start)
    for run in rivals.values():
        if isinstance(run, Elsewhere):
            run.close()
    first = next(iter(times.values()))
    found = {}
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, first, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "seconds": statistics.median(seconds),
            "ratio": statistics.median(ratios),
            "low": low,
            "high": high,
        }
    return found


class Elsewhere:
    """A plain loop in a process of its own, with torch's defaults; called, it runs once."""

    def __init__(self, *words: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError("the process of the plain loop has ended")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def _serve(words: list[str]) -> None:
    """Run a plain loop at every line that comes in."""
    what, device, *numbers = words
    if what == "training":
        posed = Posed(torch.device(device))
        run: Callable[[], object] = posed.plain_step(int(numbers[0]))
    else:
        depth, width = map(int, numbers)
        run = Posed(torch.device(device), batch=1, side=256, depth=depth, width=width).plain_solve
    for _ in sys.stdin:
        run()
        _wait(torch.device(device))
        print("done", flush=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def throughput(posed: Posed, device: torch.device) -> float:
    """FLOP/s of one middle convolution of the network, forward, the best of many."""
    weight = posed.plain.convs[1].weight.detach().contiguous(memory_format=torch.channels_last)
    x = torch.rand(len(posed.y), weight.shape[1], *posed.y.shape[2:], device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    best = torch.inf
    with torch.no_grad():
        for _ in range(50):
            _wait(device)
            start = time.perf_counter()
            F.conv2d(x, weight, padding=1)
            _wait(device)
            best = min(best, time.perf_counter() - start)
    return 2 * 9 * x.numel() * weight.shape[0] / best


def peak(words: list[str]) -> float:
    """Bytes above its base that another process takes at its peak, doing one thing."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", *words], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def _peak_here(words: list[str], device: torch.device) -> float:
    """Run one thing and return the peak of the resident set above what it was before."""
    what, iterations = words[0], int(words[1])
    keep_freed_memory()
    posed, warm = Posed(device), Posed(device, side=32)
    posed.threads = warm.threads
    warm.plain_step(2)()  # what libraries and threads take once is not the loop's
    warm.step(Unrolled(memory="full"), 2)()
    warm.step(Unrolled(memory="states"), 2, "bf16")()
    if what == "tiles":
        run: Callable[[], object] = lambda: _tiled(iterations)  # noqa: E731
    elif what == "plain":
        run = posed.plain_step(iterations)
    else:
        run = posed.step(*_split(what, iterations))
    if device.type == "cuda":
        torch.cuda.empty_cache()
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - base
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    base = _status("VmRSS")
    run()
    return _status("VmHWM") - base


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024.0
    raise RuntimeError(f"/proc/self/status has no {key}")


# --- the parts ------------------------------------------------------------------------------------


def _split(name: str, iterations: int) -> tuple[Unrolled, int, str, bool]:
    """`states bf16` as arguments of `Posed.step`."""
    words = name.split()
    if words[0] == "auto":
        hyper = Unrolled(memory="auto", memory_mib=float(words[1]))
    elif words[0] == "bmo":
        hyper = BMO(memory="full")
    else:
        hyper = Unrolled(memory=words[0])
    return hyper, iterations, "bf16" if "bf16" in words else "fp32", "compiled" in words


MODES = ("full", "states", "segments", "auto 64", "bmo", "full bf16", "states bf16")
COMPILED = ("full compiled", "full bf16 compiled")


def training(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Workload A at K = 40: time, and the gradient against the plain loop's."""
    posed, iterations = Posed(device), 40
    inside = "plain loop in our process"
    ours = {inside: posed.plain_step(iterations)}
    ours |= {name: posed.step(*_split(name, iterations)) for name in (*MODES, *COMPILED)}
    found = take_turns({"plain loop": Elsewhere("training", device, 40), **ours}, repeats, device)
    expected = ours[inside]()
    for name, run in ours.items():
        gradient = run()
        if name != "bmo":  # which aggregates: another gradient
            found[name]["error"] = float((gradient - expected).norm() / expected.norm())
    peak_flops = throughput(posed, device)
    for row in found.values():
        row["gflops"] = 3 * posed.flops * iterations / row["seconds"] / 1e9
        row["share_of_limit"] = row["gflops"] * 1e9 / peak_flops
    return found


def memory(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Workload A at K = 40 and 400: MiB above base, and their ratio to the plain loop's."""
    plain = peak(["plain", "40", str(device)])
    found = {"plain loop": {"mib": plain / MIB, "ratio": 1.0}}
    for name in (*MODES, "states"):
        iterations = 400 if name in found else 40
        label = f"{name}, K = 400" if name in found else name
        found[label] = {"mib": peak([name, str(iterations), str(device)]) / MIB}
        found[label]["ratio"] = found[label]["mib"] * MIB / plain
    state = 4 * 64 * 64 * 4
    growth = (found["states, K = 400"]["mib"] - found["states"]["mib"]) * MIB / 360
    found["states: growth an iteration, in states"] = {"ratio": growth / state}
    return found


def implicit(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Workload A with a kernel that keeps every frequency, so that there is a fixed point.

    The error is that of the gradient against the one of a far tighter solve.
    """
    posed, iterations = Posed(device, sharp=0.7, gain=0.03), 40
    tight = Implicit(tolerance=1e-7, anderson=5, backward_iterations=200, backward_tolerance=1e-7)
    expected = posed.step(tight, 400)()
    hyper = {
        "implicit, Anderson": Implicit(
            tolerance=1e-4, anderson=5, solver="anderson", backward_tolerance=1e-4
        ),
        "implicit, Anderson + GMRES": Implicit(tolerance=1e-4, anderson=5, backward_tolerance=1e-4),
        "implicit, plain": Implicit(tolerance=1e-4, solver="fixed_point", backward_tolerance=1e-4),
    }
    rivals = {"plain loop": posed.plain_step(iterations)}
    rivals |= {name: posed.step(one, 100) for name, one in hyper.items()}
    return _with_errors(rivals, expected, repeats, device)


def restoring(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Workload B: 8 iterations on a 256 x 256 image."""
    found = {}
    for depth, width in ((5, 32), (17, 64)):
        posed = Posed(device, batch=1, side=256, depth=depth, width=width)

        def ours(posed: Posed = posed) -> Tensor:
            problem, initial = posed.sample.problem, posed.sample.initial
            return solve(posed.scheme, problem, initial, Settings(8), check=False).value[0]

        name = f"{depth} x {width}"
        rivals = {
            f"plain loop, {name}": Elsewhere("restoring", device, depth, width),
            f"plain loop in our process, {name}": posed.plain_solve,
            f"solve, {name}": ours,
        }
        rows = take_turns(rivals, repeats, device)
        limit = throughput(posed, device)
        for row in rows.values():
            row["gflops"] = posed.flops * 8 / row["seconds"] / 1e9
            row["share_of_limit"] = row["gflops"] * 1e9 / limit
        expected = posed.plain_solve()
        rows[f"solve, {name}"]["error"] = float((ours() - expected).norm() / expected.norm())
        found |= rows
    tiles = peak(["tiles", "4096", str(device)])
    found["4096 x 4096 in tiles of 1024, 5 x 32"] = {"mib": tiles / MIB}
    return found


def _tiled(side: int) -> Tensor:
    """A large photograph, restored as `bmo restore` does."""
    scheme = GKM(operator=ProximalGradient(), net=DnCNN(), alpha=None)
    restorer = Restorer(scheme, Deconvolution, {"channels": 1}, Settings(8), "pad", 1024, 256)
    return restorer(torch.rand(1, 1, side, side), motion(19))


def coding(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Workload C: a step of learned ISTA, 16 iterations, 256 x 512, 128 codes, weights tied."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(256, 512, generator=generator)
    a = (a / a.norm(dim=0)).to(device)
    codes = torch.randn(128, 512, generator=generator) * (
        torch.rand(128, 512, generator=generator) < 0.1
    )
    codes = codes.to(device)
    y, iterations, matrix = codes @ a.mT, 16, Matrix(a)
    step_size = nn.Parameter(1 / torch.linalg.matrix_norm(a, 2).square())
    threshold = nn.Parameter(torch.tensor(0.1, device=device))
    plain_optimizer = torch.optim.Adam([step_size, threshold], lr=0.0)

    def plain() -> Tensor:
        plain_optimizer.zero_grad()
        x = torch.zeros_like(codes)
        for _ in range(iterations):
            x = x - step_size * (x @ a.mT - y) @ a
            x = x.sign() * F.relu(x.abs() - step_size * threshold)
        loss = 0.5 * F.mse_loss(x, codes)
        loss.backward()
        plain_optimizer.step()
        return threshold.grad

    operator = ProximalGradient(gamma=1.0, learn_weight=True)
    scheme = GKM(operator=operator, alpha=None).to(device)
    sample = Sample(
        Problem(LeastSquares(matrix, y), L1(0.1)), (torch.zeros_like(codes),), SquaredError(codes)
    )
    threads, parameters = CpuThreads.of(sample), list(scheme.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.0)

    def step(hyper: Unrolled) -> Callable[[], Tensor]:
        gradient = HyperGradient(hyper, scheme, parameters, iterations=iterations, threads=threads)

        def run() -> Tensor:
            gradient(sample)
            optimizer.step()
            return operator.weight.theta.grad / 0.1

        return run

    rivals = {
        "plain loop": plain,
        "full": step(Unrolled(memory="full")),
        "states": step(Unrolled(memory="states")),
    }
    found = take_turns(rivals, repeats, device)
    expected = plain()
    for name, run in rivals.items():
        found[name]["error"] = float((run() - expected).norm() / expected.norm())
    return found


def libraries(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Workload A with torchdeq and higher, those of them that are importable.

    higher unrolls K = 40 steps; torchdeq solves by Anderson for a fixed point and differentiates
    implicitly, on the problem of the part `implicit`, as `hyper=implicit` does here.
    """
    found = {}
    if importlib.util.find_spec("higher"):
        posed = Posed(device)
        rivals = {
            "plain loop, K = 40": posed.plain_step(40),
            "higher": posed.step_of(lambda: by_higher(posed, 40)),
            "bmo, full": posed.step(Unrolled(memory="full"), 40),
        }
        found |= _with_errors(rivals, rivals["plain loop, K = 40"](), repeats, device)
    if importlib.util.find_spec("torchdeq"):
        from torchdeq import get_deq

        posed = Posed(device, sharp=0.7, gain=0.03)
        solver = {"max_iter": 100, "tol": 1e-4, "stop_mode": "rel"}
        deq = get_deq(
            ift=True,
            **{f"{side}_solver": "anderson" for side in "fb"},
            **{f"{side}_{key}": value for side in "fb" for key, value in solver.items()},
        )

        def solve() -> Tensor:
            return deq(lambda u: posed.plain.iteration(u, posed.y, posed.transfer), posed.y)[0][0]

        tight = Implicit(tolerance=1e-7, backward_iterations=200, backward_tolerance=1e-7)
        ours = Implicit(tolerance=1e-4, anderson=5, solver="anderson", backward_tolerance=1e-4)
        rivals = {
            "plain loop, K = 40, fixed point": posed.plain_step(40),
            "torchdeq, Anderson": posed.step_of(solve),
            "bmo, implicit, Anderson": posed.step(ours, 100),
        }
        found |= _with_errors(rivals, posed.step(tight, 400)(), repeats, device)
    return found


def _with_errors(
    rivals: dict[str, Callable[[], Tensor]], expected: Tensor, repeats: int, device: torch.device
) -> dict[str, dict[str, float]]:
    found = take_turns(dict(rivals), repeats, device)
    for name, run in rivals.items():
        found[name]["error"] = float((run() - expected).norm() / expected.norm())
    return found


def growth(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds a step as K, image, batch and features grow, all in our process."""
    found = {}
    cases = {
        "K": [{"iterations": k} for k in (10, 20, 40, 100, 200, 400)],
        "side": [{"side": n} for n in (32, 64, 128, 256)],
        "batch": [{"batch": n} for n in (1, 2, 4, 8, 16)],
        "width": [{"width": n} for n in (16, 32, 64, 128)],
    }
    for axis, settings in cases.items():
        for setting in settings:
            shape = {key: value for key, value in setting.items() if key != "iterations"}
            iterations = setting.get("iterations", 10)
            posed = Posed(device, **shape)
            rivals = {} if iterations > 100 else {"plain loop": posed.plain_step(iterations)}
            rivals |= {name: posed.step(*_split(name, iterations)) for name in ("full", "states")}
            if iterations > 100:
                rivals.pop("full")
            rows = take_turns(rivals, max(2, repeats // 3), device)
            for name, row in rows.items():
                if "plain loop" not in rows:
                    row = {"seconds": row["seconds"]}
                found[f"{name}, {axis} = {next(iter(setting.values()))}"] = row
    return found


def startup(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Workload D: seconds of whole commands."""
    command = [sys.executable, "-m", "bmo_cli"]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in {
            "bmo --help": ["--help"],
            "bmo train train.stps=1 (a typo)": ["train", "train.stps=1"],
            "bmo train debug=tiny train.steps=1": [
                *("train", "debug=tiny", "train.steps=1", "eval.test=false"),
                "hydra.run.dir=${now:%H%M%S%f}",
            ],
        }.items():
            times, begun = [], []
            for _ in range(max(3, repeats // 3)):
                start = time.perf_counter()
                with subprocess.Popen(
                    [*command, *words],
                    cwd=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                ) as process:
                    assert process.stdout is not None
                    process.stdout.readline()  # what is trained, once it is built and loaded
                    begun.append(time.perf_counter() - start)
                    process.stdout.read()
                times.append(time.perf_counter() - start)
            found[name] = {"seconds": statistics.median(times)}
            if words[0] == "train" and len(words) > 2:
                found[f"{name}: until it trains"] = {"seconds": statistics.median(begun)}
    return found


PARTS = {
    part.__name__: part
    for part in (training, memory, implicit, libraries, restoring, coding, growth, startup)
}


# --- showing --------------------------------------------------------------------------------------

COLUMNS = {
    "seconds": ("seconds", "{:.4f}"),
    "ratio": ("of the plain loop", "{:.3f}"),
    "low": ("quartile", "{:.3f}"),
    "high": ("quartile", "{:.3f}"),
    "error": ("gradient error", "{:.1e}"),
    "gflops": ("GFLOP/s", "{:.0f}"),
    "share_of_limit": ("of the convolution's", "{:.2f}"),
    "mib": ("MiB above base", "{:.1f}"),
}


def table(rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table of what was measured."""
    keys = [key for key in COLUMNS if any(key in row for row in rows.values())]
    lines = [["", *(COLUMNS[key][0] for key in keys)], ["---"] * (len(keys) + 1)]
    for name, row in rows.items():
        cells = [COLUMNS[key][1].format(row[key]) if key in row else "" for key in keys]
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(found: dict[str, dict[str, float]], file: Path) -> None:
    """Seconds a step over what grows, a panel each."""
    import matplotlib.pyplot as plt

    axes = ("K", "side", "batch", "width")
    figure, panels = plt.subplots(1, len(axes), figsize=(14, 3.4), layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        for name in ("plain loop", "full", "states"):
            head = f"{name}, {axis} = "
            points = [
                (int(key.removeprefix(head)), row["seconds"])
                for key, row in found.items()
                if key.startswith(head)
            ]
            panel.loglog(*zip(*points, strict=True), marker="o", label=name)
        sizes = {int(key.split(" = ")[1]) for key in found if f", {axis} = " in key}
        panel.set_xticks(sorted(sizes), [str(size) for size in sorted(sizes)])
        panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds a training step")
    panels[0].legend()
    figure.savefig(file, dpi=150)


def main() -> None:
    """Measure the parts that are asked for, print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(_peak_here(given.peak[:2], torch.device(given.peak[2])))
        return
    if given.serve:
        _serve(given.serve)
        return
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    if len(given.parts) == 1:
        found = _measured(given.parts[0], torch.device(given.device), given.repeats)
        if given.out:
            _write(given.out, given.parts[0], found)
        return
    for part in given.parts or PARTS:  # each alone in its process
        words = [part, f"--repeats={given.repeats}", f"--device={given.device}"]
        words += [f"--out={given.out}"] if given.out else []
        subprocess.run([sys.executable, __file__, *words], check=True)


def _measured(part: str, device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    keep_freed_memory()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    found = PARTS[part](device, repeats)
    print(f"\n{part}: {(PARTS[part].__doc__ or '').splitlines()[0]}")
    print(f"(torch {torch.__version__}, {name}, {torch.get_num_threads()} threads)\n")
    print(table(found), flush=True)
    return found


def _write(folder: Path, part: str, found: dict[str, dict[str, float]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "bench.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**known, part: found}, indent=2), encoding="utf-8")
    if part == "growth":
        draw(found, folder / "growth.png")


if __name__ == "__main__":
    main()
