import numpy as np
import pytest
import scipy.ndimage
import torch

from bmo_cli.data.splits import Embedded
from bmo_cli.linear.blur import PeriodicBlur, stack_kernels, transfer_function
from bmo_cli.tasks.deconvolution import Deconvolution


def kernels(rng, *sizes):
    return [torch.tensor(rng.random(size)) for size in sizes]


def blur(image, kernels):
    size = image.shape[-2:]
    return PeriodicBlur(transfer_function(kernels, size), size)(image)


def make(rng, size, shape=(5, 7), batch=2):
    k = torch.tensor(rng.random((batch, *shape)))
    return k, PeriodicBlur(transfer_function(k, size), size)


@pytest.mark.parametrize("size", [(16, 12), (15, 13), (16, 13)])
def test_equals_scipy_convolution(rng, size):
    image = torch.tensor(rng.random((2, 3, *size)))
    k, a = make(rng, size)
    for b in range(2):
        for c in range(3):
            expected = scipy.ndimage.convolve(image[b, c].numpy(), k[b].numpy(), mode="wrap")
            np.testing.assert_allclose(a(image)[b, c].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(16, 12), (15, 13)])
def test_adjoint(rng, size):
    _, a = make(rng, size)
    u, v = (torch.tensor(rng.random((2, 1, *size))) for _ in range(2))
    assert (a(u) * v).sum().item() == pytest.approx((u * a.adjoint(v)).sum().item(), rel=1e-12)
    torch.testing.assert_close(a.normal(u), a.adjoint(a(u)))


def test_shifted_inverse_solves_the_dense_system(rng):
    size = (6, 5)
    _, a = make(rng, size, shape=(3, 3), batch=1)
    identity = torch.eye(30, dtype=torch.float64).reshape(30, 1, *size)
    dense = a(identity).reshape(30, 30).T
    v = torch.tensor(rng.random((1, 1, *size)))
    gamma = torch.tensor(2.5, dtype=torch.float64)
    system = torch.eye(30, dtype=torch.float64) + gamma * dense.T @ dense
    expected = torch.linalg.solve(system, v.flatten())
    torch.testing.assert_close(a.shifted_inverse(gamma)(v).flatten(), expected)
    largest = torch.linalg.eigvalsh(dense.T @ dense)[-1].item()
    assert a.norm_squared == pytest.approx(largest, rel=1e-10)


def test_kernels_of_several_sizes_keep_their_centres(rng):
    several = [k.float() for k in kernels(rng, (3, 3), (5, 7), (4, 6), (1, 1))]
    image = torch.tensor(rng.random((1, 1, 16, 16)), dtype=torch.float32)
    together = blur(image.expand(4, -1, -1, -1), stack_kernels(several))
    for row, kernel in zip(together, several, strict=True):
        torch.testing.assert_close(row[None], blur(image, kernel[None]))


def deconvolution(**changes):
    data = Embedded(channels=changes.pop("colours", 3), crop=24, eval_crop=24, workers=0)
    return Deconvolution(data=data, kernel_count=2, kernel_size=5, **changes)


def test_noise_of_a_range_is_one_level_an_image_for_a_gray_network_in_colour():
    task = deconvolution(channels=1, noise=(1, 50))
    levels = next(task.samples(range(1), 6)).problem.noise.reshape(6, 3)
    assert torch.equal(levels, levels[:, :1].expand(6, 3))
    assert len(levels[:, 0].unique()) == 6
    for case in task.cases("test"):
        y, level = case.problem.f.y, case.problem.noise
        assert y.shape == (3, 1, 24, 24)
        assert level.shape == (3,)
        assert len(level.unique()) == 1


@pytest.mark.parametrize(("colours", "noise"), [(1, (1, 50)), (1, (7.65, 7.65)), (3, (7.65, 7.65))])
def test_draws_of_noise(colours, noise):
    """The generator is asked for a level of every channel, whether they are all used or not."""
    task = deconvolution(colours=colours, channels=1, noise=noise)
    for i, case in enumerate(task.cases("test")):
        rng = np.random.default_rng([0, i, 0xE7A1])
        transfer = transfer_function(task.data.kernels[rng.integers(2)][None], (24, 24))
        clean = case.reference[:, None]
        level = torch.tensor(rng.uniform(noise[0] / 255, noise[1] / 255, size=colours)).float()
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        draw = torch.randn(clean.shape, generator=generator)
        blurred = PeriodicBlur(transfer, (24, 24))(clean)
        assert torch.equal(case.problem.noise, level)
        assert torch.equal(case.problem.f.y, blurred + level[:, None, None, None] * draw)


def observations(split, **changes):
    """Names, observations and noise of the cases of a split."""
    cases = deconvolution(channels=1, **changes).cases(split)
    return [(case.name, case.problem.f.y, case.problem.noise) for case in cases]


def equal(first, second):
    return len(first) == len(second) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("each", ["random", "each"])
@pytest.mark.parametrize("level", [2.55, (5, 10)])
def test_noise_of_the_test_split_alone(each, level):
    """The observations are those of the same noise in all splits; the other splits keep theirs."""
    given = {"eval_kernels": each}
    mixed = {**given, "noise": (0, 15), "test_noise": level}
    assert equal(observations("test", **mixed), observations("test", **given, noise=level))
    plain = observations("test", **given, noise=(0, 15))
    assert not equal(observations("test", **mixed), plain)
    assert equal(observations("test", **given, noise=(0, 15), test_noise=None), plain)
    assert equal(observations("val", **mixed), observations("val", **given, noise=(0, 15)))
    assert not equal(observations("val", **mixed), observations("val", **given, noise=level))
    batch, alone = (
        next(deconvolution(**given, noise=(0, 15), test_noise=n).samples(range(1), 3)).problem
        for n in (level, None)
    )
    assert torch.equal(batch.f.y, alone.f.y) and torch.equal(batch.noise, alone.noise)
