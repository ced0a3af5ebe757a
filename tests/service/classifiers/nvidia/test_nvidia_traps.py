"""Where ports of NVIDIA's classifier go wrong, from text to answer: each mistake would show, and is not made.

The mistakes that concern single files have their tests there, likewise named after the trap: heads, checkpoint, tokens.
"""

import json
import socket

import msgspec
import numpy as np
import pytest
import torch

from service.classifiers.nvidia import load_nvidia
from service.classifiers.nvidia.heads import SLICES, answer_of, probabilities_of
from service.errors import UnusableWeights
from tests.service.classifiers.nvidia.prompts import PROMPTS

TEXTS = [text for text in PROMPTS.values() if text.strip() and len(text) < 400]


@pytest.fixture
def nvidia(model_folder):
    return load_nvidia(model_folder, precision="fp32")


@pytest.fixture
def hidden(reference):
    """The encoder's output for a text: (tokens, hidden)."""

    def run(text):
        with torch.no_grad():
            ids = torch.tensor([reference.tokenizer.encode(text).ids])
            return reference.backbone(input_ids=ids).last_hidden_state[0]

    return run


def heads_on(reference, pooled):
    return torch.cat([torch.nn.functional.linear(pooled, *head) for head in reference.heads]).numpy()


def share_changed(nvidia, others):
    """Of all texts, how many the others answer differently; ours are those of the plain implementation elsewhere."""
    changed = [answer_of(nvidia.read([text])[0].logits) != answer_of(other) for text, other in others]
    return sum(changed) / len(changed)


def test_trap_cls_pooling(nvidia, reference, hidden):
    wrong = [(text, heads_on(reference, hidden(text)[0])) for text in TEXTS]
    assert share_changed(nvidia, wrong) == 1


def test_trap_pooling_leaves_out_the_special_tokens(nvidia, reference, hidden):
    wrong = [(text, heads_on(reference, hidden(text)[1:-1].mean(dim=0))) for text in TEXTS]
    assert share_changed(nvidia, wrong) == 1


def test_trap_unmasked_mean(nvidia, reference):
    """Padding must count for nothing: neither in attention nor in the mean."""
    longest = reference.tokenizer.encode("word " * 60).ids
    for text in TEXTS[:20]:
        alone, beside = nvidia.read([text])[0], nvidia.read([text, "word " * 60])[0]
        np.testing.assert_allclose(beside.pooled, alone.pooled, atol=2e-5)
        np.testing.assert_allclose(beside.logits, alone.logits, atol=2e-4)
        ids = reference.tokenizer.encode(text).ids
        if len(ids) < len(longest) // 2:
            padded = torch.tensor([ids + [0] * (len(longest) - len(ids))])
            with torch.no_grad():
                everything = reference.backbone(input_ids=padded, attention_mask=(padded != 0).long())
            wrong = everything.last_hidden_state[0].mean(dim=0).numpy()
            assert np.abs(wrong - alone.pooled).max() > 0.01


def test_trap_padding_to_512_tokens_changes_nothing(nvidia):
    text = TEXTS[0]
    ids = nvidia._tokenizer.encode(text).ids
    padded = np.zeros((1, 512), dtype=np.int64)
    padded[0, : len(ids)] = ids
    logits, _ = nvidia._runtime.run(padded, (np.arange(512) < len(ids)).astype(np.int64)[None])
    np.testing.assert_allclose(logits[0], nvidia.read([text])[0].logits, atol=2e-4)


def test_trap_dropout_of_a_model_in_training(nvidia):
    first, second = (nvidia.read([TEXTS[1]])[0].logits for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_trap_argmax(nvidia):
    """A score of a likeliest class has few values; expected values hardly repeat."""
    scores = {answer_of(nvidia.read([text])[0].logits).creativity_scope for text in TEXTS}
    assert len(scores) > len(TEXTS) // 2


def test_trap_order_of_target_sizes(model_folders, tiny_folder):
    """Sorted keys, as any tool may save them, move no head: code that counts heads off the map would move all."""
    path = tiny_folder / "config.json"
    config = json.loads(path.read_bytes())
    path.write_text(json.dumps(config, sort_keys=True), encoding="utf-8")
    assert next(iter(json.loads(path.read_bytes())["target_sizes"])) == "constraint_ct"
    ours, sorted_ours = (load_nvidia(folder, precision="fp32") for folder in (model_folders["tiny"], tiny_folder))
    for text in TEXTS[:20]:
        np.testing.assert_array_equal(ours.read([text])[0].logits, sorted_ours.read([text])[0].logits)
        assert ours.classify(text).task_type == sorted_ours.classify(text).task_type


def test_trap_order_of_the_task_type_map(nvidia, reference):
    """ "10" and "11" sort before "2": the types beyond the third are named by index, not by place."""
    names = {nvidia.classify(text).task_type for text in TEXTS}
    expected = {answer["task_type_1"] for answer in reference.answers(np.stack([reference.logits(t) for t in TEXTS]))}
    assert names == expected
    assert len(names) > 3


def test_trap_strict_false_random_heads_would_still_answer(tiny_folder):
    """Why names are checked: with heads that were never loaded all looks well, and nothing is right."""
    rng = np.random.default_rng(0)
    probabilities = probabilities_of(rng.normal(size=32) * 0.02)
    assert probabilities[SLICES["task_type"]].sum() == pytest.approx(1)
    path = tiny_folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"head_0.fc.weight"', b'"heads0.fc.weight"', 1))
    with pytest.raises(UnusableWeights, match=r"a head is named 'heads0\.fc\.weight', expected 'head_0\.fc\.weight'"):
        load_nvidia(tiny_folder, precision="fp32")


def test_trap_a_base_model_is_downloaded(tiny_folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    config = json.loads((tiny_folder / "config.json").read_bytes()) | {"base_model": "microsoft/deberta-v3-small"}
    (tiny_folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_nvidia(tiny_folder, precision="fp32").classify("Hello").task_type


def test_trap_special_tokens_in_the_text_steer_as_with_nvidias_code(nvidia, reference):
    for text in (PROMPTS["separator token"], PROMPTS["all special tokens"], PROMPTS["glued special tokens"]):
        np.testing.assert_allclose(nvidia.read([text])[0].logits, reference.logits(text), atol=1e-3)


def test_trap_only_the_end_beyond_512_tokens_is_cut(nvidia):
    text = "a " * 510
    assert nvidia.read([text])[0].truncated is False
    longer = nvidia.read([text + "and more"])[0]
    assert (longer.truncated, longer.tokens) == (True, 512)
    np.testing.assert_array_equal(longer.logits, nvidia.read([text])[0].logits)


def test_all_fields_are_those_of_the_plain_implementation(nvidia, reference):
    for text in TEXTS:
        answer = msgspec.to_builtins(answer_of(nvidia.read([text])[0].logits))
        [expected] = reference.answers(reference.logits(text))
        for name, value in expected.items():
            if isinstance(value, str):
                assert answer[name] == value, text
            else:
                assert answer[name] == pytest.approx(value, abs=1.1e-3 if name == "task_type_prob" else 1.1e-4), text
