"""A folder of weights: what is read from a good one, and that every kind of damage is refused with file and fault."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from benchmarks.random_classifier import GEOMETRIES, backbone_config_of, build, header_of
from service.classifiers.nvidia.checkpoint import open_checkpoint
from service.classifiers.nvidia.geometry import DEBERTA_V3_BASE, Geometry, shapes_of
from service.errors import UnusableWeights

WORDS = "backbone.embeddings.word_embeddings.weight"


def refused(folder):
    with pytest.raises(UnusableWeights) as caught:
        open_checkpoint(folder)
    return str(caught.value)


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}), encoding="utf-8")


def change_tensors(folder, change):
    """Save the weights again, as a library would, after `change` of a dict of tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path)


def change_header(folder, change):
    """Write the weights with another header over the same numbers; `change` gets and returns the header's bytes."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = change(content[8 : 8 + length])
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def change_described(folder, change):
    def changed(header):
        described = json.loads(header)
        change(described)
        return json.dumps(described).encode()

    change_header(folder, changed)


# -- good folders


def test_the_geometry_is_found(model_folder):
    assert open_checkpoint(model_folder).geometry == GEOMETRIES[model_folder.name]


def test_tensors_are_those_of_the_file(model_folder):
    checkpoint = open_checkpoint(model_folder)
    tensors = load_file(model_folder / "model.safetensors")
    assert set(tensors) == set(shapes_of(checkpoint.geometry))
    for name, values in tensors.items():
        found = checkpoint.tensor(name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values)
        assert not found.flags.writeable


def test_embeddings_are_mapped_not_copied(model_folder):
    embeddings = open_checkpoint(model_folder).embeddings
    assert isinstance(embeddings, np.memmap)
    assert embeddings.shape == (GEOMETRIES[model_folder.name].vocabulary, GEOMETRIES[model_folder.name].hidden)
    np.testing.assert_array_equal(embeddings, load_file(model_folder / "model.safetensors")[WORDS])
    with pytest.raises(ValueError, match="read-only"):
        embeddings[0, 0] = 1


def test_a_folder_may_be_of_links(model_folders, tmp_path):
    """As a hub's cache lays them out."""
    for path in model_folders["tiny"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert open_checkpoint(tmp_path).digest == open_checkpoint(model_folders["tiny"]).digest


def test_the_numbers_of_a_header_need_not_be_aligned(tiny_folder):
    change_header(tiny_folder, lambda header: header.rstrip() + b" ")
    checkpoint = open_checkpoint(tiny_folder)
    assert np.isfinite(checkpoint.embeddings).all()
    checkpoint.check_values()


def test_only_position_ids_are_ignored(tiny_folder):
    def change(tensors):
        return tensors | {"backbone.embeddings.position_ids": np.arange(512, dtype=np.int64)[None]}

    change_tensors(tiny_folder, change)
    checkpoint = open_checkpoint(tiny_folder)
    checkpoint.check_values()
    change_tensors(tiny_folder, lambda tensors: tensors | {"backbone.position_ids": np.zeros(3, dtype=np.float32)})
    assert "unexpected backbone.position_ids" in refused(tiny_folder)


def test_the_full_size_is_that_of_the_hub():
    shapes = shapes_of(DEBERTA_V3_BASE)
    assert len(shapes) == 214
    parameters = sum(int(np.prod(shape)) for shape in shapes.values())
    assert parameters == 183_856_160
    assert len(header_of(DEBERTA_V3_BASE)) + 4 * parameters == 735_450_384


# -- the digest


def test_equal_files_have_equal_digests(model_folders, tiny_folder):
    assert open_checkpoint(tiny_folder).digest == open_checkpoint(model_folders["tiny"]).digest
    assert len(open_checkpoint(tiny_folder).digest) == 64


def test_one_bit_anywhere_changes_the_digest(tiny_folder):
    before = open_checkpoint(tiny_folder).digest
    path = tiny_folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # a fine-tuned head has the same header
    path.write_bytes(content)
    after = open_checkpoint(tiny_folder).digest
    assert after != before
    build(tiny_folder, "tiny")
    (tiny_folder / "tokenizer.json").unlink()
    assert open_checkpoint(tiny_folder).digest not in {before, after}


def test_the_digest_tells_geometries_apart_that_the_weights_do_not(tiny_folder):
    before = open_checkpoint(tiny_folder).digest
    backbone = backbone_config_of(GEOMETRIES["tiny"]) | {"num_attention_heads": 2}
    (tiny_folder / "backbone_config.json").write_text(json.dumps(backbone), encoding="utf-8")
    assert open_checkpoint(tiny_folder).digest != before


def test_the_digest_is_made_once(tiny_folder):
    checkpoint = open_checkpoint(tiny_folder)
    digest = checkpoint.digest
    shutil.rmtree(tiny_folder)
    assert checkpoint.digest == digest


# -- geometry


def test_trap_autoconfig_fields_of_another_architecture_are_ignored(tiny_folder):
    """As a library wrote them that took the folder's name, pro-mpt, for an architecture."""
    change_config(tiny_folder, model_type="mpt", d_model=2048, n_layers=24, n_heads=16, vocab_size=50368, hidden_size=1)
    assert open_checkpoint(tiny_folder).geometry == GEOMETRIES["tiny"]


@pytest.mark.parametrize("place", ["backbone_config.json", "backbone/config.json", "elsewhere/config.json"])
def test_a_backbones_own_config_is_believed(tiny_folder, place):
    """In the folder, or in a local one that `base_model` names."""
    path = tiny_folder / place
    path.parent.mkdir(exist_ok=True)
    backbone = backbone_config_of(GEOMETRIES["tiny"]) | {"num_attention_heads": 4, "layer_norm_eps": 1e-6}
    path.write_text(json.dumps(backbone), encoding="utf-8")
    change_config(tiny_folder, base_model=str(tiny_folder / "elsewhere"))
    assert (open_checkpoint(tiny_folder).geometry.heads, open_checkpoint(tiny_folder).geometry.eps) == (4, 1e-6)


def test_the_first_backbone_config_wins(tiny_folder):
    backbone = backbone_config_of(GEOMETRIES["tiny"])
    (tiny_folder / "backbone_config.json").write_text(json.dumps(backbone | {"num_attention_heads": 2}), "utf-8")
    change_config(tiny_folder, backbone_config=backbone | {"num_attention_heads": 4})
    assert open_checkpoint(tiny_folder).geometry.heads == 4


def test_a_name_of_a_base_model_is_never_looked_up(tiny_folder):
    """No network is used; pytest would wait, and the name does not exist."""
    change_config(tiny_folder, base_model="nobody/nothing-of-the-kind")
    assert open_checkpoint(tiny_folder).geometry == GEOMETRIES["tiny"]


@pytest.mark.parametrize("name", ["microsoft/DeBERTa-v3-base", "microsoft/deberta-v3-base", "/models/DEBERTA-V3-BASE/"])
def test_what_is_known_of_the_base_model_is_checked(tiny_folder, name):
    change_config(tiny_folder, base_model=name)
    assert "of 12 layers 2, 3, 4" in refused(tiny_folder)
    change_config(tiny_folder, backbone_config=backbone_config_of(GEOMETRIES["tiny"]))
    assert "says vocabulary 700, but base_model is DeBERTa-v3-base, which has 128100" in refused(tiny_folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', expected 'deberta-v2'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected 'gelu'"),
        ({"relative_attention": False}, "relative_attention is False"),
        ({"share_att_key": False}, "share_att_key is False"),
        ({"position_biased_input": True}, "position_biased_input is True"),
        ({"type_vocab_size": 2}, "type_vocab_size is 2"),
        ({"max_position_embeddings": 1024}, "max_position_embeddings is 1024"),
        ({"max_relative_positions": 64}, "max_relative_positions is 64"),
        ({"conv_kernel_size": 3}, "conv_kernel_size is 3"),
        ({"embedding_size": 32}, "embedding_size is 32"),
        ({"pos_att_type": "p2c"}, "pos_att_type is 'p2c', expected p2c and c2p"),
        ({"pos_att_type": None}, "pos_att_type is None"),
        ({"norm_rel_ebd": ["layer_norm"]}, "norm_rel_ebd is ['layer_norm']"),
        ({"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd is 'batch_norm'"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2', expected a positive integer"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, expected a positive integer, at most 999"),
        ({"position_buckets": -1}, "position_buckets is -1"),
        ({"num_attention_heads": 3}, "hidden_size 64 is no multiple of num_attention_heads 3"),
        ({"num_hidden_layers": 3}, "of 3 layers 2 is missing"),
        ({"num_hidden_layers": 1}, "it has a layer 1, expected layers 0 to 0"),
        ({"hidden_size": 128}, "has shape (700, 64), expected (700, 128)"),
        ({"intermediate_size": 12}, "intermediate.dense.weight' has shape (128, 64), expected (12, 64)"),
        ({"position_buckets": 8}, "rel_embeddings.weight' has shape (32, 64), expected (16, 64)"),
        ({"norm_rel_ebd": "none"}, "unexpected backbone.encoder.LayerNorm.bias, backbone.encoder.LayerNorm.weight"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_geometry_is_refused(tiny_folder, changes, message):
    change_config(tiny_folder, backbone_config=backbone_config_of(GEOMETRIES["tiny"]) | changes)
    assert message in refused(tiny_folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"pos_att_type": ["c2p", "p2c"]},
        {"pos_att_type": "C2P | p2c"},
        {"embedding_size": 64},
        {"max_relative_positions": 512},
        {"conv_kernel_size": 0},
        {"vocab_size": 700, "torch_dtype": "float32", "architectures": ["DebertaV2Model"]},
    ],
)
def test_other_ways_to_say_the_same_are_read(tiny_folder, changes):
    change_config(tiny_folder, backbone_config=backbone_config_of(GEOMETRIES["tiny"]) | changes)
    assert open_checkpoint(tiny_folder).geometry == GEOMETRIES["tiny"]


def test_a_number_of_attention_heads_that_cannot_be_told_is_asked_for(tmp_path):
    odd = GEOMETRIES["odd"]
    build(tmp_path, odd)
    change_config(tmp_path, backbone_config=...)
    assert "60 wide, no multiple of 64" in refused(tmp_path)
    assert "Add the backbone's config as backbone_config.json" in refused(tmp_path)


def test_another_geometry_can_be_built_and_opened(tmp_path):
    geometry = Geometry(
        vocabulary=300, hidden=64, layers=1, heads=1, feed_forward=8, buckets=3, normalised_distances=False
    )
    assert open_checkpoint(build(tmp_path, geometry)).geometry == geometry


# -- maps


@pytest.mark.parametrize("order", [sorted, lambda keys: sorted(keys, reverse=True)])
def test_trap_order_of_maps_in_the_file_means_nothing(model_folders, tiny_folder, order):
    """`target_sizes` and `task_type_map`, as any tool saves them that sorts keys."""
    path = tiny_folder / "config.json"

    def reordered(value):
        return {key: reordered(value[key]) for key in order(value)} if isinstance(value, dict) else value

    config = reordered(json.loads(path.read_bytes()))
    assert next(iter(config["target_sizes"])) != "task_type" or order is not sorted
    path.write_text(json.dumps(config), encoding="utf-8")
    checkpoint, original = open_checkpoint(tiny_folder), open_checkpoint(model_folders["tiny"])
    assert checkpoint.geometry == original.geometry
    for index in range(8):
        name = f"head_{index}.fc.weight"
        np.testing.assert_array_equal(checkpoint.tensor(name), original.tensor(name))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("target_sizes", {"reasoning": ...}, "target_sizes lacks 'reasoning'"),
        ("target_sizes", {"reasoning": 3}, "target_sizes['reasoning'] is 3, expected 2"),
        ("target_sizes", {"toxicity": 2}, "target_sizes has 'toxicity', which NVIDIA's model does not know"),
        ("weights_map", {"creativity_scope": ...}, "weights_map lacks 'creativity_scope'"),
        ("weights_map", {"creativity_scope": [2, 1]}, "weights_map['creativity_scope'] is [2, 1], expected [2, 1, 0]"),
        ("weights_map", {"creativity_scope": [0, 1, 2]}, "weights_map['creativity_scope'] is [0, 1, 2], expected [2,"),
        ("weights_map", {"reasoning": {"0": 0}}, "weights_map['reasoning'] is {'0': 0}, expected [0, 1]"),
        ("divisor_map", {"domain_knowledge": 0}, "divisor_map['domain_knowledge'] is 0, expected 3"),
        ("divisor_map", {"domain_knowledge": -3}, "divisor_map['domain_knowledge'] is -3, expected 3"),
        ("divisor_map", {"domain_knowledge": ...}, "divisor_map lacks 'domain_knowledge'"),
        ("task_type_map", {"11": ...}, "task_type_map lacks '11'"),
        ("task_type_map", {"4": "Coding"}, "task_type_map['4'] is 'Coding', expected 'Code Generation'"),
        ("task_type_map", {"0": "Chatbot", "1": "Brainstorming"}, "task_type_map['0'] is 'Chatbot'"),
        ("task_type_map", {"12": "Thirteenth"}, "task_type_map has '12'"),
    ],
)
def test_bad_maps_are_refused(tiny_folder, name, change, message):
    config = json.loads((tiny_folder / "config.json").read_bytes())
    changed = {key: value for key, value in (config[name] | change).items() if value is not ...}
    change_config(tiny_folder, **{name: changed})
    assert message in refused(tiny_folder)
    assert str(tiny_folder / "config.json") in refused(tiny_folder)


def test_weights_of_unknown_targets_are_not_looked_at(tiny_folder):
    config = json.loads((tiny_folder / "config.json").read_bytes())
    change_config(tiny_folder, weights_map=config["weights_map"] | {"task_type": [0] * 12})
    assert open_checkpoint(tiny_folder).geometry == GEOMETRIES["tiny"]


@pytest.mark.parametrize("name", ["target_sizes", "weights_map", "divisor_map", "task_type_map"])
@pytest.mark.parametrize("value", [..., None, [1, 2], "x" * 100])
def test_a_missing_map_is_refused(tiny_folder, name, value):
    change_config(tiny_folder, **{name: value})
    assert f"{name} is " in refused(tiny_folder)
    assert len(refused(tiny_folder)) < 300 + len(str(tiny_folder))


# -- files


def test_a_missing_folder_is_refused(tmp_path):
    assert "nothing is not a folder" in refused(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_refused(tiny_folder, name):
    (tiny_folder / name).unlink()
    assert f"{tiny_folder / name} is missing" in refused(tiny_folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_refused(tiny_folder, name):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 735450384\n"
    (tiny_folder / name).write_text(pointer, encoding="ascii")
    assert f"{tiny_folder / name} is a Git LFS pointer" in refused(tiny_folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_pickles_are_not_read(tiny_folder, name):
    (tiny_folder / "model.safetensors").rename(tiny_folder / name)
    message = refused(tiny_folder)
    assert "model.safetensors is missing" in message
    assert f"{name} can run code when opened and is never read: safetensors is needed" in message


def test_weights_in_several_files_are_refused(tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    assert "split over several files" in refused(tiny_folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_no_object_is_refused(tiny_folder, content):
    (tiny_folder / "config.json").write_bytes(content)
    assert str(tiny_folder / "config.json") in refused(tiny_folder)


@pytest.mark.parametrize("kept", [0, 5, 8, 300, -70_000, -1])
def test_a_truncated_file_is_refused(tiny_folder, kept):
    path = tiny_folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    message = refused(tiny_folder)
    assert str(path) in message
    assert "truncated" in message or "not a safetensors file" in message
    if kept < 0:
        assert f"{len(whole) + kept} bytes, its header describes {len(whole)}" in message


def test_a_file_with_more_than_its_header_describes_is_refused(tiny_folder):
    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0" * 4)
    assert "has bytes that its header does not describe" in refused(tiny_folder)


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b"not JSON", b"[]", b"\xff" * 9, b'{"a": 1, "a": 1}', b"[" * 100_000, b"{}"],
    ids=["empty", "open", "text", "list", "bytes", "twice", "deep", "no tensors"],
)
def test_a_garbled_header_is_refused(tiny_folder, header):
    change_header(tiny_folder, lambda _: header)
    assert str(tiny_folder / "model.safetensors") in refused(tiny_folder)


def test_a_header_of_impossible_length_is_refused(tiny_folder):
    path = tiny_folder / "model.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + path.read_bytes()[8:])
    assert "not the length of a header" in refused(tiny_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [-700, -64]}, "shape [-700, -64]"),
        ({"shape": "700x64"}, "shape '700x64'"),
        ({"shape": [True, 64]}, "shape [True, 64]"),
        ({"shape": [700, 63]}, "of F32 and shape [700, 63] has 179200 bytes"),
        ({"data_offsets": [0]}, "data_offsets [0]"),
        ({"data_offsets": [4, 2]}, "has -2 bytes"),
        ({"data_offsets": [0, 179200]}, "starts at 0 where the one before it ends at"),
        ({"data_offsets": [10**18, 10**18 + 179200]}, "where the one before it ends at"),
        ({"dtype": "F31"}, "dtype 'F31'"),
        ({"dtype": ["F32"]}, "dtype ['F32']"),
    ],
)
def test_a_header_that_lies_is_refused(tiny_folder, change, message):
    change_described(tiny_folder, lambda described: described[WORDS].update(change))
    assert message in refused(tiny_folder)


def test_a_tensor_that_is_not_described_is_refused(tiny_folder):
    change_described(tiny_folder, lambda described: described.update({WORDS: 7}))
    assert "is described by 7" in refused(tiny_folder)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_header_with_any_byte_changed_is_refused_or_means_the_same(model_folders, tiny_folder, data):
    path = tiny_folder / "model.safetensors"
    content = bytearray((model_folders["tiny"] / "model.safetensors").read_bytes())
    length = int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(0, 8 + length - 1))
    content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(tiny_folder)
    except UnusableWeights as error:
        assert str(path) in str(error)  # noqa: PT017 - both outcomes are right
    else:
        for name in shapes_of(checkpoint.geometry):
            assert checkpoint.tensor(name).shape == shapes_of(checkpoint.geometry)[name]


# -- tensors


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8])
def test_another_dtype_is_refused(tiny_folder, dtype):
    change_tensors(tiny_folder, lambda tensors: {name: values.astype(dtype) for name, values in tensors.items()})
    short = {np.float16: "F16", np.float64: "F64", np.int8: "I8"}[dtype]
    assert f"has dtype {short}, expected F32" in refused(tiny_folder)


def test_trap_strict_false_a_missing_tensor_is_refused(tiny_folder):
    change_tensors(tiny_folder, lambda tensors: {name: tensors[name] for name in tensors if name != "head_3.fc.bias"})
    message = refused(tiny_folder)
    assert str(tiny_folder / "model.safetensors") in message
    assert "missing head_3.fc.bias" in message


def test_trap_strict_false_an_extra_tensor_is_refused(tiny_folder):
    change_tensors(tiny_folder, lambda tensors: tensors | {"head_8.fc.weight": np.zeros((2, 64), np.float32)})
    assert "unexpected head_8.fc.weight" in refused(tiny_folder)


def test_trap_strict_false_another_prefix_is_refused(tiny_folder):
    change_tensors(tiny_folder, lambda tensors: {f"model.{name}": values for name, values in tensors.items()})
    assert "keys start with 'model.'" in refused(tiny_folder)


@pytest.mark.parametrize(("new", "said"), [("deberta.", "keys start with 'deberta.'"), ("", "keys lack a prefix")])
def test_trap_strict_false_a_renamed_backbone_is_refused(tiny_folder, new, said):
    def change(tensors):
        return {name.replace("backbone.", new): values for name, values in tensors.items()}

    change_tensors(tiny_folder, change)
    assert said in refused(tiny_folder)
    assert "expected 'backbone." in refused(tiny_folder)


@pytest.mark.parametrize(
    "new", ["heads.{}.fc", "heads.{}", "head{}.fc", "classifier_heads.{}.linear", "module.head_{}.fc"]
)
def test_trap_strict_false_renamed_heads_are_refused(tiny_folder, new):
    def change(tensors):
        for index in range(8):
            for kind in ("weight", "bias"):
                tensors[f"{new.format(index)}.{kind}"] = tensors.pop(f"head_{index}.fc.{kind}")

    change_tensors(tiny_folder, change)
    message = refused(tiny_folder)
    assert new.format(0).split("0")[0] in message
    assert "expected 'head_" in message


def test_trap_strict_false_heads_in_another_order_are_refused(tiny_folder):
    """As they are numbered by code that reads them off a map with sorted keys."""

    def change(tensors):
        ours = {f"head_{new}": f"head_{old}" for new, old in enumerate([7, 3, 1, 5, 6, 4, 2, 0])}
        return {ours.get(name[:6], name[:6]) + name[6:]: values for name, values in tensors.items()}

    change_tensors(tiny_folder, change)
    assert "tensor 'head_0.fc.weight' has shape (2, 64), expected (12, 64)" in refused(tiny_folder)
    assert "more" in refused(tiny_folder)


def test_a_head_of_another_size_is_refused(tiny_folder):
    def change(tensors):
        tensors["head_0.fc.weight"] = tensors["head_0.fc.weight"][:11].copy()
        tensors["head_0.fc.bias"] = tensors["head_0.fc.bias"][:11].copy()

    change_tensors(tiny_folder, change)
    message = refused(tiny_folder)
    assert "tensor 'head_0.fc.weight' has shape (11, 64), expected (12, 64)" in message
    assert "'head_0.fc.bias' has shape (11,), expected (12,)" in message


def without_layers(*numbers):
    def change(tensors):
        return {
            name: values
            for name, values in tensors.items()
            if not any(f".layer.{number}." in name for number in numbers)
        }

    return change


@pytest.mark.parametrize(("numbers", "said"), [((1,), "of 3 layers 1 is missing"), ((0, 1), "of 3 layers 0, 1 are")])
def test_a_missing_layer_is_named(model_folders, tmp_path, numbers, said):
    folder = shutil.copytree(model_folders["small"], tmp_path / "model")
    change_config(folder, backbone_config=backbone_config_of(GEOMETRIES["small"]))
    change_tensors(folder, without_layers(*numbers))
    assert said in refused(folder)


def test_a_missing_layer_is_named_without_a_backbones_config(model_folders, tmp_path):
    folder = shutil.copytree(model_folders["small"], tmp_path / "model")
    change_tensors(folder, without_layers(1))
    assert "of 3 layers 1 is missing" in refused(folder)


def test_a_layer_of_absurd_number_is_refused_at_once(tiny_folder):
    change_tensors(
        tiny_folder, lambda tensors: tensors | {f"backbone.encoder.layer.{10**9}.x": np.zeros(1, np.float32)}
    )
    assert "unexpected backbone.encoder.layer.1000000000.x" in refused(tiny_folder)


def test_a_tensor_of_a_layer_is_named(tiny_folder):
    def change(tensors):
        del tensors["backbone.encoder.layer.1.attention.self.key_proj.bias"]
        del tensors["backbone.encoder.layer.0.output.LayerNorm.weight"]

    change_tensors(tiny_folder, change)
    message = refused(tiny_folder)
    assert "layer.1.attention.self.key_proj.bias" in message
    assert "layer.0.output.LayerNorm.weight" in message


@pytest.mark.parametrize("name", [WORDS, "backbone.encoder.rel_embeddings.weight"])
def test_a_missing_table_is_named(tiny_folder, name):
    change_tensors(tiny_folder, lambda tensors: {key: values for key, values in tensors.items() if key != name})
    assert name in refused(tiny_folder)


def test_a_table_of_the_wrong_kind_is_refused(tiny_folder):
    change_tensors(tiny_folder, lambda tensors: tensors | {WORDS: np.zeros(64, np.float32)})
    assert f"tensor '{WORDS}' has shape (64,), expected two dimensions" in refused(tiny_folder)
    change_tensors(tiny_folder, lambda tensors: tensors | {WORDS: np.zeros((0, 64), np.float32)})
    assert "has shape (0, 64), expected two dimensions, none of them empty" in refused(tiny_folder)


def test_a_table_shorter_than_the_vocabulary_is_refused(tiny_folder):
    change_tensors(tiny_folder, lambda tensors: tensors | {WORDS: tensors[WORDS][:690].copy()})
    assert "'[MASK]' has id 698, but the embedding table has only 690 rows" in refused(tiny_folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "place"), [("head_2.fc.weight", (1, 5)), (WORDS, (699, 63)), ("head_7.fc.bias", (0,))]
)
def test_a_number_that_is_none_is_named(tiny_folder, value, name, place):
    def change(tensors):
        tensors[name][place] = value

    change_tensors(tiny_folder, change)
    checkpoint = open_checkpoint(tiny_folder)
    with pytest.raises(UnusableWeights) as caught:
        checkpoint.check_values()
    assert f"tensor {name!r} holds {value} at {list(place)}" in str(caught.value)
    assert str(tiny_folder / "model.safetensors") in str(caught.value)
