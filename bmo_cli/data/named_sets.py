"""Data sets with names: where they lie under `data.root`, how many images, where they come from.

Nothing is downloaded. A set is where its line says, or a message says what was expected.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bmo_cli.data.images.image_set import image_files
from bmo_cli.data.pairs import pair_files
from bmo_cli.errors import InputError, suggest_nearest

log = logging.getLogger(__name__)
Kind = Literal["gray", "colour", "pairs"]
Files = tuple[list[Path], list[Path] | None]
"""Clean files, and their degraded partners where the set has them."""


@dataclass(frozen=True)
class Part:
    """Images of a set that one purpose takes.

    Attributes:
        folder: under the root; pairs have the folders `rain` and `clean` in it, see `pair_files`.
        counts: numbers of images that are accepted, the published one first; another one is a part
            of it, whose scores are not comparable with published averages.
    """

    folder: str
    counts: tuple[int, ...]


@dataclass(frozen=True)
class NamedSet:
    """A published data set.

    Attributes:
        kind: gray or colour photographs, or pairs of rainy and clean ones.
        published: where.
        test: what is tested on; None: the set is for training.
        train: what is trained on; None: the set is for testing.
        scenes_of: sets whose test images show scenes of the training images. None of them is
            tested on after training on this set.
    """

    kind: Kind
    published: str
    test: Part | None = None
    train: Part | None = None
    scenes_of: tuple[str, ...] = ()


SETS: Mapping[str, NamedSet] = {
    "set12": NamedSet(
        "gray",
        "Zhang, Zuo, Chen, Meng & Zhang, Beyond a Gaussian denoiser, IEEE TIP 2017; "
        "github.com/cszn/IRCNN, testsets/Set12",
        test=Part("set12", (12,)),
    ),
    "set14": NamedSet(
        "colour",
        "Zeyde, Elad & Protter, On single image scale-up using sparse-representations, Curves and "
        "Surfaces 2010; github.com/cszn/IRCNN, testsets/Set14",
        test=Part("set14", (14,)),
    ),
    "set3c": NamedSet(
        "colour",
        "Zhang et al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI 2021; "
        "github.com/cszn/DPIR, testsets/set3c",
        test=Part("set3c", (3,)),
    ),
    "bsd68": NamedSet(
        "gray",
        "Roth & Black, Fields of experts, IJCV 2009, from the Berkeley segmentation data set; "
        "github.com/cszn/IRCNN, testsets/BSD68",
        test=Part("bsd68", (68,)),
    ),
    "bsd400": NamedSet(
        "gray",
        "Chen & Pock, Trainable nonlinear reaction diffusion, IEEE TPAMI 2017, from the Berkeley "
        "segmentation data set; github.com/SaoYan/DnCNN-PyTorch, data/train",
        train=Part("bsd400_gray", (400,)),
    ),
    "bsd_colour": NamedSet(
        "colour",
        "Arbelaez, Maire, Fowlkes & Malik, Contour detection and hierarchical image segmentation, "
        "IEEE TPAMI 2011 (BSDS500): the 365 of its 500 photographs whose scenes are in none of "
        "BSD68, Rain100L and Rain100H",
        train=Part("bsd_colour", (365,)),
    ),
    "levin": NamedSet(
        "gray",
        "Levin, Weiss, Durand & Freeman, Understanding and evaluating blind deconvolution "
        "algorithms, CVPR 2009: the four sharp images, 255 x 255 (x in its .mat files)",
        test=Part("levin", (4,)),
    ),
    "rain100l": NamedSet(
        "pairs",
        "Yang, Tan, Feng, Liu, Guo & Yan, Deep joint rain detection and removal from a single "
        "image, CVPR 2017, light rain",
        test=Part("rain100l", (100, 3)),
    ),
    "rain100h": NamedSet(
        "pairs",
        "Yang, Tan, Feng, Liu, Guo & Yan, Deep joint rain detection and removal from a single "
        "image, CVPR 2017, heavy rain",
        test=Part("rain100h/test", (100, 20)),
        train=Part("rain100h/train", (1800, 56)),
        scenes_of=("rain100l",),
    ),
    "rain12": NamedSet(
        "pairs",
        "Li, Tan, Guo, Lu & Brown, Rain streak removal using layer priors, CVPR 2016",
        test=Part("rain12", (12,)),
    ),
}
KERNELS: Mapping[str, tuple[str, tuple[int, ...], str]] = {
    "levin": (
        "kernels/levin09.npz",
        (19, 17, 15, 27, 13, 21, 23, 23),
        "Levin, Weiss, Durand & Freeman, CVPR 2009; github.com/cszn/DPIR, kernels/Levin09.mat, "
        "as arrays k1 ... k8 of numpy.savez",
    ),
}
"""Blur kernels with names: file under the root, sides in pixels, where they are published."""


def find(name: str, purpose: Literal["test", "train"], root: str | None, key: str) -> Files:
    """The files of a set, sorted by name.

    Args:
        name: of a set.
        purpose: which part of it.
        root: folder of the data sets; None: environment variable BMO_DATA.
        key: of the configuration that names the set, for messages.

    Raises:
        InputError: no such set or none for this purpose, no root, or other files than expected.
    """
    part = require(name, purpose, key)
    known = SETS[name]
    expected = f"{_layout(known, part)}; {_citation(known)}"
    if purpose == "train":
        expected += f"; {key}=null: the photographs of scikit-image"
    where = root_folder(root, f"{key}={name}", expected) / part.folder
    folders = [where / kind for kind in ("clean", "rain")] if known.kind == "pairs" else [where]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise InputError(f"{key}={name}: no folder {missing[0]}; expected in data.root: {expected}")
    files: Files = (
        pair_files(str(where), key)
        if known.kind == "pairs"
        else (image_files(str(where), key), None)
    )
    count = len(files[0])
    if count not in part.counts:
        raise InputError(
            f"{key}={name}: {where} holds {count} images; expected in data.root: {expected}"
        )
    if count != part.counts[0]:
        log.warning(
            "%s=%s: %d images, not the published %d: scores do not compare with published ones",
            *(key, name, count, part.counts[0]),
        )
    return files


def require(name: str, purpose: Literal["test", "train"], key: str) -> Part:
    """The part of a set for a purpose.

    Raises:
        InputError: no such set, or it has none.
    """
    able = [known for known, entry in SETS.items() if getattr(entry, purpose) is not None]
    if name not in able:
        hint = suggest_nearest(name, able)
        raise InputError(f"{key} must be one of {', '.join(able)}, or null, got '{name}'{hint}")
    part = SETS[name].test if purpose == "test" else SETS[name].train
    assert part is not None
    return part


def root_folder(root: str | None, wanted: str, expected: str) -> Path:
    """The folder of the data sets.

    Args:
        root: as given; None: environment variable BMO_DATA.
        wanted: what is looked for, for the message.
        expected: where under the root it would be.

    Raises:
        InputError: neither is set.
    """
    folder = root or os.environ.get("BMO_DATA")
    if not folder:
        raise InputError(
            f"{wanted} needs the folder of the data sets: give data.root=DIR or set BMO_DATA; "
            f"expected in it: {expected}"
        )
    return Path(folder).expanduser()


def kernel_file(name: str, root: str | None) -> Path:
    """File of the blur kernels of this name.

    Raises:
        InputError: no root, or no such file.
    """
    path, sides, published = KERNELS[name]
    expected = f"{path} with {len(sides)} kernels; published in {published}"
    file = root_folder(root, f"task.kernels={name}", expected) / path
    if not file.is_file():
        raise InputError(f"task.kernels={name}: no file {file}; expected {expected}")
    return file


def _layout(entry: NamedSet, part: Part) -> str:
    counts = " or ".join(map(str, part.counts))
    if entry.kind == "pairs":
        return (
            f"{part.folder}/rain and {part.folder}/clean with {counts} images each, of equal names "
            "or rain-NAME and norain-NAME"
        )
    return f"{part.folder} with {counts} {entry.kind} images"


def _citation(entry: NamedSet) -> str:
    return f"published in {entry.published}"
