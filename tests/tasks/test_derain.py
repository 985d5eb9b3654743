"""Task derain: the decomposition y = b + r in all its forms, synthetic rain and real pairs."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, result
from scipy.optimize import minimize

from bmo_cli.data.images.file import Photograph, read_image, write_image
from bmo_cli.data.splits import Embedded
from bmo_cli.errors import InputError
from bmo_cli.gkm.augmented import ALM, LADMM, PDHG
from bmo_cli.gkm.proximal import DouglasRachford, ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.aggregation import BMO
from bmo_cli.nets.convex_potential import ConvexPotential
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.nets.layers import Layers
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.problem import Charbonnier, Loss, Sample, SquaredError
from bmo_cli.tasks.derain import (
    Derain,
    SparseRain,
    initial_layers,
    rain_problem,
    smoothed_views,
)
from bmo_cli.tasks.restoration import observation

SCHEMES = [
    (ProximalGradient, "sum"),
    (Resolvent, "sum"),
    (DouglasRachford, "sum"),
    (LADMM, "split"),
    (PDHG, "split"),
    (PDHG, "sparse"),
    (ALM, "exact"),
    (ProximalGradient, "single"),
]


def rainy(rng, channels=1, size=(6, 7)):
    return torch.tensor(rng.random((2, channels, *size)))


def test_prox_of_rain_against_brute_force(rng):
    v, gamma, weight = rng.normal(size=8), 0.7, 0.4
    state = (torch.tensor(v).reshape(1, 2, 2, 2),)
    (found,) = SparseRain(weight).prox(state, torch.tensor(gamma))
    grid = np.linspace(0, 4, 400001)
    for value, expected in zip(found[0, 1].flatten(), v[4:], strict=True):
        objective = weight * grid + (grid - expected) ** 2 / (2 * gamma)
        assert float(value) == pytest.approx(grid[objective.argmin()], abs=1e-5)
    assert torch.equal(found[0, 0].flatten(), torch.tensor(v[:4]))


@pytest.mark.slow
def test_sparse_decomposition_against_scipy():
    """PDHG finds the minimum that SLSQP finds with the absolute values as variables."""
    rng = np.random.default_rng(0)
    size, weights = (3, 4), (0.15, 0.05, 0.03)
    y = rng.random(size)
    n = y.size

    def differences(image, axis):
        return np.roll(image, -1, axis) - image

    def parts(u):
        b, r = u[:n].reshape(size), u[n : 2 * n].reshape(size)
        return np.concatenate([differences(b, 0), differences(b, 1), differences(r, 0)]).ravel()

    def value(u):
        b, r = u[:n], u[n : 2 * n]
        steps = np.abs(parts(u)).reshape(3, n).sum(1)
        smooth = 0.5 * np.sum((b + r - y.ravel()) ** 2) + weights[0] * r.sum()
        return smooth + weights[1] * (steps[0] + steps[1]) + weights[2] * steps[2]

    cost = np.repeat([weights[1], weights[1], weights[2]], n)

    def lifted(x):  # with t >= |parts(u)|
        error = x[:n] + x[n : 2 * n] - y.ravel()
        return 0.5 * error @ error + weights[0] * x[n : 2 * n].sum() + cost @ x[2 * n :]

    above = {"type": "ineq", "fun": lambda x: x[2 * n :] - parts(x)}
    below = {"type": "ineq", "fun": lambda x: x[2 * n :] + parts(x)}
    start = np.concatenate([y.ravel(), np.zeros(n), np.abs(parts(np.append(y.ravel(), y * 0)))])
    bounds = [(None, None)] * n + [(0, None)] * 4 * n
    expected = minimize(
        lifted, start, method="SLSQP", bounds=bounds, constraints=[above, below],
        options={"ftol": 1e-12, "maxiter": 300},
    )  # fmt: skip
    assert expected.success
    problem = rain_problem(torch.tensor(y)[None, None], "sparse", *weights)
    scheme = GKM(operator=PDHG(beta=0.5), alpha=None).double()
    start = torch.tensor(np.append(y, y * 0)).reshape(1, 2, *size)
    with torch.no_grad():
        found = iterate(scheme.bind(problem), (start,), iterations=4000).value[0]
    assert found[0, 1].min() >= 0
    assert value(found.flatten().numpy()) == pytest.approx(expected.fun, abs=1e-6)
    assert value(np.append(y, y * 0)) > expected.fun + 0.01


@pytest.mark.parametrize(("operator", "form"), SCHEMES)
@pytest.mark.parametrize("net", [None, DnCNN, ConvexPotential, GuidedPotential])
def test_every_operator_and_network_applies(rng, operator, form, net):
    size = {
        DnCNN: {"width": 4, "depth": 2, "seed": 1},
        ConvexPotential: {"width": 4, "size": 3, "seed": 1},
        GuidedPotential: {"widths": (4, 4, 4), "seed": 1},
    }
    task = Derain(data=Embedded(channels=1), channels=1, form=form)
    network = None if net is None else net(**size[net])
    scheme = GKM(operator=operator(), net=network, layers=task.layers).double()
    y = rainy(rng)
    problem, initial = task.model.pose(y)
    assert torch.equal(observation(problem), y)
    target = torch.tensor(rng.random(initial[0].shape))
    hyper = BMO(mu=0.3)
    outcome = hyper.objective(scheme, Sample(problem, initial, SquaredError(target)), 4)
    assert torch.isfinite(outcome.objective) and outcome.residual < 10
    learned = [p for p in scheme.parameters() if p.requires_grad]
    outcome.objective.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in learned)


@pytest.mark.parametrize(("centre", "kept"), [(False, True), (True, False)])
def test_filters_of_zero_mean_cannot_move_brightness_from_the_background_to_rain(rng, centre, kept):
    small = {"widths": (4, 4, 4), "threshold": 0.05}
    first = GuidedPotential(**small)
    second = GuidedPotential(**small, size=1, steer=False, centre=True) if centre else first
    net = Layers(background=first, rain=second)
    y = rainy(rng)
    problem, initial = rain_problem(y), initial_layers(y, "sum")
    scheme = GKM(operator=ProximalGradient(), net=net, layers=2).double()
    with torch.no_grad():
        end = iterate(scheme.bind(problem), initial, iterations=30).value[0]
    b, r = end.chunk(2, 1)
    moved = float(((b - r).mean() - y.mean()).abs())
    assert moved < 1e-12 if kept else moved > 1e-3
    assert (b - y).abs().max() > 1e-3  # the iteration does something


def test_charbonnier_against_its_formula_and_autograd(rng):
    target, u = (torch.tensor(rng.normal(size=(2, 3, 4, 5))) for _ in range(2))
    width = 0.3
    loss = Charbonnier(target, width)
    error = u.numpy() - target.numpy()
    expected = (np.hypot(error, width) - width).reshape(2, -1).sum(1)
    np.testing.assert_allclose(loss.value((u,)).numpy(), expected, rtol=1e-12)
    found, expected_grad = loss.grad((u,))[0], Loss.grad(loss, (u,))[0]
    torch.testing.assert_close(found, expected_grad, rtol=1e-12, atol=1e-14)
    # L_l = 1 / width is reached at e = 0 and never exceeded.
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    slope = torch.diff(Charbonnier(torch.zeros_like(x), width).grad((x,))[0]) / torch.diff(x)
    assert slope.max().item() == pytest.approx(1 / width, rel=1e-4)
    assert slope.max() <= loss.lipschitz and loss.size == 60
    thin = Charbonnier(target, 1e-9).value((u,))
    torch.testing.assert_close(thin, (u - target).abs().flatten(1).sum(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("operator", "form"), [(ProximalGradient, "sum"), (PDHG, "split")])
def test_data_term_is_met_without_regularisers(rng, operator, form):
    y = rainy(rng)
    problem = rain_problem(y, form)
    start = torch.tensor(rng.normal(size=(2, 2, 6, 7)))
    with torch.no_grad():
        scheme = GKM(operator=operator(), alpha=0.9).double()
        u = iterate(scheme.bind(problem), (start,), iterations=300).value[0]
    torch.testing.assert_close(u[:, :1] + u[:, 1:], y, atol=1e-6, rtol=0)


def test_smoothed_views_solve_their_equation(rng):
    y = rainy(rng)
    views = smoothed_views(y)
    assert torch.equal(views[:, :1], y)
    for c, v in zip((1.0, 3.0, 10.0, 30.0, 100.0, 300.0), views[:, 1:].split(1, 1), strict=True):
        neighbours = sum(v.roll(shift, dim) for shift in (1, -1) for dim in (2, 3))
        torch.testing.assert_close(v + c * (4 * v - neighbours), y)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_and_cases(channels):
    def task(**changes):
        data = Embedded(channels=channels, crop=32, eval_crop=96)
        return Derain(data=data, channels=channels, **changes)

    first, again = (
        next(iter(task(seed=3, rain="heavy").samples(range(5, 6), 2))) for _ in range(2)
    )
    y = observation(first.problem)
    assert torch.equal(y, observation(again.problem))
    b, r = first.loss.target.chunk(2, 1)
    torch.testing.assert_close(b + r, y)
    assert r.min() >= 0 and r.max() > 0.1
    (initial,) = first.initial
    assert torch.equal(initial, torch.cat([y, torch.zeros_like(y)], 1))
    cases = [list(task(seed=seed).cases("val")) for seed in (0, 1)]
    for one, other in zip(*cases, strict=True):  # seeds are judged on the same rain
        assert torch.equal(observation(one.problem), observation(other.problem))
        scores = task().score(one.initial, one)
        assert scores["psnr"] == scores["psnr_input"]
        assert 10 < scores["psnr"] < 45
        assert task().score((torch.cat([one.reference[None]] * 2, 1),), one)["ssim"] == 1
    assert not torch.equal(y[0], y[1])
    heavy = next(task(rain="heavy").cases("val"))
    light = next(task().cases("val"))
    assert task().score(heavy.initial, heavy)["psnr"] < task().score(light.initial, light)["psnr"]


def test_gray_network_on_colour_photographs():
    data = Embedded(channels=3, crop=32, eval_crop=40)
    task = Derain(data=data, channels=1)
    case = next(task.cases("val"))
    assert case.initial[0].shape == (3, 2, 40, 40) and case.reference.shape == (3, 40, 40)
    perfect = torch.cat([case.reference[:, None], case.reference[:, None]], 1)
    assert task.score((perfect,), case)["ssim"] == 1
    with pytest.raises(InputError, match=r"data\.channels=3"):
        Derain(data=Embedded(channels=1), channels=3)


# --- the command line -----------------------------------------------------------------------------

WORDS = (
    *("task=derain", "debug=tiny", "device=cpu", "data.crop=32", "data.eval_crop=48"),
    *("data.flips=none", "eval.images=1"),
)
SMALL = ("net=dncnn", "net.width=4", "net.depth=2")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Folders of pairs: train, val and test with rain/ and clean/."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind in ("rain", "clean"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(2):
            clean = rng.integers(0, 200, (40, 44, 3), dtype=np.uint8)
            rain = clean + rng.integers(0, 50, (40, 44, 1), dtype=np.uint8)
            write_image(folder / split / "clean" / f"{i}.png", Photograph(clean))
            write_image(folder / split / "rain" / f"{i}.png", Photograph(rain))
    return folder


@pytest.mark.slow
def test_real_pairs_train_evaluate_and_restore(bmo, pairs, tmp_path):
    places = [f"data.{split}={pairs / split}" for split in ("train", "val", "test")]
    done = bmo("train", *WORDS, *SMALL, "data=paired", *places, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "run")
    assert found["data"]["test_rain"]["images"] == 2
    pictures = {file.name for file in (tmp_path / "run" / "images").iterdir()}
    kinds = ("clean", "rainy", "restored", "rain", "side_by_side")
    assert pictures == {f"01_0_{kind}.png" for kind in kinds}
    # `restore` computes what `eval` wrote
    source = pairs / "test" / "rain" / "0.png"
    done = bmo("restore", "run=run", f"input={source}", "output=out.png")
    assert done.returncode == 0, done.stderr
    restored = read_image(tmp_path / "out.png").pixels
    evaluated = read_image(tmp_path / "run" / "images" / "01_0_restored.png").pixels
    assert np.abs(restored.astype(int) - evaluated).max() <= 1
    rainy_input = read_image(source).pixels
    assert np.abs(restored.astype(int) - rainy_input).max() > 1
    done = bmo(
        "restore", "run=run", f"input={source}", "output=tiles.png", "tile=16", "tile_margin=16"
    )
    assert done.returncode == 0, done.stderr
    tiles = read_image(tmp_path / "tiles.png").pixels
    assert np.abs(restored.astype(int) - tiles).max() <= 1
    done = bmo("restore", "run=run", f"input={source}", "output=x.png", "kernel=k.npy")
    assert done.returncode == 2
    assert "no kernel file" in done.stderr or "leave it out" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [*SMALL, "hyper=separate", "hyper.sigma=10"],
        ["hyper=implicit", "net=lip", "net.width=4", "gkm=prox"],
        ["net=layers", "net@net.background=lip", "net.background.width=4", "net.rain.width=4"],
        ["gkm=pdhg", "task.form=sparse", "task.rain_weight=0.1", "net=none", "hyper=none"],
        [*SMALL, "task.form=single", "train.iterations=1", "gkm.alpha=null", "hyper=unrolled"],
    ],
    ids=["separate", "implicit", "layers", "sparse", "single"],
)
def test_choices_run(bmo, tmp_path, words):
    done = bmo("train", *WORDS, *words, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "run")
    assert found["status"] == "ok" and np.isfinite(found["metrics"]["test/psnr"])


@pytest.mark.slow
def test_certificate_of_two_layers(bmo, tmp_path):
    small = ["certificate.cases=1", "certificate.turns=2", "certificate.horizon=2"]
    done = bmo(
        "train", *WORDS, "net=lip", "net.width=4", "net.size=3", "certify=true", *small,
        "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = result(tmp_path / "run")["metrics"]
    assert metrics["certificate/bound"] <= 1 + 1e-6
    assert 0.3 < metrics["certificate/ratio"] <= 1 + 1e-5


@pytest.mark.slow
def test_rain_sheet(tmp_path):
    script = ROOT / "benchmarks" / "rain_sheet.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "sheet.png"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "sheet.png").pixels.std() > 10


@pytest.mark.slow
def test_a_denoiser_is_not_fitted_with_another_loss(bmo):
    words = ("task=derain", "task.loss=charbonnier", "hyper=separate", "net=dncnn", "debug=tiny")
    done = bmo("train", *words, "device=cpu", "data.crop=32", "data.eval_crop=48")
    assert done.returncode == 2 and "task.loss=squared" in done.stderr
