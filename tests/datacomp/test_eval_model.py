"""Models behind the protocol: features as open_clip gives them, and what is refused."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from datacomp.eval_model import load
from datacomp.recipe import MODELS, Recipe
from datacomp.training.train import train
from evals.images.open_clip import load_open_clip
from evals.images.short_texts import encode_text
from evals.models import ImageError, ImageTextModel
from pipelines.errors import DataError
from tests.datacomp.image_pool import draw

TEXTS = ["a red circle", "a", "a yellow triangle beside three blue squares and more", ""]


@pytest.fixture(scope="module", autouse=True)
def _configurations() -> None:
    open_clip.add_model_config(MODELS)


def test_texts_at_their_own_length_give_the_same_output_and_gradients() -> None:
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-vit").double()  # what differs is not a rounding
    tokens = open_clip.get_tokenizer("tiny-vit")(TEXTS)
    own = open_clip.CLIP.encode_text
    outputs = []
    for encode in (lambda: own(model, tokens), lambda: encode_text(own, model, tokens)):
        model.zero_grad()
        features = encode()
        features.square().sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        outputs.append((features.detach(), gradients))
    (whole, expected), (short, gradients) = outputs
    torch.testing.assert_close(short, whole, atol=1e-12, rtol=1e-10)
    assert set(gradients) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, atol=1e-11, rtol=1e-9)
    assert gradients["positional_embedding"].shape == model.positional_embedding.shape


def test_features_are_those_of_open_clip() -> None:
    model = load_open_clip("tiny-vit", pretrained=None, seed=3, configs=MODELS)
    assert isinstance(model, ImageTextModel)
    torch.manual_seed(3)
    own, _, transform = open_clip.create_model_and_transforms("tiny-vit")
    own.eval()
    images = [draw(number)[0] for number in range(70)]  # more than one batch
    with torch.inference_mode():
        batch = torch.stack([transform(Image.open(io.BytesIO(p))) for p in images])
        image_features = own.encode_image(batch).numpy()
        texts = own.encode_text(open_clip.get_tokenizer("tiny-vit")(TEXTS)).numpy()
    np.testing.assert_allclose(model.encode_images(iter(images)), image_features, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(TEXTS), texts, atol=1e-5)


def test_a_model_survives_pickling_and_equal_ones_are_one() -> None:
    model = load_open_clip("tiny-vit", pretrained=None, seed=3, configs=MODELS)
    again = pickle.loads(pickle.dumps(model))
    assert again == model
    assert hash(again) == hash(model)
    np.testing.assert_array_equal(again.encode_texts(TEXTS), model.encode_texts(TEXTS))
    assert pickle.loads(pickle.dumps(model)) is again, "a worker loads it once"


def test_a_image_that_does_not_decode_is_named_by_its_place() -> None:
    model = load_open_clip("tiny-vit", pretrained=None, configs=MODELS)
    images = [draw(number)[0] for number in range(70)]
    for position, bad in ((66, b"no image"), (2, images[0][: len(images[0]) // 2])):
        with pytest.raises(ImageError) as error:
            model.encode_images([*images[:position], bad, *images[position:]])
        assert error.value.position == position


@pytest.fixture(scope="module")
def trained(
    packed_images: Path, small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("scored") / "model"
    recipe = small_recipe.model_copy(update={"samples": 64, "num_checkpoints": 1})
    train(str(packed_images / "packed"), recipe=recipe, seed=0, out=str(out))
    return out


def test_weights_of_another_architecture_are_refused(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    config = copy / "open_clip_config.json"
    config.write_text(config.read_text().replace('"width": 64', '"width": 128'))
    with pytest.raises(DataError, match=r"open_clip_config\.json is not the file that its record"):
        load(str(copy))
    from datacomp import eval_model

    with pytest.raises(
        DataError, match=r"another architecture .*: ln_final\.bias is \(64,\), expected \(128,"
    ):
        eval_model.open_folder(copy)


def test_weights_that_were_cut_off_are_refused(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"model\.safetensors is not the file that its record"):
        load(str(copy))


def test_a_folder_of_something_else_is_refused(packed_images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="is not a folder with a model; give one, or a model of open"
    ):
        load(str(tmp_path / "nothing").replace("/", "-"))
    with pytest.raises(DataError, match="holds no CLIP model, but a packed record"):
        load(str(packed_images / "packed"))


def test_models_and_weights_that_open_clip_does_not_have_are_named() -> None:
    with pytest.raises(DataError, match=r"has no model 'ViT-B32'; did you mean ViT-B-32"):
        load("ViT-B32/openai")
    with pytest.raises(DataError, match=r"no weights 'nope' of ViT-B-32; it has openai, laion400m"):
        load("ViT-B-32/nope")


def test_a_missing_package_is_told_with_the_extra_that_brings_it(monkeypatch, tmp_path) -> None:
    from datacomp.benchmark import DataComp
    from pipelines.errors import TrainingError

    def load(model: str, **_: object) -> None:
        raise ModuleNotFoundError("No module named 'open_clip'", name="open_clip")

    monkeypatch.setattr("datacomp.eval_model.load", load)
    with pytest.raises(TrainingError, match=r"open_clip is not installed; .* pip install -e"):
        DataComp().load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "tag", "activation"),
    [
        ("RN50", "openai", "quick_gelu"),
        ("RN50", "yfcc15m", "quick_gelu"),
        ("RN50-quickgelu", "openai", "quick_gelu"),
        ("ViT-B-32", "laion2b_s34b_b79k", "gelu"),
    ],
)
def test_the_activation_is_the_one_that_the_weights_were_trained_with(
    name: str, tag: str, activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights made up here, given out in place of the download."""
    file = tmp_path / "weights.pt"
    torch.save(open_clip.create_model(name).state_dict(), file)
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: str(file))
    model = load_open_clip(name, pretrained=tag, device="cpu")
    kinds = {
        type(part).__name__ for part in model._model.modules() if "GELU" in type(part).__name__
    }
    assert kinds == {"QuickGELU" if activation == "quick_gelu" else "GELU"}
    assert model.settings["activation"] == activation
