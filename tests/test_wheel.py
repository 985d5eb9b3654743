"""The wheel, installed elsewhere, is the same program with its configurations inside."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest
from conftest import ROOT, tiny_words


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of a clean copy of the sources; the wheel is built from the sdist."""
    source, out = tmp_path_factory.mktemp("source") / "bmo", tmp_path_factory.mktemp("dist")
    keep = ("bmo_cli", "hydra_plugins", "configs", "scripts", "examples", "benchmarks", "stress")
    source.mkdir()
    for name in keep:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_contents(built):
    wheel, sdist = built
    names = zipfile.ZipFile(wheel).namelist()
    for file in (ROOT / "configs").rglob("*.yaml"):
        assert f"bmo_cli/configs/{file.relative_to(ROOT / 'configs')}" in names
    assert "hydra_plugins/bmo_search.py" in names and "hydra_plugins/__init__.py" not in names
    assert not [name for name in names if name.startswith(("tests", "configs", "outputs"))]
    with tarfile.open(sdist) as archive:
        members = archive.getnames()
    assert any(name.endswith("configs/train.yaml") for name in members)
    assert any(name.endswith("scripts/bmo") for name in members)
    assert any(name.endswith("stress/images.py") for name in members)
    for file in (ROOT / "bmo_cli" / "report" / "templates").iterdir():
        path = f"bmo_cli/report/templates/{file.name}"
        assert path in names and any(name.endswith(path) for name in members)


@pytest.mark.slow
def test_installed_wheel_trains_from_another_directory(built, photos, tmp_path):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    # The new environment borrows the dependencies; bmo itself comes from the wheel alone.
    paths = {sysconfig.get_paths()["purelib"], *site.getsitepackages()}
    library = next((environment / "lib").glob("python*/site-packages"))
    (library / "borrowed.pth").write_text("\n".join(paths))
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--force-reinstall", str(built[0])], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    where = subprocess.run(
        [str(python), "-c", "import bmo_cli; print(bmo_cli.__file__)"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        env=clean,
    )
    assert str(library) in where.stdout, where.stdout + where.stderr
    done = subprocess.run(
        [str(environment / "bin" / "bmo"), "train", *tiny_words(photos), "hydra.run.dir=run"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        env=clean,
    )
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "run" / "result.json").is_file()
    done = subprocess.run(
        [str(environment / "bin" / "bmo"), "report", "run"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        env=clean,
    )
    assert done.returncode == 0, done.stderr
    assert "</html>" in (elsewhere / "run" / "report.html").read_text()
