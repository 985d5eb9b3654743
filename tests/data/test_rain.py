"""Synthetic rain against its definition: directions, lengths, brightness, determinism."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, label
from scipy.ndimage import sum as sum_of

from bmo_cli.data.images.file import read_image
from bmo_cli.data.patches import as_tensor
from bmo_cli.data.rain import LIMITS, PRESETS, Streaks, SyntheticRain, streaks
from bmo_cli.errors import InputError
from bmo_cli.metrics import PROTOCOLS

PLAIN = {
    "fan": (0.0, 0.0),
    "spread": (0.0, 0.0),
    "ceiling": (1000.0, 1000.0),
    "layers": 1,
    "length_spread": 0.0,
    "cluster": 1,
}
"""Streaks that differ in their places alone."""
PEAK_TO_AREA = np.sqrt(np.pi / (4 * np.log(2)))  # area of a Gaussian of peak 1 and FWHM 1


def plain(*, angle=0.0, length=30.0, width=3.0, density=1.0, brightness=0.6, **changes):
    values = {"angle": angle, "length": length, "width": width}
    values |= {"density": density, "brightness": brightness}
    return Streaks(**{**PLAIN, **{k: (v, v) for k, v in values.items()}, **changes})


def one_streak(size=(129, 129), **keys):
    """An image with a single whole streak that ends well inside."""
    rain = plain(**keys, density=0.06)
    for seed in range(400):
        image = rain.draw((1, *size), np.random.default_rng(seed))[0, 0].numpy()
        rows, columns = np.nonzero(image > 1e-4)
        inside = rows.size and min(rows.min(), columns.min()) > 0
        if inside and max(rows.max(), columns.max()) < 128 and label(image > 1e-4)[1] == 1:
            return image.astype(float)
    raise AssertionError("no image with one streak")


def principal_axes(image):
    """Variances across and along (pixels^2), and the direction from the vertical in degrees."""
    rows, columns = np.indices(image.shape)
    weight = image / image.sum()
    down, right = rows - (weight * rows).sum(), columns - (weight * columns).sum()
    moments = np.array([[(weight * a * b).sum() for b in (down, right)] for a in (down, right)])
    values, axes = np.linalg.eigh(moments)
    main = axes[:, 1] * np.sign(axes[0, 1])
    # To the right at the top where the angle is positive: down the image it goes to the left.
    return values[0], values[1], np.rad2deg(np.arctan2(-main[1], main[0]))


def direction(image):
    """Of least change: the structure tensor, in degrees from the vertical."""
    down, right = np.gradient(gaussian_filter(image, 1.0))
    tensor = np.array([[(a * b).mean() for b in (down, right)] for a in (down, right)])
    along = np.linalg.eigh(tensor)[1][:, 0]
    return np.rad2deg(np.arctan2(-along[1] * np.sign(along[0]), abs(along[0])))


@pytest.mark.parametrize("angle", [-45.0, -20.0, 0.0, 7.0, 45.0])
def test_direction_length_and_width_of_a_streak(angle):
    across, along, measured = principal_axes(one_streak(angle=angle, length=40.0, width=3.0))
    assert measured == pytest.approx(angle, abs=0.7)
    # A flat line of length L has variance L^2 / 12, and soft ends of 0.07 L add their own.
    assert np.sqrt(along) == pytest.approx(40 * np.sqrt(1 / 12 + 0.07**2), rel=0.04)
    assert np.sqrt(across) * np.sqrt(8 * np.log(2)) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("width", [1.3, 2.0, 4.0])
@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_a_streak_is_as_bright_as_told_flat_in_its_middle_and_soft_at_its_ends(width, angle):
    image = one_streak(angle=angle, length=50.0, width=width, brightness=0.5)
    area = 0.5 * 50 * width * PEAK_TO_AREA
    assert image.sum() == pytest.approx(area, rel=0.03)
    assert image.max() == pytest.approx(0.5, rel=0.25 if width < 2 else 0.06)
    lit = image.sum(1)[image.sum(1) > 1e-4]
    flat = lit[len(lit) // 2 - 8 : len(lit) // 2 + 8]
    np.testing.assert_allclose(flat, flat.mean(), rtol=0.01)
    ends = np.count_nonzero((lit > 0.05 * flat.mean()) & (lit < 0.95 * flat.mean()))
    # A Gaussian edge of deviation s rises from 5 to 95 % in 3.3 s, and there are two.
    assert ends == pytest.approx(2 * 3.29 * 0.07 * 50 * np.cos(np.deg2rad(angle)), abs=3)


@pytest.mark.parametrize("angle", [-30.0, 0.0, 45.0])
@pytest.mark.parametrize("changes", [{}, {"cluster": 3}, {"spread": (1.0, 1.0)}, {"layers": 3}])
def test_the_mean_follows_from_density_length_width_and_brightness(angle, changes):
    rain = plain(angle=angle, length=20.0, width=1.5, density=20.0, brightness=0.01, **changes)
    drawn = rain.draw((6, 300, 200), np.random.default_rng(5)).double()
    expected = 20 / 1000 * 20 * 1.5 * PEAK_TO_AREA * 0.01
    assert float(drawn.mean()) == pytest.approx(expected, rel=0.05)
    for part in (drawn[..., :30, :], drawn[..., -30:, :], drawn[..., :30], drawn[..., -30:]):
        assert float(part.mean()) == pytest.approx(expected, rel=0.2)  # no border is bare


def test_the_borders_of_an_image_are_strangers():
    """Not periodic: no streak leaves at one border and enters at the other."""
    drawn = plain(density=3.0).draw((20, 64, 64), np.random.default_rng(1))[:, 0].numpy()
    inner = np.mean([np.corrcoef(image[30], image[31])[0, 1] for image in drawn])
    outer = np.mean([np.corrcoef(image[0], image[-1])[0, 1] for image in drawn])
    assert inner > 0.9 and abs(outer) < 0.25


@pytest.mark.parametrize("spread", [0.0, 0.7, 1.4])
def test_brightness_has_a_heavy_tail(spread):
    """Lognormal: the logarithm of a streak's sum has the standard deviation `spread`."""
    rain = plain(length=6.0, width=1.5, density=0.3, brightness=0.01, spread=(spread, spread))
    image = rain.draw((1, 900, 900), np.random.default_rng(2))[0, 0].double().numpy()
    parts, count = label(image > 1e-7)
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    sums = np.log(sum_of(image, parts, np.setdiff1d(np.arange(1, count + 1), border)))
    low, high = np.quantile(sums, [0.1587, 0.8413])  # robust: some streaks touch
    assert (high - low) / 2 == pytest.approx(spread, rel=0.15, abs=0.06)


def test_a_layer_ends_at_its_ceiling():
    rain = plain(brightness=0.1, density=30.0, ceiling=(1.5, 1.5))
    drawn = rain.draw((1, 64, 64), np.random.default_rng(0))
    assert float(drawn.max()) == pytest.approx(0.15)
    assert (drawn > 0.1499).float().mean() > 0.05
    two = plain(brightness=0.1, density=60.0, ceiling=(1.5, 1.5), layers=2)
    assert float(two.draw((1, 64, 64), np.random.default_rng(0)).max()) == pytest.approx(0.3)


@pytest.mark.parametrize("name", PRESETS)
def test_images_have_directions_of_their_own_within_the_range(name):
    rain = streaks(name, angle=(-40.0, 10.0), fan=(0.0, 0.0))
    drawn = rain.draw((40, 128, 128), np.random.default_rng(3))[:, 0].double().numpy()
    angles = [direction(image) for image in drawn]
    assert -43 < min(angles) < -25 and 0 < max(angles) < 13
    assert np.mean(angles) == pytest.approx(-15, abs=5)  # the middle, with deviation 10 / sqrt(40)
    assert np.std(angles) == pytest.approx(50 / np.sqrt(24), rel=0.3)  # of a triangular density


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_rain_is_added_gray_and_ends_at_white(name, channels, rng):
    clean = torch.tensor(rng.random((2, channels, 40, 50))).float()
    drawn = PRESETS[name].draw((2, 40, 50), np.random.default_rng(0))
    assert drawn.min() >= 0 and drawn.max() <= 1 and drawn.max() > 0.05
    rainy = PRESETS[name].fall(clean, drawn)
    added = rainy - clean
    assert added.min() >= 0 and rainy.max() <= 1
    below = rainy < 1
    streak = drawn.expand_as(clean)
    torch.testing.assert_close(added[below], streak[below])  # does not depend on b or the channel
    assert (added[~below] <= streak[~below] + 1e-6).all()


def test_fan_turns_the_layers_of_an_image():
    narrow, wide = (
        plain(length=60.0, density=4.0, brightness=0.1, layers=2, fan=(fan, fan)).draw(
            (30, 96, 96), np.random.default_rng(4)
        )
        for fan in (0.0, 20.0)
    )

    def isotropy(drawn):  # of the structure tensor: 0 for one direction
        shares = []
        for image in drawn[:, 0].double().numpy():
            down, right = np.gradient(gaussian_filter(image, 1.0))
            tensor = [[(a * b).mean() for b in (down, right)] for a in (down, right)]
            least, most = np.linalg.eigvalsh(tensor)
            shares.append(least / most)
        return np.mean(shares)

    assert isotropy(narrow) < 0.02 < 0.03 < isotropy(wide) < 0.2


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_reproducible_and_in_range(name):
    first, again, other = (
        PRESETS[name].draw((2, 60, 50), np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (2, 1, 60, 50) and first.dtype == torch.float32
    assert not torch.equal(first[0], first[1])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), [("light", "rain100l"), ("heavy", "rain100h/train")])
def test_presets_resemble_the_sets_they_are_named_after(name, folder, real_data):
    """Scores and y - b of rainy photographs are those of the pairs that the preset is fitted to."""
    pairs, photographs = real_data / folder, real_data / "bsd_colour"
    if not (pairs.is_dir() and photographs.is_dir()):
        pytest.skip(f"{folder} or bsd_colour not found in {real_data} (set BMO_DATA)")
    files = sorted((pairs / "clean").glob("*.png"))[: 10 if name == "light" else 25]
    real = [describe(colour(pairs / "rain" / file.name), colour(file)) for file in files]
    synthetic = []
    for i, file in enumerate(sorted(photographs.glob("*.jpg"))[::9]):
        clean = colour(file)
        drawn = PRESETS[name].draw((1, *clean.shape[1:]), np.random.default_rng(i))
        synthetic.append(describe(PRESETS[name].fall(clean[None], drawn)[0], clean))
    difference = np.mean(synthetic, 0) - np.mean(real, 0)
    errors = np.hypot(*(np.std(rain, 0) / np.sqrt(len(rain)) for rain in (real, synthetic)))
    assert (np.abs(difference) < 2.5 * errors).all()
    assert 0.6 < np.std(synthetic, 0)[0] / np.std(real, 0)[0] < 1.6  # some drizzle, some a shower


def colour(file):
    return as_tensor(read_image(file).channels_first(3))


def describe(rainy, clean):
    """PSNR, SSIM, mean of y - b, share of y - b above 0.08."""
    scores = PROTOCOLS["prenet"].score(rainy, clean)
    added = rainy - clean
    return [*scores.values(), float(added.mean()), float((added > 0.08).float().mean())]


def test_a_key_changes_its_parameter_alone():
    changes = {name: limits for name, limits in LIMITS.items() if name != "ceiling"}
    for name, limits in {**changes, "ceiling": (2.0, 3.0)}.items():
        rain = SyntheticRain(rain="heavy", **{name: list(limits)}).streaks
        assert getattr(rain, name) == limits
        others = [other for other in LIMITS if other != name]
        assert all(getattr(rain, other) == getattr(PRESETS["heavy"], other) for other in others)
    assert SyntheticRain(layers_of_rain=5).streaks == streaks("light", layers=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"angle": (10, -10)}, r"task.angle=\[10,-10\] is no range.*-60 <= low <= high <= 60"),
        ({"angle": (-90, 90)}, r"task.angle=.*; try task.angle=\[-45,45\]"),
        ({"length": (0, 5)}, r"task.length=\[0,5\].*1 <= low"),
        ({"width": (0.5, 2)}, r"task.width=.*1.2 <= low"),
        ({"brightness": (0.5, 2)}, r"task.brightness=.*high <= 1"),
        ({"density": (0, 2)}, r"task.density=.*0.01 <= low"),
        ({"ceiling": (float("nan"), 2)}, r"task.ceiling=\[nan,2\]"),
    ],
)
def test_refused(change, message):
    with pytest.raises(InputError, match=message) as refusal:
        streaks("light", **change)
    assert "\n" not in str(refusal.value)
