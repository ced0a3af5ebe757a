"""Random models with the hub's file layout, built once in a test run; a test that damages one works on a copy."""

import shutil

import pytest

from benchmarks.random_classifier import GEOMETRIES, build

SIZES = ("tiny", "small", "odd")


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    """Folders of models of three geometries, by name. Not to be written into."""
    root = tmp_path_factory.mktemp("models")
    return {size: build(root / size, size, seed=number) for number, size in enumerate(SIZES)}


@pytest.fixture(params=SIZES)
def model_folder(request, model_folders):
    """One model of each geometry. Not to be written into."""
    return model_folders[request.param]


@pytest.fixture
def reference(model_folder):
    """The slow, plain implementation of `model_folder`."""
    from tests.service.classifiers.nvidia.reference import reference_for  # seconds, which not every test here needs

    return reference_for(model_folder, GEOMETRIES[model_folder.name])


@pytest.fixture
def tiny_folder(model_folders, tmp_path):
    """A copy of the smallest model, to be damaged."""
    return shutil.copytree(model_folders["tiny"], tmp_path / "model")
