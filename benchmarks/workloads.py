"""Workloads of bench.py: a deconvolution as one writes it by hand, and as bmo has it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fft import irfft2, rfft2

from bmo_cli.gkm.proximal import ProximalGradient
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.problem import Problem, Sample, SquaredError
from bmo_cli.training.hypergradient import HyperGradient
from bmo_cli.training.threads import CpuThreads

GAMMA = 0.9


class PlainLoop(nn.Module):
    """u <- u - gamma A^T (A u - y), then u <- u - N(u), K times, N convolutions and ReLU."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        sizes = [1, *[width] * (depth - 1), 1]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(sizes)
        )
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def forward(self, y: Tensor, transfer: Tensor, iterations: int) -> Tensor:
        u = y
        for _ in range(iterations):
            u = self.iteration(u, y, transfer)
        return u

    def iteration(self, u: Tensor, y: Tensor, transfer: Tensor) -> Tensor:
        size = y.shape[-2:]
        residual = irfft2(rfft2(u) * transfer, s=size) - y
        u = u - self.gamma * irfft2(rfft2(residual) * transfer.conj(), s=size)
        return u - self.noise(u)

    def noise(self, z: Tensor) -> Tensor:
        for conv in self.convs[:-1]:
            z = F.relu(conv(z))
        return self.convs[-1](z)


class Posed:
    """A deconvolution, written for both."""

    def __init__(
        self,
        device: torch.device,
        *,
        batch: int = 4,
        side: int = 64,
        depth: int = 5,
        width: int = 32,
        gain: float = 0.1,
        sharp: float = 0.0,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        clean = F.avg_pool2d(torch.rand(batch, 1, side + 8, side + 8, generator=generator), 9, 1)
        kernel = (1 - sharp) * motion(19)[None]
        kernel[:, 9, 9] += sharp
        self.transfer = transfer_function(kernel, (side, side)).to(device)
        self.clean = clean.to(device)
        blur = PeriodicBlur(self.transfer, (side, side))
        noise = 2.55 / 255 * torch.randn(clean.shape, generator=generator)
        self.y = blur(self.clean) + noise.to(device)
        self.sample = Sample(
            Problem(LeastSquares(blur, self.y)), (self.y,), SquaredError(self.clean)
        )
        self.threads = CpuThreads.of(self.sample)  # one for all, as a run has one
        net = DnCNN(depth=depth, width=width, bias=False, last_gain=gain)
        # The step is gamma / |A|^2 here and gamma there.
        operator = ProximalGradient(gamma=GAMMA * blur.norm_squared)
        self.scheme = GKM(operator=operator, net=net, alpha=None).to(device)
        self.plain = PlainLoop(depth, width).to(device)
        weights = {name: w.contiguous() for name, w in net.state_dict().items()}
        self.plain.load_state_dict({**weights, "gamma": self.plain.gamma.detach()})
        self.flops = 2 * 9 * batch * side**2 * (2 * width + (depth - 2) * width**2)

    def plain_step(self, iterations: int) -> Callable[[], Tensor]:
        return self.step_of(lambda: self.plain(self.y, self.transfer, iterations))

    def step_of(self, solve: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A training step on what solves with the weights of the plain loop."""
        optimizer = torch.optim.Adam(self.plain.parameters(), lr=0.0)

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = 0.5 * F.mse_loss(solve(), self.clean)
            loss.backward()
            optimizer.step()
            return torch.cat([conv.weight.grad.flatten() for conv in self.plain.convs])

        return step

    @torch.no_grad()
    def plain_solve(self) -> Tensor:
        """Eight iterations."""
        return self.plain(self.y, self.transfer, 8)

    def step(
        self,
        hyper: HyperOptimizer,
        iterations: int,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> Callable[[], Tensor]:
        parameters = [p for p in self.scheme.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=0.0)
        gradient = HyperGradient(
            hyper,
            self.scheme,
            parameters,
            iterations=iterations,
            precision=precision,
            compiled=compiled,
            threads=self.threads,
        )
        part = gradient.threads.parts(self.sample)[0]
        hyper.plan(self.scheme, part, iterations, None, gradient.threads.count)
        assert isinstance(self.scheme.net, DnCNN)
        convs = self.scheme.net.layers

        def step() -> Tensor:
            gradient(self.sample)
            optimizer.step()
            return torch.cat([conv.weight.grad.flatten() for conv in convs])

        return step


def motion(size: int) -> Tensor:
    """A curved stroke that sums to 1, (size, size)."""
    t = torch.linspace(-1, 1, 400, dtype=torch.float64)
    rows = ((0.6 * t + 0.35 * torch.sin(2.5 * t)) * (size // 2) + size // 2).round().long()
    columns = ((0.7 * t**2 - 0.3 + 0.3 * t) * (size // 2) + size // 2).round().long()
    kernel = torch.zeros(size, size)
    kernel.index_put_((rows, columns), torch.ones(400), accumulate=True)
    return kernel / kernel.sum()


def by_higher(posed: Posed, iterations: int) -> Tensor:
    """The same iteration, unrolled by higher: its optimiser descends, then comes the network."""
    import higher

    class DataTerm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u = nn.Parameter(posed.y.clone())

        def forward(self) -> Tensor:
            blurred = irfft2(rfft2(self.u) * posed.transfer, s=posed.y.shape[-2:])
            return 0.5 * (blurred - posed.y).square().sum()

    term = DataTerm()
    descent = torch.optim.SGD(term.parameters(), lr=GAMMA)
    step_size = {"lr": [posed.plain.gamma]}
    with higher.innerloop_ctx(term, descent, override=step_size) as (patched, optimizer):
        for _ in range(iterations):
            optimizer.step(patched())
            (u,) = patched.parameters()
            patched.update_params([u - posed.plain.noise(u)])
        return next(iter(patched.parameters()))
