"""Sparse coding of image patches: dictionary, patches, noise, forms, and a whole run."""

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import make_photos, result, run_bmo
from safetensors.torch import load_file
from scipy.optimize import linprog

from bmo_cli.data.dictionary import (
    cosine_dictionary,
    learn_dictionary,
    read_dictionary,
    sparse_codes,
)
from bmo_cli.data.images.file import Photograph, write_image
from bmo_cli.data.patches import PatchGrid
from bmo_cli.data.splits import Embedded, Folder
from bmo_cli.errors import InputError
from bmo_cli.experiment.evaluation import Settings, solve, solve_case
from bmo_cli.gkm.augmented import LADMM, PDHG
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.matrix import Matrix
from bmo_cli.solver.functions import L1, LeastSquares, Zero
from bmo_cli.solver.problem import SquaredError
from bmo_cli.tasks import patch_coding
from bmo_cli.tasks.patch_coding import PatchCoding

SMALL = {"rows": 16, "columns": 24, "dictionary_steps": 8, "dictionary_batch": 64}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = make_photos(tmp_path_factory.mktemp("photos"))
    return Folder(**{split: str(folder / split) for split in ("train", "val", "test")})


def made(data, splits=("train",), **words):
    task = PatchCoding(data=data, **{**SMALL, **words})
    task.prepare(splits)
    return task


def batch(task, step=0, count=8):
    (sample,) = task.samples(range(step, step + 1), count)
    return sample


def observations(problem):
    return problem.f.y if problem.coupling is None else problem.coupling.b


# --- loss -----------------------------------------------------------------------------------------


def test_squared_error_with_a_map_against_finite_differences(rng):
    a, target, u = (torch.tensor(rng.normal(size=s)) for s in ((4, 7), (3, 4), (3, 7)))
    loss = SquaredError(target, Matrix(a))
    other = torch.ones(3, 4, dtype=torch.float64)
    expected = [0.5 * ((a @ x - t) ** 2).sum() for x, t in zip(u, target, strict=True)]
    torch.testing.assert_close(loss.value((u, other)), torch.stack(expected))
    gradient, rest = loss.grad((u, other))
    assert torch.equal(rest, torch.zeros_like(other))
    numeric = torch.zeros_like(u)
    for i in range(7):
        e = torch.zeros_like(u)
        e[:, i] = 1e-6
        numeric[:, i] = (loss.value((u + e,)) - loss.value((u - e,))) / 2e-6
    torch.testing.assert_close(gradient, numeric, rtol=1e-7, atol=1e-7)
    assert loss.size == 4
    one = SquaredError(target[:1], Matrix(a))
    hessian = torch.autograd.functional.hessian(lambda x: one.value((x,)).sum(), u[:1])
    top = torch.linalg.eigvalsh(hessian.reshape(7, 7))[-1]
    torch.testing.assert_close(loss.lipschitz, top)
    plain = SquaredError(target)
    assert (plain.lipschitz, plain.size) == (1.0, 4)


# --- patches --------------------------------------------------------------------------------------

SIZES = [(9, 12, 4, 4), (8, 8, 4, 2), (7, 11, 3, 1), (4, 9, 4, 3), (13, 10, 5, 5)]


def corners(height, width, side, stride):
    rows, columns = (
        [min(i * stride, n - side) for i in range(-(-(n - side) // stride) + 1)]
        for n in (height, width)
    )
    return list(itertools.product(rows, columns))


@pytest.mark.parametrize(("height", "width", "side", "stride"), SIZES)
def test_patches_are_those_of_a_loop(height, width, side, stride, rng):
    image = torch.tensor(rng.random((2, height, width)))
    grid = PatchGrid((height, width), side, stride)
    expected = [
        image[c, top : top + side, left : left + side].flatten()
        for c in range(2)
        for top, left in corners(height, width, side, stride)
    ]
    assert torch.equal(grid.cut(image), torch.stack(expected))


@pytest.mark.parametrize(("height", "width", "side", "stride"), SIZES)
def test_patches_are_averaged_as_in_a_loop(height, width, side, stride, rng):
    grid, places = PatchGrid((height, width), side, stride), corners(height, width, side, stride)
    patches = rng.random((2 * len(places), side * side))
    total, count = np.zeros((2, height, width)), np.zeros((2, height, width))
    for i, patch in enumerate(patches):
        c, (top, left) = i // len(places), places[i % len(places)]
        total[c, top : top + side, left : left + side] += patch.reshape(side, side)
        count[c, top : top + side, left : left + side] += 1
    assert count.min() >= 1
    np.testing.assert_allclose(grid.join(torch.tensor(patches)), total / count, rtol=1e-12)
    image = torch.tensor(rng.random((2, height, width)))
    torch.testing.assert_close(grid.join(grid.cut(image)), image)


# --- dictionary -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "columns"), [(4, 16), (4, 30), (5, 9), (16, 512)])
def test_cosine_dictionary(side, columns):
    q = cosine_dictionary(side, columns)
    assert q.shape == (side**2, columns)
    torch.testing.assert_close(q.norm(dim=0), torch.ones(columns))
    torch.testing.assert_close(q[:, 0], torch.full((side**2,), 1 / side))
    assert q[:, 1:].sum(0).abs().max() < 1e-5
    gram = (q.T @ q - torch.eye(columns)).abs()
    assert gram.max() < 0.999  # no atom twice
    if columns == side**2:
        assert gram.max() < 1e-5  # the orthogonal transform


def test_codes_are_those_of_scikit_learn(rng):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    q = torch.tensor(rng.normal(size=(12, 20)) / 12**0.5)
    patches = torch.tensor(rng.normal(size=(5, 12)))
    found = sparse_codes(patches, q, kappa=0.2, steps=4000)
    for code, patch in zip(found, patches, strict=True):
        lasso = linear_model.Lasso(alpha=0.2 / 12, fit_intercept=False, tol=1e-12, max_iter=100000)
        expected = lasso.fit(q.numpy(), patch.numpy()).coef_
        np.testing.assert_allclose(code, expected, atol=1e-6)
        assert 0 < (expected != 0).sum() < 20


def planted(count, seed=3):
    """Batches of patches with three zero-mean atoms each and a mean, and those 24 atoms."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(16, 24, generator=generator)
    atoms -= atoms.mean(0)
    atoms /= atoms.norm(dim=0)

    def draw():
        for _ in range(count):
            chosen = torch.rand(256, 24, generator=generator).argsort(1)[:, :3]
            values = torch.randn(256, 3, generator=generator)
            codes = torch.zeros(256, 24).scatter_(1, chosen, values.sign() * (0.5 + values.abs()))
            yield codes @ atoms.T + torch.rand(256, 1, generator=generator)

    return list(draw()), atoms


def test_learning_recovers_a_planted_dictionary():
    batches, atoms = planted(60)
    generator = torch.Generator().manual_seed(0)
    start = atoms + 0.2 * torch.randn(atoms.shape, generator=generator)
    start -= start.mean(0)
    start = torch.cat([torch.full((16, 1), 0.25), start / start.norm(dim=0)], 1)
    found = learn_dictionary(batches, start, kappa=0.1)
    before = (start[:, 1:].T @ atoms).abs().amax(0)
    after = (found[:, 1:].T @ atoms).abs().amax(0)
    assert before.median() < 0.85
    assert after.median() > 0.99
    assert after.min() > 0.95
    assert torch.equal(found[:, 0], start[:, 0])


def test_learning_reduces_the_objective():
    batches, _ = planted(40)
    start = cosine_dictionary(4, 25)

    def objective(q):
        patches = batches[-1] - batches[-1].mean(1, keepdim=True)
        x = sparse_codes(patches, q[:, 1:], kappa=0.1, steps=500)
        error = 0.5 * (x @ q[:, 1:].T - patches).square().sum(1)
        return (error + 0.1 * x.abs().sum(1)).mean().item()

    found = learn_dictionary(batches[:-1], start, kappa=0.1)
    again = learn_dictionary(batches[:-1], start, kappa=0.1)
    assert torch.equal(found, again)
    assert objective(found) < 0.9 * objective(start)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(25))
    assert found[:, 1:].sum(0).abs().max() < 1e-4


def test_an_unused_atom_keeps_its_value():
    start = cosine_dictionary(4, 16)
    patches = start[:, 3].repeat(32, 1) * torch.linspace(1, 2, 32)[:, None]
    found = learn_dictionary([patches] * 3, start, kappa=0.1)
    torch.testing.assert_close(found, start, rtol=0, atol=1e-5)
    assert torch.isfinite(found).all()


def test_a_dictionary_file_is_scaled_to_unit_atoms(tmp_path, rng):
    matrix = rng.normal(size=(16, 24)) * rng.uniform(0.1, 9, 24)
    np.save(tmp_path / "q.npy", matrix)
    np.savez(tmp_path / "q.npz", q=matrix)
    expected = matrix / np.linalg.norm(matrix, axis=0)
    for name in ("q.npy", "q.npz"):
        found = read_dictionary(tmp_path / name, rows=16, columns=24)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def spoiled(value, where):
    matrix = np.ones((16, 24))
    matrix[where] = value
    return matrix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (spoiled(np.nan, (3, 4)), "holds NaN or infinite values"),
        (spoiled(np.inf, (3, 4)), "holds NaN or infinite values"),
        (spoiled(0, (slice(None), [2, 5])), r"has 2 zero columns \(2, 5\), .* task.columns=22"),
        (
            spoiled(0, (slice(None), 7)),
            r"has 1 zero column \(7\), .* drop it and use task.columns=23",
        ),
        (np.ones(16), r"must be a matrix \(pixels x atoms\), got shape \(16,\)"),
        (np.ones((0, 24)), "must be a matrix"),
        (np.ones((16, 24), complex), "must hold real numbers, got complex128"),
        (np.ones((25, 24)), r"is 25 x 24, but a patch of 4 x 4 pixels \(task.rows\) needs 16 rows"),
        (np.ones((24, 16)), "needs 16 rows; it looks transposed"),
        (np.ones((16, 20)), "task.columns=24; use task.columns=20"),
        (np.array([[{}]]), "cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_refused_dictionaries(content, message, tmp_path):
    np.save(tmp_path / "q.npy", content)
    with pytest.raises(InputError, match=message) as error:
        read_dictionary(tmp_path / "q.npy", rows=16, columns=24)
    assert "\n" not in str(error.value)


def test_refused_dictionary_files(tmp_path):
    files = {
        "none.npy": (None, "no dictionary file"),
        "short.npy": (b"\x93NUMPY\x01", "cannot be read"),
        "text.npz": (b"hello", "cannot be read"),
        "q.txt": (b"1 2 3", r"must end in \.npy or \.npz"),
    }
    np.savez(tmp_path / "two.npz", a=np.ones((16, 24)), b=np.ones((16, 24)))
    files["two.npz"] = (None, r"must hold one matrix, got 2 \(a, b\)")
    for name, (content, message) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as error:
            read_dictionary(tmp_path / name, rows=16, columns=24)
        assert "\n" not in str(error.value)


# --- draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrupted", [0.1, 0.4])
def test_noise_is_salt_and_pepper(corrupted):
    task = PatchCoding(data=Embedded(), corrupted=corrupted)
    clean = torch.full((200, 500), 0.5)
    noisy = task.data.corrupt(clean, np.random.default_rng(0))
    hit = noisy != clean
    spread = 5 * (corrupted * (1 - corrupted) / clean.numel()) ** 0.5
    assert abs(hit.double().mean().item() - corrupted) < spread
    values = noisy[hit]
    assert set(values.tolist()) == {0.0, 1.0}
    assert abs(values.double().mean().item() - 0.5) < 5 * 0.5 / len(values) ** 0.5
    across = [(hit[:, 1:] & hit[:, :-1]).double().mean(), (hit[1:] & hit[:-1]).double().mean()]
    for share in across:  # independent pixels
        assert abs(share.item() - corrupted**2) < 5 * corrupted / clean.numel() ** 0.5
    assert torch.equal(
        PatchCoding(data=Embedded(), corrupted=0.0).data.corrupt(clean, np.random.default_rng(0)),
        clean,
    )


def test_training_batches_depend_on_seed_and_step_alone(photographs):
    def drawn(steps, **seeds):
        samples = made(photographs, **seeds).samples(steps, 8)
        return [(s.loss.target, observations(s.problem)) for s in samples]

    whole, resumed = drawn(range(5), seed=4), drawn(range(3, 5), seed=4)
    torch.testing.assert_close(resumed, whole[3:], rtol=0, atol=0)
    assert not any(torch.equal(a[0], b[0]) for a, b in itertools.combinations(whole, 2))
    noise = [noisy != clean for clean, noisy in whole]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(noise, 2))
    assert not torch.equal(drawn(range(1), seed=5)[0][0], whole[0][0])


def test_samples_are_patches_of_the_training_images(photographs):
    task = made(photographs, corrupted=0.3)
    sample = batch(task, count=40)
    images = task.data.photographs["train"]
    known = {
        tuple(np.rot90(turn, k).flatten())
        for i in range(len(images))
        for patch in PatchGrid(images[i].shape[1:], 4, 1).cut(torch.tensor(images[i]))
        for turn in (patch.reshape(4, 4).numpy(), patch.reshape(4, 4).numpy()[:, ::-1])
        for k in range(4)
    }
    clean = (sample.loss.target * 255).round().to(torch.uint8)
    assert all(tuple(patch) in known for patch in clean.tolist())
    b = observations(sample.problem)
    changed = b != sample.loss.target
    assert 0.2 < changed.float().mean() < 0.4
    assert sample.initial[0].shape == (40, 24)
    assert (sample.initial[0] == 0).all()
    assert sample.loss.a.a is task.dictionary


@pytest.mark.slow
def test_evaluation_depends_on_its_own_seed(photographs):
    def drawn(split="test", **seeds):
        task = made(photographs, **seeds)
        return [observations(case.problem) for case in task.cases(split)]

    def same(a, b):
        return [torch.equal(x, y) for x, y in zip(a, b, strict=True)]

    assert same(drawn(seed=1), drawn(seed=2)) == [True, True]
    assert same(drawn(eval_seed=1), drawn(eval_seed=2)) == [False, False]
    assert same(drawn("val"), drawn("test")) == [False, False]


def test_the_dictionary_depends_on_its_own_seed(photographs):
    first = made(photographs, seed=1).dictionary
    assert torch.equal(first, made(photographs, seed=2, eval_seed=3).dictionary)
    assert not torch.equal(first, made(photographs, dictionary_seed=1).dictionary)


# --- problems -------------------------------------------------------------------------------------


def test_forms_are_what_they_say(photographs):
    problems = {form: batch(made(photographs, form=form)).problem for form in ("split", "lasso")}
    split, lasso = problems["split"], problems["lasso"]
    assert isinstance(split.f, Zero)
    assert isinstance(split.coupling.h, L1)
    assert split.coupling.h.weight == 1
    assert isinstance(lasso.f, LeastSquares)
    assert lasso.coupling is None
    assert split.g.weight == lasso.g.weight == 0.5
    assert torch.equal(observations(split), observations(lasso))


@pytest.mark.slow
@pytest.mark.parametrize("operator", [LADMM(beta=3.0), PDHG(beta=3.0)])
def test_the_converged_scheme_solves_the_linear_program(photographs, operator):
    task = made(photographs, kappa=0.4).double()
    problem = batch(task, count=4).problem
    b, q = observations(problem), task.dictionary
    scheme = GKM(operator=operator, alpha=0.9).double()
    start = (b.new_zeros(4, 24),)
    x = solve(scheme, problem, start, Settings(iterations=20000, tolerance=1e-10)).value[0]
    found = 0.4 * x.abs().sum(1) + (b - x @ q.T).abs().sum(1)
    m, n = q.shape
    split = np.hstack([q, -q, np.eye(m), -np.eye(m)])
    cost = np.r_[np.full(2 * n, 0.4), np.ones(2 * m)]
    for value, patch in zip(found, b, strict=True):
        expected = linprog(cost, A_eq=split, b_eq=patch.numpy(), bounds=(0, None)).fun
        assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_case_in_parts_is_the_case_in_one(photographs, monkeypatch):
    task = made(photographs, ("train", "test"), stride=1)
    scheme, settings = GKM(operator=LADMM(beta=3.0)), Settings(iterations=12)
    case = next(task.cases("test"))
    assert case.further == []
    whole = solve_case(scheme, case, settings)
    monkeypatch.setattr(patch_coding, "_PART", 100)
    split = next(task.cases("test"))
    assert len(split.parts) == -(-37 * 33 // 100)
    joined = solve_case(scheme, split, settings)
    torch.testing.assert_close(joined.value[0], whole.value[0])
    assert len(joined.value) == 1
    assert joined.iterations == whole.iterations == 12
    assert joined.residual == pytest.approx(whole.residual, rel=1e-4)
    ours, theirs = task.score(joined.value, split), task.score(whole.value, case)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_score_of_known_codes(photographs):
    task = made(photographs, ("train", "test"), stride=3)
    case = next(task.cases("test"))
    patches = PatchGrid((40, 36), 4, 3).cut(case.reference)
    exact = patches @ torch.linalg.pinv(task.dictionary).T  # the dictionary spans all patches
    scores = task.score((exact,), case)
    assert scores["psnr"] > 80
    noisy = PatchGrid((40, 36), 4, 3).join(observations(case.problem))
    expected = -10 * ((noisy - case.reference) ** 2).mean().log10().item()
    assert scores["psnr_input"] == pytest.approx(expected, rel=1e-5)
    assert set(task.columns) == set(scores)
    shown = task.pictures((exact,), case, scores)
    assert list(shown) == ["clean", "degraded", "restored"]
    assert all(p.image.shape == (1, 40, 36) for p in shown.values())


def test_colour_channels_are_images_of_their_own(tmp_path, rng):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        pixels = rng.integers(0, 256, (20, 18, 3), dtype=np.uint8)
        write_image(tmp_path / split / f"{split}.png", Photograph(pixels))
    data = Folder(train=str(tmp_path / "train"), test=str(tmp_path / "test"), channels=3)
    task = made(data, ("train", "test"))
    assert batch(task).loss.target.shape == (24, 16)
    case = next(task.cases("test"))
    assert case.reference.shape == (3, 20, 18)
    assert observations(case.problem).shape == (3 * 5 * 5, 16)
    assert task.score((torch.zeros(75, 24),), case)["psnr"] == pytest.approx(
        -10 * (case.reference**2).mean().log10().item(), rel=1e-5
    )


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"rows": 250}, r"task\.rows must be the square .* got 250; try 225 or 256"),
        ({"rows": 1}, "got 1; try 4 or 9"),
        ({"rows": 16, "stride": 5}, r"task\.stride=5 leaves gaps between patches of 4 x 4"),
        ({"corrupted": 1.0}, r"corrupted must lie in \[0, 1\)"),
        ({"form": "robust"}, "form must be one of split, lasso"),
    ],
)
def test_refused_arguments(words, message):
    with pytest.raises(InputError, match=message):
        PatchCoding(data=Embedded(), **words)


def test_refused_before_time_is_spent(photographs):
    with pytest.raises(InputError, match=r"smaller than a patch, .* \(49 x 49\)"):
        made(photographs, rows=49**2)
    small = Embedded(eval_crop=3)
    with pytest.raises(InputError, match=r"data\.eval_crop=3 is smaller than a patch \(4 x 4\)"):
        made(small)
    with pytest.raises(InputError, match="no dictionary yet"):
        batch(PatchCoding(data=photographs, **SMALL))


# --- runs -----------------------------------------------------------------------------------------

METHODS = ("ista", "fista", "lista", "lista_cp", "alista", "ladmm", "dladmm")


def words(photos, *more):
    return [
        *("task=patch_coding", "debug=tiny", "data=folder", "device=cpu"),
        *(f"task.{key}={value}" for key, value in SMALL.items()),
        *(f"data.{split}={photos / split}" for split in ("train", "val", "test")),
        *more,
    ]


@pytest.mark.slow
def test_train_then_evaluate_with_the_same_dictionary(photos, bmo, tmp_path):
    done = bmo("train", *words(photos, "method=dladmm", "gkm.stages=2", "hydra.run.dir=run"))
    assert done.returncode == 0, done.stderr
    assert "learned it in" in done.stdout + done.stderr
    trained = result(tmp_path / "run")
    held = load_file(tmp_path / "run/checkpoints/best.safetensors")["task.dictionary"]
    assert held.shape == (16, 24)
    torch.testing.assert_close(held.norm(dim=0), torch.ones(24))
    names = {file.name for file in (tmp_path / "run/images").iterdir()}
    assert {f"01_test0_{kind}.png" for kind in ("clean", "degraded", "restored")} <= names
    for split in ("train", "val"):  # neither is needed
        for file in (photos / split).iterdir():
            file.unlink()
    done = bmo("eval", "run=run", "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    assert "learn" not in done.stdout + done.stderr
    again = result(tmp_path / "again")
    assert again["data"]["dictionary"] == trained["data"]["dictionary"]
    for key, value in trained["metrics"].items():
        if key.startswith("test/") and key != "test/seconds":
            assert again["metrics"][key] == value, key
    done = bmo("eval", "run=run", "task.stride=2", "hydra.run.dir=overlap")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "overlap")["metrics"]["test/psnr"] != trained["metrics"]["test/psnr"]
    done = bmo("eval", "run=run", "task.columns=20", "hydra.run.dir=other")
    assert done.returncode == 2
    assert done.stderr.count("\n") <= 1
    assert "(16, 24), expected (16, 20)" in done.stderr


@pytest.mark.slow
def test_a_resumed_run_equals_the_uninterrupted_one(photos, bmo, tmp_path):
    more = ("train.schedule=constant",)
    for name, steps in (("whole", 4), ("run", 2)):
        done = bmo("train", *words(photos, *more, f"train.steps={steps}", f"hydra.run.dir={name}"))
        assert done.returncode == 0, done.stderr
    done = bmo("train", "resume=run", "train.steps=4")
    assert done.returncode == 0, done.stderr
    ends = [
        load_file(tmp_path / name / "checkpoints/last.safetensors") for name in ("whole", "run")
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.slow
def test_a_dictionary_file_is_used(photos, bmo, tmp_path, rng):
    matrix = rng.normal(size=(16, 24))
    np.save(tmp_path / "q.npy", matrix)
    file = "task.dictionary=q.npy"
    done = bmo("train", *words(photos, "method=ladmm", file, "hydra.run.dir=run"))
    assert done.returncode == 0, done.stderr
    held = load_file(tmp_path / "run/checkpoints/best.safetensors")["task.dictionary"]
    expected = matrix / np.linalg.norm(matrix, axis=0)
    np.testing.assert_allclose(held, expected, rtol=1e-6, atol=1e-7)
    (tmp_path / "q.npy").unlink()
    done = bmo("eval", "run=run", "hydra.run.dir=again")
    assert done.returncode == 0, done.stderr
    scores = [
        json.dumps(result(tmp_path / name)["images"]["test0.png"]["psnr"])
        for name in ("run", "again")
    ]
    assert scores[0] == scores[1]
    done = bmo("train", *words(photos, "method=ladmm", file, "hydra.run.dir=no"))
    assert done.returncode == 2
    assert "no dictionary file q.npy" in done.stderr


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    chosen = f"method={','.join(METHODS)}"
    more = (chosen, "hydra.sweep.dir=all", "task.dictionary_steps=2")
    done = run_bmo("train", "-m", *words(make_photos(folder / "photos"), *more), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "all"


@pytest.mark.parametrize("method", METHODS)
def test_every_coding_method_runs_on_patches(sweep, method):
    found = result(sweep / str(METHODS.index(method)))
    assert (found["status"], found["task"], found["method"]) == ("ok", "patch_coding", method)
    assert np.isfinite(found["metrics"]["test/psnr"])


def test_training_batches_repeat(photographs):
    """Batch t is that of step t modulo their number, also after a resume."""
    fresh, repeated = made(photographs), made(photographs, train_batches=2)
    batches = [observations(batch(fresh, step).problem) for step in range(2)]
    assert not torch.equal(*batches)
    for first in (0, 3):
        samples = repeated.samples(range(first, 6), 8)
        for step, sample in enumerate(samples, first):
            assert torch.equal(observations(sample.problem), batches[step % 2])
