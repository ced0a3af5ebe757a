"""The export is made once, is never half there or believed when damaged, and finds a place where it may be written."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_classifier import GEOMETRIES, build
from service.classifiers.nvidia import load_nvidia
from service.classifiers.nvidia.artefact import Artefact, artefact_name, artefact_path, latest_digest
from service.classifiers.nvidia.checkpoint import open_checkpoint
from service.errors import UnusableWeights
from tests.service.classifiers.nvidia.reference import reference_for

TEXT = "Name three rivers in Peru."


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty folder for exports that cannot lie beside the weights."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ARMWISE_CACHE", str(folder))
    return folder


@pytest.fixture
def tiny_folder(tiny_folder):
    """Without what other tests exported."""
    for path in exports(tiny_folder):
        path.unlink()
    return tiny_folder


def read(folder, precision="fp32"):
    return load_nvidia(folder, precision=precision, gated=False).read([TEXT])[0].logits


def exports(folder):
    return sorted(folder.glob("armwise-*"))


def test_an_export_is_made_once_for_each_precision(tiny_folder):
    first = read(tiny_folder)
    (path,) = exports(tiny_folder)
    made = path.stat().st_mtime_ns
    assert (read(tiny_folder) == first).all()
    assert path.stat().st_mtime_ns == made
    read(tiny_folder, "int8")
    assert [found.name.split("-")[2] for found in exports(tiny_folder)] == ["fp32", "int8"]
    assert path.stat().st_mtime_ns == made


def test_other_weights_with_the_same_shapes_are_not_answered_from_an_old_export(tiny_folder, tmp_path):
    before = read(tiny_folder)
    other = build(tmp_path / "other", "tiny", seed=77)
    (other / "model.safetensors").replace(tiny_folder / "model.safetensors")
    after = read(tiny_folder)
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(after, reference_for(tiny_folder, GEOMETRIES["tiny"]).logits(TEXT), rtol=0, atol=1e-4)
    assert len(exports(tiny_folder)) == 2


def test_weights_of_another_size_are_not_answered_from_an_old_export(tiny_folder, tmp_path):
    read(tiny_folder)
    for path in build(tmp_path / "other", "small").iterdir():
        path.replace(tiny_folder / path.name)
    assert np.isfinite(read(tiny_folder)).all()


def flipped(data, at):
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


DAMAGES = {
    "truncated": lambda data: data[: len(data) * 2 // 3],
    "empty": lambda _: b"",
    "zeros": lambda _: b"\0" * 8,
    "no safetensors": lambda _: b"\xff" * 100,
    "no JSON": lambda data: data[:8] + b"[" + data[9:],
    "another header": lambda data: data.replace(b"F32", b"I64", 1),
    "another tensor": lambda data: data.replace(b"layer.0.output.dense.weight", b"layer.0.output.dense.weighs", 1),
    "another weight": lambda data: flipped(data, len(data) // 2),
    "another graph": lambda data: flipped(data, -1000),
    "another end": lambda data: flipped(data, -1),
    "another checksum": lambda data: flipped(data, data.index(b"checksum") + 20),
}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_export_is_made_again(tiny_folder, precision, damage):
    right = read(tiny_folder, precision)
    (path,) = exports(tiny_folder)
    whole = path.read_bytes()
    damaged = damage(whole)
    assert damaged != whole
    path.unlink()  # a mapping of the old file must not see the change
    path.write_bytes(damaged)
    assert (read(tiny_folder, precision) == right).all()
    assert path.read_bytes() == whole  # the same weights always give the same export


def test_an_export_of_another_version_is_left_alone(tiny_folder):
    digest = open_checkpoint(tiny_folder).digest
    older = tiny_folder / artefact_name(digest, "fp32").replace("-ort", "-ort0.")
    older.write_bytes(b"of an older version")
    read(tiny_folder)
    assert older.read_bytes() == b"of an older version"
    assert latest_digest(tiny_folder) == digest


def test_several_processes_may_export_the_same_weights_at_once(tiny_folder):
    code = (
        "import sys; from pathlib import Path; from service.classifiers.nvidia import load_nvidia;"
        "print(load_nvidia(Path(sys.argv[1]), precision='int8', gated=False).read(['Hello'])[0].logits.tolist())"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tiny_folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(answers) == 1
    (path,) = exports(tiny_folder)
    assert Artefact(path).intact()
    assert not list(tiny_folder.glob("*.part")) + list(tiny_folder.glob(".*.part"))


def test_where_the_weights_cannot_be_written_to_the_export_lies_in_the_cache(tiny_folder, cache):
    digest = open_checkpoint(tiny_folder).digest
    (tiny_folder / artefact_name(digest, "fp32")).mkdir()  # also root cannot write a file there
    first = read(tiny_folder)
    (path,) = exports(cache)
    assert artefact_path(tiny_folder, digest, "fp32") == path
    made = path.stat().st_mtime_ns
    assert (read(tiny_folder) == first).all()
    assert path.stat().st_mtime_ns == made
    assert latest_digest(tiny_folder) == digest


def test_with_no_place_at_all_the_message_says_what_is_needed(tiny_folder, cache, monkeypatch):
    (tiny_folder / artefact_name(open_checkpoint(tiny_folder).digest, "fp32")).mkdir()
    (cache / "file").write_bytes(b"")
    monkeypatch.setenv("ARMWISE_CACHE", str(cache / "file" / "below"))
    with pytest.raises(UnusableWeights, match=r"stored nowhere.*needs \d+ MB.*ARMWISE_CACHE"):
        read(tiny_folder)
    assert not list(Path(tiny_folder).glob(".*.part"))


def test_weights_with_a_nan_are_never_exported(tiny_folder):
    path = tiny_folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32("nan").tobytes()
    path.write_bytes(bytes(data))
    with pytest.raises(UnusableWeights, match="nan"):
        read(tiny_folder)
    assert exports(tiny_folder) == []
