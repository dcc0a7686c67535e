"""Scores by models of transformers, against the same model asked text by text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.schema import STRING
from pipelines.text.model_scores import ModelPerplexity, ModelScore, batches

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = [f"w{n}" for n in range(30)]
TEXTS = ["w1 w2 w3 w4", "", "w5", "w6 w7 " * 40, "w9 w8 w9 w8 w9", None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three labels and a causal language model, of a few hundred random numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(["?", *WORDS])}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    small = {"vocab_size": 31, "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 64}
    for name, model in (
        ("lm", transformers.GPT2LMHeadModel(transformers.GPT2Config(**small))),
        (
            "classifier",
            transformers.BertForSequenceClassification(
                transformers.BertConfig(
                    vocab_size=31,
                    hidden_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=8,
                    num_labels=3,
                )
            ),
        ),
    ):
        model.eval().save_pretrained(folder / name)
        tokenizer.save(str(folder / name / "tokenizer.json"))
    return folder


def batch() -> Batch:
    texts = pa.array([text for text in TEXTS if text is not None], STRING)
    return Batch(pa.table({"row": pa.array(range(len(texts)), pa.int64()), "text": texts}))


def ids(text: str) -> list[int]:
    return [int(word[1:]) + 1 for word in text.split()][:16]


def test_the_probability_of_a_label(folder: Path) -> None:
    step = ModelScore(model="classifier", label=1, max_tokens=16, batch_size=2)
    step.load(Assets(folders=(folder,)))
    scores = step.modify(batch())["score"].to_pylist()
    model = transformers.BertForSequenceClassification.from_pretrained(folder / "classifier").eval()
    for text, score in zip(TEXTS, scores, strict=False):
        if not text:
            assert score is None  # no token to read
            continue
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids(text)])).logits[0]
        assert score == pytest.approx(float(logits.softmax(0)[1]), abs=1e-4)  # rounded to 4


def test_a_model_without_the_head_that_scores_is_refused(folder: Path, tmp_path: Path) -> None:
    model = transformers.BertModel.from_pretrained(folder / "classifier")
    model.save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / "tokenizer.json").write_bytes(
        (folder / "classifier" / "tokenizer.json").read_bytes()
    )
    step = ModelScore(model="encoder", max_tokens=16)
    with pytest.raises(ValueError, match=r"lacks 2 of the weights of a .*, as 'classifier\.bias'"):
        step.load(Assets(folders=(tmp_path,)))


def test_perplexity_of_the_tokens_behind_the_first(folder: Path) -> None:
    step = ModelPerplexity(model="lm", max_tokens=16, batch_size=3)
    step.load(Assets(folders=(folder,)))
    scores = step.modify(batch())["perplexity"].to_pylist()
    model = transformers.GPT2LMHeadModel.from_pretrained(folder / "lm").eval()
    for text, score in zip(TEXTS, scores, strict=False):
        tokens = ids(text or "")
        if len(tokens) < 2:
            assert score is None
            continue
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        losses = [-float(logits[n, token]) for n, token in enumerate(tokens[1:])]
        assert score == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)


def test_the_files_of_a_model_are_assets_of_the_record(folder: Path) -> None:
    step = ModelScore(model="classifier")
    assert step.assets() == (
        "classifier/config.json",
        "classifier/model.safetensors",
        "classifier/tokenizer.json",
    )
    assert len(Assets(folders=(folder,)).ref(step.assets()[1]).sha256) == 64


def test_a_model_in_parts_is_read_by_its_index(folder: Path, tmp_path: Path) -> None:
    model = transformers.GPT2LMHeadModel.from_pretrained(folder / "lm")
    model.save_pretrained(tmp_path / "parts", max_shard_size="4KB")
    (tmp_path / "parts" / "tokenizer.json").write_bytes(
        (folder / "lm" / "tokenizer.json").read_bytes()
    )
    files = sorted(path.name for path in (tmp_path / "parts").glob("model*"))
    parts = [name for name in files if name.endswith(".safetensors")]
    assert len(parts) > 1
    whole = ModelPerplexity(model="lm", max_tokens=16)
    whole.load(Assets(folders=(folder,)))
    step = ModelPerplexity(model="parts", weights=tuple(files), max_tokens=16)
    assert {name.partition("/")[2] for name in step.assets()} >= set(files)
    step.load(Assets(folders=(tmp_path,)))
    assert step.modify(batch())["perplexity"].equals(whole.modify(batch())["perplexity"])
    forgetful = tuple(name for name in files if name != parts[-1])
    step = ModelPerplexity(model="parts", weights=forgetful, max_tokens=16)
    with pytest.raises(ValueError, match=f"names {parts[-1]}; list every part in `weights`"):
        step.load(Assets(folders=(tmp_path,)))


def test_an_output_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="has 3 outputs"):
        ModelScore(model="classifier", label=3).load(Assets(folders=(folder,)))


def test_batches_are_of_similar_length() -> None:
    assert list(batches([5, 1, 0, 9, 2], 2, least=1)) == [[1, 4], [0, 3]]
