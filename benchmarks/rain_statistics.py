"""The synthetic rain beside the real rain that it is fitted to: numbers, and one picture.

Real: pairs 001 to 010 of Rain100L for `light`, and the training pairs of Rain100H for `heavy`; no
pair that a model is tested on. Synthetic: the presets over photographs of `bsd_colour`. Of every
statistic of an image it prints mean / median (least to largest). Lengths and widths are those of a
single streak whose autocorrelation falls to one half where that of y - b does.

usage: python benchmarks/rain_statistics.py DATA OUT.png [PHOTOGRAPHS]
       (DATA holds rain100l/{rain,clean}, rain100h/train/{rain,clean} and bsd_colour; PHOTOGRAPHS is
       the number that gets rain, 100 unless stated)
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from bmo_cli.data.images.file import read_image
from bmo_cli.data.images.image_set import image_files
from bmo_cli.data.patches import as_tensor, central
from bmo_cli.data.rain import PRESETS
from bmo_cli.errors import BmoError, InputError
from bmo_cli.metrics import PROTOCOLS

USAGE = "usage: python benchmarks/rain_statistics.py DATA OUT.png [PHOTOGRAPHS]"
REAL = {"light": ("rain100l", 10), "heavy": ("rain100h/train", None)}
"""Folder of the real pairs of a preset, and how many of them, from the first on, are used."""
STRONG = 0.08  # a pixel of y - b above it belongs to a streak that one sees
SIDE, SHOWN = 200, 4  # pixels and number of the examples
BINS = np.linspace(0, 1, 52)  # of y - b
FREQUENCIES = np.linspace(0, 0.5, 41)  # cycles per pixel
DIRECTIONS = np.linspace(-90, 90, 61)  # degrees from the vertical

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rain:
    """Statistics of a rainy image y and its clean one b.

    Attributes:
        psnr, ssim: of y, protocol prenet.
        mean: of y - b.
        strong: share of pixels of y - b above `STRONG`.
        angle: direction of the streaks, degrees from the vertical, positive as a slash.
        length, width: of a streak in pixels.
        histogram: density of y - b over `BINS`.
        radial, angular: power of y - b by frequency and by direction, of mean 1.
        pictures: parts of y and of y - b, (H, W, 3) and (H, W).
    """

    psnr: float
    ssim: float
    mean: float
    strong: float
    angle: float
    length: float
    width: float
    histogram: Array
    radial: Array
    angular: Array
    pictures: tuple[Array, Array]

    @classmethod
    def of(cls, rainy: Tensor, clean: Tensor) -> "Rain":
        """Measure a pair, (3, H, W) each in [0, 1]."""
        scores = PROTOCOLS["prenet"].score(rainy, clean)
        added = (rainy - clean).double().numpy()
        streaks = added.max(0)  # of the three, the channel that white cuts off least
        correlation = _autocorrelation(streaks)
        angle = _direction(streaks, correlation)
        along, across = _profiles(correlation, angle)
        radial, angular = _spectra(streaks)
        part = central(rainy, SIDE).permute(1, 2, 0).double().numpy()
        return cls(
            **scores,
            mean=float(added.mean()),
            strong=float((added > STRONG).mean()),
            angle=angle,
            length=2 * _half(along),  # a flat line of length L: 1 - |t| / L
            width=np.sqrt(2) * _half(across),  # a Gaussian: wider by the square root of 2
            histogram=np.histogram(added, BINS, density=True)[0],
            radial=radial,
            angular=angular,
            pictures=(part, central(rainy - clean, SIDE).amax(0).double().numpy()),
        )


def _autocorrelation(streaks: Array) -> Array:
    """Of an image without its mean, (2 H, 2 W), with the zero shift at (H, W) and 1 there."""
    size = [2 * side for side in streaks.shape]
    power = np.abs(np.fft.rfft2(streaks - streaks.mean(), s=size)) ** 2
    correlation = np.fft.irfft2(power, s=size)
    return np.fft.fftshift(correlation / correlation[0, 0])


SHIFTS = np.arange(0, 60, 0.25)  # pixels


def _profiles(correlation: Array, angle: float) -> tuple[Array, Array]:
    """An autocorrelation over `SHIFTS` along streaks of a direction, and across them."""
    sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    centre = np.array(correlation.shape)[:, None] // 2
    along, across = (
        map_coordinates(correlation, centre + np.outer(step, SHIFTS), order=1)
        for step in ((cosine, -sine), (sine, cosine))
    )
    return along, across


def _half(profile: Array) -> float:
    """The shift at which a profile that begins with 1 falls to one half."""
    first = int((profile < 0.5).argmax()) or len(profile) - 1
    return float(np.interp(-0.5, -profile[first - 1 : first + 1], SHIFTS[first - 1 : first + 1]))


def _direction(streaks: Array, correlation: Array) -> float:
    """Along it the streaks change least (structure tensor) and resemble themselves most."""
    down, right = np.gradient(gaussian_filter(streaks, 1.0))
    tensor = np.array([[(a * b).mean() for b in (down, right)] for a in (down, right)])
    along = np.linalg.eigh(tensor)[1][:, 0]
    rough = np.rad2deg(np.arctan2(-along[1] * np.sign(along[0]), abs(along[0])))
    near = rough + np.arange(-5, 5.1, 0.5)
    return float(max(near, key=lambda angle: _profiles(correlation, angle)[0][:120].sum()))


def _spectra(streaks: Array) -> tuple[Array, Array]:
    """Mean power by frequency, and by the direction of the streaks that have it."""
    window = np.outer(*(np.hanning(side) for side in streaks.shape))
    power = np.abs(np.fft.fft2((streaks - streaks.mean()) * window)) ** 2
    down, right = np.meshgrid(*(np.fft.fftfreq(side) for side in streaks.shape), indexing="ij")
    radius = np.hypot(down, right)
    direction = (np.rad2deg(np.arctan2(down, right)) + 90) % 180 - 90  # across the frequency
    inside = (radius > 0.02) & (radius < 0.5)
    spectra = []
    for place, bins in ((radius, FREQUENCIES), (direction, DIRECTIONS)):
        total = np.histogram(place[inside], bins, weights=power[inside])[0]
        spectrum = total / np.histogram(place[inside], bins)[0].clip(1)
        spectra.append(spectrum / spectrum.mean())
    return spectra[0], spectra[1]


def _real(data: Path, preset: str) -> Iterator[Rain]:
    folder, count = REAL[preset]
    rainy, clean = (
        image_files(str(data / folder / kind), "DATA")[:count] for kind in ("rain", "clean")
    )
    if [file.name for file in rainy] != [file.name for file in clean]:
        raise InputError(f"{data / folder}: rain and clean differ in names; expected equal ones")
    for pair in zip(rainy, clean, strict=True):
        yield Rain.of(*(_read(file) for file in pair))


def _synthetic(data: Path, preset: str, count: int) -> Iterator[Rain]:
    files = image_files(str(data / "bsd_colour"), "DATA")
    for i in np.linspace(0, len(files) - 1, count).astype(int):
        clean = _read(files[i])
        rng = np.random.default_rng([0, int(i)])
        streaks = PRESETS[preset].draw((1, *clean.shape[1:]), rng)[0]
        rainy = PRESETS[preset].fall(clean, streaks)
        yield Rain.of((rainy * 255).round() / 255, clean)


def _read(file: Path) -> Tensor:
    return as_tensor(read_image(file).channels_first(3))


FORMATS = {
    "psnr": "PSNR {:.2f} / {:.2f} ({:.1f} to {:.1f}) dB",
    "ssim": "SSIM {:.4f} / {:.4f} ({:.2f} to {:.2f})",
    "mean": "mean of y - b {:.4f} / {:.4f} ({:.3f} to {:.3f})",
    "strong": f"share above {STRONG} {{:.3f}} / {{:.3f}} ({{:.3f}} to {{:.3f}})",
    "angle": "angle {:.1f} / {:.1f} ({:.0f} to {:.0f}) degrees",
    "length": "length {:.1f} / {:.1f} ({:.0f} to {:.0f}) pixels",
    "width": "width {:.2f} / {:.2f} ({:.1f} to {:.1f}) pixels",
}


def _describe(rain: Sequence[Rain]) -> str:
    """Mean / median (least to largest) of every statistic."""
    lines = []
    for name, text in FORMATS.items():
        values = [getattr(one, name) for one in rain]
        lines.append(text.format(np.mean(values), np.median(values), min(values), max(values)))
    return ", ".join(lines)


def _draw_examples(axes: NDArray[np.object_], rain: Sequence[Rain], label: str) -> None:
    """Photographs with rain, then y - b of the same ones, spread over the images by brightness."""
    ordered = sorted(rain, key=lambda one: one.mean)
    chosen = [ordered[i] for i in np.linspace(0, len(rain) - 1, SHOWN + 2).astype(int)[1:-1]]
    for axis, one in zip(axes[:SHOWN], chosen, strict=True):
        axis.imshow(one.pictures[0].clip(0, 1))
        axis.set_title(f"{label}, {one.psnr:.1f} dB", fontsize=9)
    for axis, one in zip(axes[SHOWN:], chosen, strict=True):
        axis.imshow(one.pictures[1], cmap="gray", vmin=0, vmax=0.6)
        axis.set_title(f"{label}, y - b (white: 0.6)", fontsize=9)
    for axis in axes:
        axis.set_axis_off()


def _draw_charts(axes: Sequence[Axes], rain: dict[str, Sequence[Rain]], preset: str) -> None:
    """Histogram, both spectra, directions, and length against mean of y - b."""
    for number, (label, images) in enumerate(rain.items()):
        style = {"color": f"C{number}", "label": label}
        curves = (
            (BINS, "histogram", "y - b"),
            (FREQUENCIES, "radial", "cycles per pixel"),
            (DIRECTIONS, "angular", "spectrum: degrees from the vertical"),
        )
        for axis, (bins, name, words) in zip(axes, curves, strict=False):
            values = np.mean([getattr(one, name) for one in images], 0)
            axis.plot((bins[1:] + bins[:-1]) / 2, values, **style)
            axis.set(yscale="log", xlabel=words)
        angles = [one.angle for one in images]
        axes[3].hist(angles, np.arange(-60, 61, 5), density=True, alpha=0.6, **style)
        axes[3].set(xlabel="images: degrees from the vertical")
        pairs = [(one.mean, one.length) for one in images]
        axes[4].plot(*zip(*pairs, strict=True), ".", alpha=0.7, **style)
        axes[4].set(xlabel="mean of y - b", ylabel="length of a streak (pixels)")
        axes[5].plot([one.psnr for one in images], [one.ssim for one in images], ".", **style)
        axes[5].set(xlabel="PSNR (dB)", ylabel="SSIM")
    axes[0].set(title=f"{preset}: density of y - b")
    axes[0].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)


def main() -> None:
    """Print the statistics and write the picture."""
    words = sys.argv[1:]
    if len(words) not in (2, 3) or not all(word.isdecimal() and int(word) for word in words[2:]):
        raise InputError(USAGE)
    data, count = Path(words[0]), int(words[2]) if len(words) == 3 else 100
    figure = Figure(figsize=(3 * 2 * SHOWN, 9.5 * len(PRESETS)), layout="constrained")
    parts = figure.subfigures(2 * len(PRESETS), 1, height_ratios=[6.2, 3.3] * len(PRESETS))
    for number, preset in enumerate(PRESETS):
        rain = {
            f"real ({REAL[preset][0]})": list(_real(data, preset)),
            "synthetic": list(_synthetic(data, preset, count)),
        }
        examples = parts[2 * number].subplots(2, 2 * SHOWN)
        for axes, (label, images) in zip(examples, rain.items(), strict=True):
            print(f"{preset}, {label}, {len(images)} images: {_describe(images)}")
            _draw_examples(axes, images, label)
        _draw_charts(parts[2 * number + 1].subplots(1, 6), rain, preset)
    figure.savefig(Path(words[1]), dpi=70)


if __name__ == "__main__":
    try:
        main()
    except BmoError as error:
        sys.exit(f"rain_statistics: {error}")
