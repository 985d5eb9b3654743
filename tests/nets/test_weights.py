"""Weights from files: what loads, what is refused, and that a loaded DnCNN is the published one."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from bmo_cli.data.images.file import read_image
from bmo_cli.errors import InputError
from bmo_cli.metrics import protocol
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.drunet import DRUNet
from bmo_cli.nets.weights import read_weights

SMALL = {"widths": (3, 4, 5, 6), "blocks": 1}
X = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))


class Command:
    """Runs code when it is unpickled, unless the reader refuses."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code from a weights file was run')",)


def published_names(net):
    """A DnCNN's tensors under the names of KAIR's files, where ReLUs count as layers."""
    names = [name.split(".") for name in net.state_dict()]
    return {
        f"model.{2 * int(number)}.{kind}": value
        for (_, number, kind), value in zip(names, net.state_dict().values(), strict=True)
    }


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("naming", [published_names, lambda net: net.state_dict()])
def test_a_saved_dncnn_comes_back(tmp_path, suffix, naming):
    """Twelve layers, so that names sorted as text (10 before 2) would be in a wrong order."""
    net = DnCNN(depth=12, width=4, last_gain=1.0)
    torch.nn.init.normal_(net.convs[5].bias, generator=torch.Generator().manual_seed(1))
    file = tmp_path / f"net{suffix}"
    tensors = {name: value.contiguous() for name, value in naming(net).items()}
    (save_file if suffix == ".safetensors" else torch.save)(tensors, file)
    loaded = DnCNN(depth=12, width=4, seed=1, weights=str(file))
    torch.testing.assert_close(loaded(X), net(X), rtol=0, atol=1e-6)
    assert (loaded(X) - DnCNN(depth=12, width=4, seed=1)(X)).abs().max() > 1e-3


def test_half_precision_is_converted(tmp_path):
    net = DnCNN(depth=2, width=4)
    torch.save(net.half().state_dict(), tmp_path / "net.pth")
    loaded = DnCNN(depth=2, width=4, weights=str(tmp_path / "net.pth"))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("learned", [True, False])
def test_drunet_takes_sigma_from_the_file_if_it_is_there(tmp_path, learned):
    net = DRUNet(sigma=20.0, **SMALL)
    tensors = net.state_dict()
    if not learned:
        del tensors["log_sigma"]
    torch.save(tensors, tmp_path / "net.pth")
    loaded = DRUNet(sigma=5.0, seed=1, weights=str(tmp_path / "net.pth"), **SMALL)
    assert loaded.log_sigma.exp().item() == pytest.approx(20 if learned else 5)
    assert torch.equal(loaded.m_body[0].res[0].weight, net.m_body[0].res[0].weight)


def refused(build, *words):
    with pytest.raises(InputError) as error:
        build()
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 damaged", None])
def test_unreadable_files_are_refused(tmp_path, suffix, content):
    file = tmp_path / f"net{suffix}"
    if content is None:
        torch.save(DnCNN(depth=2, width=4).state_dict(), file)
        content = file.read_bytes()[:-200]
    file.write_bytes(content)
    refused(lambda: read_weights(str(file)), f"weights {file} cannot be read")


@pytest.mark.parametrize("write", [torch.save, lambda x, file: file.write_bytes(pickle.dumps(x))])
def test_code_in_a_file_is_not_run(tmp_path, write):
    file = tmp_path / "net.pth"
    write({"convs.0.weight": Command()}, file)
    refused(lambda: DnCNN(weights=str(file)), "could run code and is refused", "state_dict()")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(2)], ["found a list"]),
        ({}, ["found nothing"]),
        ({"epoch": 3, "params": {}}, ["found 'epoch': int", "save the state dict inside alone"]),
    ],
)
def test_other_contents_are_refused(tmp_path, content, words):
    file = tmp_path / "net.pth"
    torch.save(content, file)
    refused(lambda: read_weights(str(file)), "must hold a state dict of tensors", *words)


def test_missing_files_and_other_kinds_are_refused(tmp_path):
    refused(lambda: DnCNN(weights=str(tmp_path / "no.pth")), "no weights file", "give its path")
    refused(lambda: DRUNet(weights="net.onnx", **SMALL), "must be a file .safetensors, .pt, .pth")
    refused(lambda: DnCNN(weights=3), "weights must be a text (or null), got 3")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("convs.1.bias"), ["expected 6 tensors, found 5", "lacks convs.1.bias"]),
        (lambda t: t.update({"convs.1.weight": torch.zeros(4, 4, 5, 5)}),
         ["convs.1.weight must have shape (4, 4, 3, 3), found (4, 4, 5, 5)"]),
        (lambda t: t.update({"convs.0.weight": torch.zeros(4)}), ["(4, 1, 3, 3), found (4,)"]),
        (lambda t: t.update({"convs.1.running_mean": torch.zeros(4)}), ["without batch norm"]),
        (lambda t: t.update({"other.0.bias": torch.zeros(4)}), ["expected one chain"]),
    ],
)  # fmt: skip
def test_other_networks_are_refused(tmp_path, change, words):
    tensors = DnCNN(depth=3, width=4).state_dict()
    change(tensors)
    torch.save(tensors, tmp_path / "net.pth")
    refused(lambda: DnCNN(depth=3, width=4, weights=str(tmp_path / "net.pth")), *words)


def test_other_sizes_are_refused_with_the_values_to_set(tmp_path):
    file = str(tmp_path / "net.pth")
    torch.save(DnCNN(depth=3, width=4).state_dict(), file)
    for change in ({"depth": 2}, {"width": 5}, {"channels": 3}):
        settings = {"depth": 3, "width": 4, **change}
        words = "set net.depth=3, net.width=4, net.channels=1"
        refused(lambda settings=settings: DnCNN(**settings, weights=file), words)
    tensors = DRUNet(**SMALL).state_dict()
    torch.save(tensors | {"other": torch.zeros(1)}, file)
    refused(lambda: DRUNet(**SMALL, weights=file), "it has an unknown other")
    torch.save(tensors, file)
    refused(lambda: DRUNet(**SMALL, channels=3, weights=file), "(3, 4, 3, 3), found (3, 2, 3, 3)")
    refused(lambda: DRUNet(**{**SMALL, "blocks": 2}, weights=file), "expected", "found", "lacks")


@pytest.mark.slow
def test_published_dncnn_has_its_published_quality(real_data):
    """30.44 dB on Set12 at sigma 25 in the DPIR repository, 30.43 by another program here."""
    file = real_data / "weights" / "dncnn_25.pth"
    if not file.is_file():
        pytest.skip(f"no {file}")
    net = DnCNN(depth=17, width=64, weights=str(file))
    generator = torch.Generator().manual_seed(0)
    values = []
    for image in sorted((real_data / "set12").iterdir()):
        clean = torch.tensor(read_image(image).channels_first()).float() / 255
        noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=generator)
        with torch.no_grad():
            values.append(protocol("float").score(net(noisy[None])[0], clean)["psnr"])
    assert len(values) == 12
    assert sum(values) / 12 == pytest.approx(30.43, abs=0.05)
