"""Synthetic rain against its definition: directions, lengths, blending, determinism."""

import numpy as np
import pytest
import torch

from bmo_cli.data.rain import PRESETS, Streaks, streaks
from bmo_cli.errors import InputError


def one_streak(angle, length, width, size=(129, 129), seed=0):
    """An image with a single streak in its middle."""
    chosen = Streaks(
        angle=(angle, angle),
        length=(length, length),
        width=(width, width),
        density=(0.06, 0.06),
        brightness=(0.6, 0.6),
    )
    for seed in range(200):
        image = chosen.draw((1, *size), np.random.default_rng(seed))[0, 0].numpy()
        row, column = np.unravel_index(image.argmax(), size)
        alone = np.roll(image, (size[0] // 2 - row, size[1] // 2 - column), (0, 1))
        profile = alone.sum() / 0.6
        if abs(image.max() - 0.6) < 1e-3 and 0.8 < profile / (length * width * 1.06) < 1.3:
            return alone
    raise AssertionError("no image with one streak")


@pytest.mark.parametrize("angle", [-30.0, 0.0, 20.0])
def test_direction_length_and_width(angle):
    image = one_streak(angle, length=30.0, width=3.0)
    rows, columns = np.indices(image.shape)
    weight = image / image.sum()
    centre = (weight * rows).sum(), (weight * columns).sum()
    down, right = rows - centre[0], columns - centre[1]
    moments = np.array([[(weight * a * b).sum() for b in (down, right)] for a in (down, right)])
    values, axes = np.linalg.eigh(moments)
    main = axes[:, 1] * np.sign(axes[0, 1])
    # To the right at the top where the angle is positive: down the image it goes to the left.
    assert np.rad2deg(np.arctan2(-main[1], main[0])) == pytest.approx(angle, abs=1.0)
    # A flat line of length L has variance L^2 / 12, its soft ends add some; across it is Gaussian.
    assert 30**2 / 12 < values[1] < 33**2 / 12
    assert np.sqrt(values[0]) * np.sqrt(8 * np.log(2)) == pytest.approx(3.0, rel=0.05)


def test_density_counts_streaks(rng):
    few = Streaks(length=(1, 1), width=(0.3, 0.3), density=(4, 4), brightness=(1, 1))
    image = few.draw((1, 400, 400), rng)[0, 0].numpy()
    peaks = (image > 0.99).sum()
    assert 0.004 * 400**2 * 0.8 < peaks < 0.004 * 400**2 * 1.6  # a streak has one or two


def test_blending(rng):
    clean = torch.tensor(rng.random((2, 3, 8, 8))).float()
    fallen = torch.tensor(rng.random((2, 1, 8, 8))).float()
    screen = Streaks(blend="screen").fall(clean, fallen)
    torch.testing.assert_close(screen, 1 - (1 - clean) * (1 - fallen))
    added = Streaks(blend="additive").fall(clean, fallen)
    torch.testing.assert_close(added, (clean + fallen).clamp(max=1))


def test_layers_screen_one_another():
    single = streaks("light", layers=1)
    drawn = [single.draw((1, 16, 16), rng) for rng in [np.random.default_rng(3)] for _ in range(3)]
    three = streaks("light", layers=3).draw((1, 16, 16), np.random.default_rng(3))
    clear = torch.stack([1 - layer for layer in drawn]).prod(0)
    torch.testing.assert_close(three, 1 - clear, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_reproducible_and_in_range(name):
    first, again, other = (
        PRESETS[name].draw((2, 60, 50), np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (2, 1, 60, 50)
    assert first.min() >= 0 and first.max() <= 1
    assert not torch.equal(first[0], first[1])


def test_presets_resemble_the_sets_they_are_named_after(rng):
    """Rain100L starts at 26 to 27 dB, Rain100H at 13.5 dB."""
    gray = torch.full((8, 1, 128, 128), 0.4)
    levels = {}
    for name, preset in PRESETS.items():
        error = preset.fall(gray, preset.draw((8, 128, 128), rng)) - gray
        levels[name] = float(-10 * torch.log10(error.square().mean()))
    assert 20 < levels["light"] < 30
    assert 10 < levels["heavy"] < 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"angle": (10, -10)}, "task.angle must be"),
        ({"length": (0, 5)}, "task.length must be"),
        ({"brightness": (0.5, 2)}, "task.brightness must be"),
    ],
)
def test_refused(change, message):
    with pytest.raises(InputError, match=message):
        streaks("light", **change)
