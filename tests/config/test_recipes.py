"""The settings that task, network, operator and hyper-optimiser choose together."""

import itertools

import pytest
from conftest import SEARCH, composed, make_photos, result, run_bmo

from bmo_cli.config.locate import choices


def test_deconvolution_is_certified_by_default():
    config = composed("task=deconv")
    assert config.net["_target_"].endswith("GuidedPotential")
    assert config.hyper["_target_"].endswith("Truncated")
    assert config.certify and config.task["start"] == "wiener" and config.train.iterations == 10


def test_a_tiny_run_searches_too_little_to_certify():
    assert composed("debug=tiny").certificate.weaker_than_default(2)
    assert not composed("debug=tiny", *SEARCH).certificate.weaker_than_default(2)


def test_a_recipe_is_that_of_the_network_and_the_command_line_wins():
    plain = composed("task=deconv", "net=dncnn", "hyper=bmo")
    assert not plain.certify and plain.task["start"] == "observation"
    assert plain.train.iterations == 5
    assert not composed("task=derain", "net=guided").certify
    changed = composed("task=deconv", "train.iterations=7", "certify=false")
    assert changed.train.iterations == 7 and not changed.certify
    assert changed.task["start"] == "wiener"
    for other in ("hyper=bmo", "hyper=implicit", "gkm=pg", "net=lip"):
        assert composed("task=deconv", other).task["start"] == "observation"
    assert composed("task=deconv", "method=tv").net["_target_"].endswith("Identity")


def test_rain_is_certified_where_both_layers_are_guided():
    config = composed("task=derain", "net=guided_layers", "hyper=truncated")
    assert config.certify and config.train.iterations == 8 and config.data["channels"] == 3
    background, rain = config.net["background"], config.net["rain"]
    assert rain["centre"] and rain["size"] == 1 and not rain["steer"]
    assert background["steer"] and background["size"] == 3 and not background["centre"]
    assert not config.gkm["operator"]["learn"]
    assert composed("task=derain", "net=guided_layers").train.iterations == 2  # hyper=bmo


def test_every_recipe_names_a_combination():
    groups = choices()
    parts = (groups[name] for name in ("task", "net", "gkm", "hyper"))
    known = {"_".join(names) for names in itertools.product(*parts)}
    assert groups["recipe"] and set(groups["recipe"]) <= known


@pytest.mark.slow
def test_a_run_of_the_rain_recipe_is_certified_and_one_of_its_default_is_not(tmp_path):
    photos = make_photos(tmp_path / "photos")
    places = [f"data.{split}={photos / split}" for split in ("train", "val", "test")]
    common = (
        "debug=tiny",
        "data=folder",
        "device=cpu",
        "data.crop=24",
        "certify=true",
        *places,
        *SEARCH,
    )
    guided = [f"net.{layer}.widths=[4,4,4]" for layer in ("background", "rain")]
    schemes = {
        "guided": ["net=guided_layers", "hyper=truncated", *guided],
        "free": ["net.widths=[4,4,4]"],
    }
    for name, words in schemes.items():
        done = run_bmo(
            "train", "task=derain", *common, *words, f"hydra.run.dir={name}", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    assert result(tmp_path / "guided")["certificate"] == "certified"
    assert result(tmp_path / "free")["certificate"] == "not certified"


@pytest.mark.slow
def test_the_default_run_ends_with_a_line_of_its_certificate(tmp_path):
    photos = make_photos(tmp_path / "photos")
    places = [f"data.{split}={photos / split}" for split in ("train", "val", "test")]
    small = [
        "data.crop=24",
        "task.kernel_count=2",
        "task.kernel_size=7",
        "net.widths=[4,4,4]",
        *SEARCH,
    ]
    done = run_bmo(
        *("train", "debug=tiny", "data=folder", "device=cpu", "hydra.run.dir=run"),
        *(*places, *small),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    (line,) = (row for row in text.splitlines() if row.startswith("certificate: "))
    assert line.startswith("certificate: CERTIFIED; Lipschitz constant of D in G: at most 1 ")
    assert "What the theory assumes" not in text
    assert result(tmp_path / "run")["certificate"] == "certified"
    assert "What the theory assumes" in (tmp_path / "run" / "certificate.md").read_text()
