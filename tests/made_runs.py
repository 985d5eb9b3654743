"""Run folders as `bmo train` leaves them, with values that a test chooses."""

import json

import numpy as np

from bmo_cli.data.images.file import Photograph, write_image
from bmo_cli.results.files import plain
from bmo_cli.results.run_folder import RunFolder

PSNR = {
    "name": "psnr",
    "unit": "dB",
    "larger_is_better": True,
    "formats": {"psnr_input": ".2f", "psnr": ".2f"},
}


def make_run(folder, score, *, config=None, painted=False, validation=None, **given):
    """A finished run with this test score.

    Args:
        folder: to make.
        score: test/psnr; None: no score.
        config: content of .hydra/config.yaml.
        painted: whether it has pictures of its only case.
        validation: val/psnr, by default the test score.
        given: entries of result.json that differ.
    """
    (folder / ".hydra").mkdir(parents=True)
    validation = score if validation is None else validation
    result = {
        "status": "ok",
        "message": "",
        "metrics": {"test/psnr": score, "val/psnr": validation},
        "metric": PSNR,
        "task": "deconv",
        "method": None,
        "gkm": "prox",
        "net": "dncnn",
        "hyper": "bmo",
        "seed": 0,
        "protocol": "float",
        "data": {"test": {"hash": "abc"}, "kernels": ["motion0"]},
        "images": {"camera": {"psnr_input": 21.5, "psnr": score}},
        "evaluations": 100,
        "products": 0,
        "train_seconds": 10.0,
        "peak_rss_mib": 500.0,
        **given,
    }
    if painted:
        (folder / "images").mkdir()
        case = next(iter(result["images"]))
        result["pictures"] = {case: ["clean", "degraded", "restored"]}
        rng = np.random.default_rng(0)
        for name in result["pictures"][case]:
            own = np.random.default_rng(int(1e6 * score)) if name == "restored" else rng
            pixels = own.integers(0, 256, (24, 32, 1), dtype=np.uint8)
            write_image(RunFolder(folder).picture(1, case, name), Photograph(pixels))
    (folder / "history.csv").write_text(
        "step,seconds,loss,val_psnr,hypergrad_norm,residual,lr\n"
        + "".join(f"{k},{k / 2},{1 / k},{20 + k},{0.5**k},{0.1 / k},0.01\n" for k in range(1, 9))
    )
    (folder / ".hydra" / "config.yaml").write_text(json.dumps(config or {"seed": 0}))
    (folder / "result.json").write_text(json.dumps(plain(result)))
    return folder
