from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from evals.models import LanguageModel, Query

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from evals.text.huggingface import HuggingFaceLM, load  # noqa: E402


def tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {letter: i + 1 for i, letter in enumerate(letters)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>")


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def queries():
    rng = np.random.default_rng(0)

    def draw(length):
        return rng.integers(1, 300, size=length).astype(np.int32)

    return [
        Query(draw(9), (draw(1), draw(5), draw(3))),
        Query(draw(20), (draw(4),)),
        Query(draw(2), (draw(1), draw(1))),
        Query(draw(1), (draw(12),)),
    ]


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("batch_tokens", [1, 1000])
def test_the_fast_path_equals_the_exact_one(make, batch_tokens):
    exact = HuggingFaceLM(make(), tokenizer(), exact=True).score(queries())
    fast = HuggingFaceLM(make(), tokenizer(), batch_tokens=batch_tokens).score(queries())
    for one, other in zip(exact, fast, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a.losses, b.losses, atol=1e-5, rtol=0)
            assert (a.greedy == b.greedy).all()


def test_losses_are_minus_log_softmax_of_the_logits():
    model = llama()
    query = queries()[1]
    ((scores,),) = HuggingFaceLM(model, tokenizer()).score([query])
    row = torch.from_numpy(np.concatenate([query.context, query.continuations[0]]).astype(int))
    with torch.inference_mode():
        logits = model(row[None]).logits[0, 19:-1]
    expected = -torch.log_softmax(logits, -1)[torch.arange(4), row[20:]]
    np.testing.assert_allclose(scores.losses, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 1000])
def test_generation_equals_the_plain_loop(batch_tokens):
    model = gpt2()
    contexts = [query.context for query in queries()]
    ours = HuggingFaceLM(model, tokenizer(), batch_tokens=batch_tokens)
    outputs = ours.generate(contexts, max_new_tokens=5, is_done=lambda text: False)
    for context, output in zip(contexts, outputs, strict=True):
        row = context.tolist()
        while len(row) < len(context) + 5:
            with torch.inference_mode():
                row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
            if row[-1] == 0:
                break
        assert output == row[len(context) :]


def test_a_saved_model_is_loaded_with_its_limits(tmp_path):
    model = gpt2()
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    ours = load(tmp_path, device="cpu")
    assert isinstance(ours, LanguageModel)
    assert (ours.vocab_size, ours.max_length, ours.document_start) == (300, 64, 0)
    assert ours.tokenise(["ab"]) == [tokenizer()("ab")["input_ids"]]
    assert ours.id == HuggingFaceLM(model, tokenizer()).id


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot load"):
        load(tmp_path, device="cpu")


def test_the_whole_distribution_has_the_losses_that_are_scored():
    model = HuggingFaceLM(llama(), tokenizer())
    query = queries()[1]
    [whole] = model.next_losses([query.context])
    ((scores, *_),) = model.score([query])
    assert np.exp(-whole.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
    assert scores.losses[0] == pytest.approx(whole[query.continuations[0][0]], abs=1e-5)
