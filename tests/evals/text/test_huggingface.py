from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from evals.models import LanguageModel, Query
from evals.tasks import EvalError

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
    for first, other in zip(exact, fast, strict=True):
        for a, b in zip(first, other, strict=True):
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 3}, "lacks 12 of the weights .*GPT2LMHeadModel.* names, as 'transformer.h.2"),
        ({"vocab_size": 100}, "cannot load"),
    ],
)
def test_weights_that_a_config_names_and_a_checkpoint_lacks_are_not_made_up(
    tmp_path, change, message
):
    model = gpt2()
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["n_layer"] == 2
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        load(tmp_path, device="cpu")


def test_a_package_that_a_model_needs_and_that_is_not_here_is_named(monkeypatch, tmp_path):
    def needs(*_, **__):
        raise ImportError("Using `bitsandbytes` 4-bit quantization requires accelerate")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", needs)
    with pytest.raises(EvalError, match=r"cannot load .* ImportError: Using `bitsandbytes`"):
        load(tmp_path)


def test_weights_that_are_cut_or_no_weights_are_named(tmp_path):
    gpt2().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    for data in (weights.read_bytes()[:-100], b""):
        weights.write_bytes(data)
        with pytest.raises(ValueError, match=r"cannot load .*SafetensorError"):
            load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"cannot load .*config\.json"):
        load(tmp_path / "config.json", device="cpu")


def test_a_model_without_its_tokenizer_is_refused(tmp_path):
    """Transformers makes up an empty one, whose texts have no tokens."""
    gpt2().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer"):
        load(tmp_path, device="cpu")


def test_a_tokenizer_of_another_model_is_refused_where_its_ids_are_too_high():
    config = transformers.GPT2Config(vocab_size=20, n_embd=32, n_layer=1, n_head=2)
    model = HuggingFaceLM(transformers.GPT2LMHeadModel(config), tokenizer())
    with pytest.raises(ValueError, match="the model has 20 embeddings"):
        model.tokenise(["text"])


def test_the_whole_distribution_has_the_losses_that_are_scored():
    model = HuggingFaceLM(llama(), tokenizer())
    query = queries()[1]
    [whole] = model.next_losses([query.context])
    ((scores, *_),) = model.score([query])
    assert np.exp(-whole.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
    assert scores.losses[0] == pytest.approx(whole[query.continuations[0][0]], abs=1e-5)


def talker(*, bos: bool, adds_bos: bool = False):
    """A model whose next token depends on the last alone: "." is followed by " 42", then the end.

    After the end it would say " 7". Its weights are set by hand.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.add_tokens([" 42", " 7"])
    begin, end, answer, more = (made.token_to_id(t) for t in ("<s>", "</s>", " 42", " 7"))
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", begin)]
        )
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>" if bos else None, eos_token="</s>"
    )
    size = made.get_vocab_size()
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=size + -size % 4,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=words.bos_token_id,
        eos_token_id=end,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config)
    follows = {made.token_to_id("."): answer, answer: end, end: more, more: end}
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weights.zero_()
        embedded = model.model.embed_tokens.weight.zero_()
        embedded[range(size), range(size)] = 1
        head = model.lm_head.weight.zero_()
        for token in range(size):
            head[follows.get(token, made.token_to_id("x")), token] = 10
    return model, words


def said(model, words, **options) -> str:
    ours = HuggingFaceLM(model, words, **options)
    (context,) = ours.tokenise(["What is it."])
    (ids,) = ours.generate([np.array(context)], max_new_tokens=6, is_done=lambda text: False)
    return ours.detokenise(ids)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_generation_stops_at_the_end_of_text_with_and_without_a_beginning(bos, exact):
    assert said(*talker(bos=bos), exact=exact) == " 42"


def test_generation_stops_at_every_special_token_that_the_model_names():
    model, words = talker(bos=True)
    words.add_special_tokens({"additional_special_tokens": [" 42"]})
    model.generation_config.eos_token_id = [words.eos_token_id, words.convert_tokens_to_ids(" 42")]
    ours = HuggingFaceLM(model, words)
    assert ours.document_ends == {words.eos_token_id, words.convert_tokens_to_ids(" 42")}


def test_an_end_that_is_a_letter_to_the_tokenizer_is_a_default_number_and_ignored():
    model, words = talker(bos=False)
    model.generation_config.eos_token_id = words.convert_tokens_to_ids("x")
    assert HuggingFaceLM(model, words).document_ends == {words.eos_token_id}


@pytest.mark.parametrize(
    "setting",
    [
        {"no_repeat_ngram_size": 1, "min_new_tokens": 5},
        {"repetition_penalty": 50.0},
        {"do_sample": True, "temperature": 100.0},
        {"max_length": 5},
    ],
)
def test_greedy_answers_ignore_the_generation_config_of_the_model(setting):
    model, words = talker(bos=False)
    for name, value in setting.items():
        setattr(model.generation_config, name, value)
    assert said(model, words) == " 42"
    assert all(getattr(model.generation_config, name) == v for name, v in setting.items())


def test_the_tokenizers_own_beginning_is_known_and_not_in_every_part():
    model, words = talker(bos=True, adds_bos=True)
    ours = HuggingFaceLM(model, words)
    assert ours.prompt_start == (words.bos_token_id,)
    assert ours.tokenise(["hi"]) == [words("hi", add_special_tokens=False)["input_ids"]]
    assert HuggingFaceLM(*talker(bos=True)).prompt_start == ()


def test_the_identity_covers_configurations_and_the_tokenizer():
    def digest(change):
        torch.manual_seed(0)
        model, words = talker(bos=True)
        change(model, words)
        return HuggingFaceLM(model, words).id

    changes = [
        lambda m, t: None,
        lambda m, t: setattr(m.config, "rms_norm_eps", 0.5),
        lambda m, t: setattr(m.generation_config, "no_repeat_ngram_size", 2),
        lambda m, t: t.add_tokens(["another"]),
    ]
    assert len({digest(change) for change in changes}) == len(changes)
    assert digest(changes[0]) == digest(changes[0])


@pytest.mark.parametrize("name", ["BertConfig", "RobertaConfig"])
@pytest.mark.parametrize("causal", [False, True])
def test_an_encoder_that_transformers_loads_as_a_language_model_is_refused(name, causal):
    fields = small(name)[1]
    del fields["num_key_value_heads"]
    config = getattr(transformers, name)(**fields, is_decoder=causal)
    model = transformers.AutoModelForCausalLM.from_config(config)
    if causal:
        assert HuggingFaceLM(model, tokenizer()).vocab_size == 256
        return
    with pytest.raises(EvalError, match="reads the tokens behind the one it predicts"):
        HuggingFaceLM(model, tokenizer())


def test_contexts_of_longrope_end_where_it_was_trained():
    """Beyond, the factors of all tokens in a batch change with the longest of them."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    name, fields = small("Phi3Config", pad_token_id=0)
    config = getattr(transformers, name)(
        **fields,
        original_max_position_embeddings=64,
        rope_scaling={"type": "longrope", **factors},
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert HuggingFaceLM(model, tokenizer()).max_length == 64
    plain = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**fields))
    assert HuggingFaceLM(plain, tokenizer()).max_length == 512


def small(name, **more):
    base = {
        "vocab_size": 256,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    return name, {**base, **more}


ARCHITECTURES = [
    small("MistralConfig", sliding_window=16),
    small("Gemma2Config", head_dim=8, sliding_window=16),
    small("Olmo2Config"),
    ("BloomConfig", {"vocab_size": 256, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    (
        "MambaConfig",
        {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    ),
    (
        "RwkvConfig",
        {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 512},
    ),
    small(
        "JambaConfig",
        num_hidden_layers=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=2,
        mamba_d_state=4,
        use_mamba_kernels=False,
    ),
    small(
        "BambaConfig",
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
        attn_layer_indices=[1],
        mamba_chunk_size=8,
    ),
]


@pytest.mark.parametrize(("name", "fields"), ARCHITECTURES, ids=[name for name, _ in ARCHITECTURES])
def test_every_kind_of_architecture_answers_alike_on_both_paths(name, fields):
    torch.manual_seed(0)
    config = getattr(transformers, name)(**fields)
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    fast, exact = HuggingFaceLM(model, tokenizer()), HuggingFaceLM(model, tokenizer(), exact=True)
    asked = [
        Query(q.context % 250, tuple(answer % 250 for answer in q.continuations)) for q in queries()
    ]
    for first, other in zip(fast.score(asked), exact.score(asked), strict=True):
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a.losses, b.losses, atol=1e-4, rtol=0)
    contexts = [query.context for query in asked]
    given = {"max_new_tokens": 6, "is_done": lambda text: False}
    assert fast.generate(contexts, **given) == exact.generate(contexts, **given)
