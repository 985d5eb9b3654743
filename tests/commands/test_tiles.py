"""Tiles with overlap against the whole image."""

import pytest
import torch
import torch.nn.functional as F

from bmo_cli.commands.restore import Restorer
from bmo_cli.errors import InputError
from bmo_cli.experiment.evaluation import Settings
from bmo_cli.gkm.augmented import PDHG
from bmo_cli.gkm.proximal import ProximalGradient, Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.linear.boundary import ALIGNMENT, continue_periodically, in_tiles, interior
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.tasks.deconvolution import Deconvolution
from bmo_cli.tasks.derain import Derain


@pytest.mark.slow
@pytest.mark.parametrize("size", [(31, 45), (64, 64), (130, 97)])
def test_local_maps_are_reproduced(rng, size):
    y = torch.tensor(rng.random((2, 3, *size)))
    kernel = torch.tensor(rng.normal(size=(3, 3, 9, 9)))

    def blur(tile):
        return F.conv2d(tile, kernel, padding=4)

    torch.testing.assert_close(in_tiles(blur, y, side=32, margin=4), blur(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(31, 45), (130, 7)])
def test_periodic_maps_are_reproduced(rng, size):
    y = torch.tensor(rng.random((2, 3, *size)))
    kernel = torch.tensor(rng.normal(size=(3, 3, 9, 9)))

    def blur(tile):
        return F.conv2d(F.pad(tile, (4, 4, 4, 4), mode="circular"), kernel)

    found = in_tiles(blur, y, side=32, margin=4, periodic=True)
    torch.testing.assert_close(found, blur(y), rtol=0, atol=1e-12)


def test_grid_of_the_tiles_is_that_of_the_image(rng):
    y = torch.tensor(rng.random((1, 1, 8 * ALIGNMENT, 70)))

    def coarse(tile):  # what a network does that halves its grid
        small = F.avg_pool2d(tile, ALIGNMENT, ceil_mode=True, count_include_pad=False)
        big = small.repeat_interleave(ALIGNMENT, 2).repeat_interleave(ALIGNMENT, 3)
        return big[..., : tile.shape[-2], : tile.shape[-1]]

    torch.testing.assert_close(in_tiles(coarse, y, 40, 10), coarse(y), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(20, 30), (130, 97)])
@pytest.mark.parametrize("factor", [(2, 2), (3, 1), (1, 4)])
def test_tiles_of_a_map_that_enlarges(rng, size, factor):
    y = torch.tensor(rng.random((2, 3, *size)))
    kernel = torch.tensor(rng.normal(size=(3, 3, 5, 5)))

    def larger(tile):
        return F.interpolate(F.conv2d(tile, kernel, padding=2), scale_factor=factor)

    enlarged = in_tiles(larger, y, side=32, margin=4)
    assert enlarged.shape == (2, 3, factor[0] * size[0], factor[1] * size[1])
    torch.testing.assert_close(enlarged, larger(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [32, 1024])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[..., 1:, :], r"\(1, 1, \d+, \d+\) were restored to \(1, 1, \d+, \d+\): exp"),
        (lambda t: F.avg_pool2d(t, 2), "whole number of times as many"),
        (lambda t: F.interpolate(t, scale_factor=1.5), "whole number of times as many"),
        (lambda t: t.mean((2, 3), keepdim=True), "whole number of times as many"),
        (lambda t: t.repeat(1, 3, 1, 1), "expected as many channels"),
        (lambda t: t[0], "expected as many channels"),
    ],
)
def test_other_changes_of_size_are_refused(rng, side, change, message):
    y = torch.tensor(rng.random((1, 1, 64, 50)))
    with pytest.raises(InputError, match=message):
        in_tiles(change, y, side=side, margin=4)


def test_tiles_that_grow_differently_are_refused(rng):
    """An output of a fixed size: four times the first tile (48 x 48), three times the next."""
    y = torch.tensor(rng.random((1, 1, 96, 96)))
    with pytest.raises(InputError, match=r"but the first one grew 4 x 4 times"):
        in_tiles(lambda t: torch.zeros(1, 1, 192, 192), y, side=32, margin=16)


@pytest.mark.parametrize("periodic", [False, True])
def test_every_tile_is_small(rng, periodic):
    seen = []

    def note(tile):
        seen.append(tuple(tile.shape[-2:]))
        return tile

    y = torch.tensor(rng.random((1, 1, 200, 100)))
    assert torch.equal(in_tiles(note, y, 64, 16, periodic=periodic), y)
    assert len(seen) == 4 * 2
    assert max(max(shape) for shape in seen) == 64 + 2 * 16


def test_continuation_meets_at_the_borders(rng):
    y = torch.tensor(rng.random((1, 1, 20, 30)))
    wide = continue_periodically(y, 6)
    assert torch.equal(wide[..., 6:26, 6:36], y)
    assert torch.equal(interior(wide, 6), y)
    assert torch.equal(interior(continue_periodically(y, 0), 0), y)
    # The step between opposite borders is spread over the 12 pixels between them.
    inner = (wide - wide.roll(1, 2)).abs()[..., 0, 6:36]
    assert (inner <= 0.2 * (y[..., 0, :] - y[..., -1, :]).abs() + 1e-12).all()


# --- schemes in tiles -----------------------------------------------------------------------------


def deconvolved(y, kernel, *, padding="circular", **config):
    """By the resolvent and a small DnCNN, four iterations."""
    net = DnCNN(width=4, depth=3, padding=padding)
    scheme = GKM(operator=Resolvent(gamma=10.0), net=net).double()
    return Restorer(scheme, Deconvolution, {}, Settings(4), **config)(y, kernel)


@pytest.fixture
def kernel(rng):
    """Of 9 x 9 pixels."""
    kernel = torch.tensor(rng.random((9, 9)))
    return kernel / kernel.sum()


@pytest.fixture
def blurred(rng, kernel):
    """An image of 96 x 160 pixels with edges everywhere, blurred, with noise."""
    sharp = F.interpolate(torch.tensor(rng.random((1, 1, 12, 20))), scale_factor=8)
    y = PeriodicBlur(transfer_function(kernel[None], (96, 160)), (96, 160))(sharp)
    return y + 0.01 * torch.tensor(rng.normal(size=y.shape))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("boundary", "padding", "border"),
    [("periodic", "circular", 0), ("periodic", "zeros", 32), ("pad", "zeros", 0)],
)
def test_deconvolution_in_tiles_is_that_of_the_whole_image(
    blurred, kernel, boundary, padding, border
):
    choices = {"boundary": boundary, "padding": padding}
    whole = deconvolved(blurred, kernel, **choices)

    def difference(margin):
        tiles = deconvolved(blurred, kernel, tile=48, margin=margin, **choices)
        return float(interior(tiles - whole, border).abs().max())

    assert difference(48) <= 1e-3
    assert difference(16) <= difference(0) / 2
    assert difference(0) > 0.1


@pytest.mark.parametrize("boundary", ["periodic", "pad"])
def test_tiles_smaller_than_the_kernel(blurred, boundary):
    y, kernel = blurred[..., :52, :52], torch.full((19, 19), 1 / 361, dtype=torch.float64)
    found = deconvolved(y, kernel, boundary=boundary, tile=48, margin=0)
    assert found.shape == y.shape
    assert found.isfinite().all()


@pytest.mark.parametrize("form", ["sparse", "sum"])
def test_padding_keeps_opposite_borders_of_rain_apart(rng, form):
    settings = {"rain_weight": 0.1, "background_weight": 0.1, "streak_weight": 0.1}
    sparse = {"operator": PDHG()}
    guided = {"operator": ProximalGradient(), "net": GuidedPotential(widths=(8, 8, 8))}
    scheme = GKM(**(sparse if form == "sparse" else guided), layers=2).double()
    settings["form"] = form
    y = torch.tensor(rng.random((1, 1, 40, 40)))
    changed = y.clone()
    changed[..., -1:] = 1 - changed[..., -1:]

    def change_at_the_other_border(boundary):
        a, b = (
            Restorer(scheme, Derain, settings, Settings(4), boundary=boundary)(image, None)
            for image in (y, changed)
        )
        assert a.shape == y.shape
        return float((a - b)[..., :4].abs().max())

    assert change_at_the_other_border("periodic") > 1e-3
    assert change_at_the_other_border("pad") < change_at_the_other_border("periodic") / 10
