"""Tiles with overlap against the whole image."""

import pytest
import torch
import torch.nn.functional as F

from bmo_cli.linear.boundary import ALIGNMENT, continue_periodically, in_tiles


@pytest.mark.parametrize("size", [(31, 45), (64, 64), (130, 97)])
def test_local_maps_are_reproduced(rng, size):
    y = torch.tensor(rng.random((2, 3, *size)))
    kernel = torch.tensor(rng.normal(size=(3, 3, 9, 9)))

    def blur(tile):
        return F.conv2d(tile, kernel, padding=4)

    torch.testing.assert_close(in_tiles(blur, y, side=32, margin=4), blur(y), rtol=0, atol=1e-12)


def test_grid_of_the_tiles_is_that_of_the_image(rng):
    y = torch.tensor(rng.random((1, 1, 8 * ALIGNMENT, 70)))

    def coarse(tile):  # what a network does that halves its grid
        small = F.avg_pool2d(tile, ALIGNMENT, ceil_mode=True, count_include_pad=False)
        big = small.repeat_interleave(ALIGNMENT, 2).repeat_interleave(ALIGNMENT, 3)
        return big[..., : tile.shape[-2], : tile.shape[-1]]

    torch.testing.assert_close(in_tiles(coarse, y, 40, 10), coarse(y), rtol=0, atol=1e-12)


def test_every_tile_is_small(rng):
    seen = []

    def note(tile):
        seen.append(tuple(tile.shape[-2:]))
        return tile

    y = torch.tensor(rng.random((1, 1, 200, 100)))
    assert torch.equal(in_tiles(note, y, side=64, margin=16), y)
    assert len(seen) == 4 * 2
    assert max(max(shape) for shape in seen) == 64 + 2 * 16


def test_continuation_meets_at_the_borders(rng):
    y = torch.tensor(rng.random((1, 1, 20, 30)))
    wide = continue_periodically(y, 6)
    assert torch.equal(wide[..., 6:26, 6:36], y)
    # The step between opposite borders is spread over the 12 pixels between them.
    inner = (wide - wide.roll(1, 2)).abs()[..., 0, 6:36]
    assert (inner <= 0.2 * (y[..., 0, :] - y[..., -1, :]).abs() + 1e-12).all()
