"""`armwise classifier fetch | export | check`: from the hub to served answers, in sentences when something is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.random_classifier import build
from service.classifiers.nvidia import load_nvidia
from service.classifiers.nvidia.fetch import REPOSITORY, read_fetched
from service.classifiers.nvidia.gate import packaged_prompts
from service.cli.main import main
from tests.service.classifiers.nvidia.hub_server import HubServer, serving

ROOT = Path(__file__).parents[3]
ACCEPTED = "licence-accepted.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return build(tmp_path_factory.mktemp("original"), "tiny")


@pytest.fixture
def weights(original, tmp_path):
    return shutil.copytree(original, tmp_path / "weights", ignore=shutil.ignore_patterns("armwise-*"))


@pytest.fixture
def server(original):
    files = {path.name: path.read_bytes() for path in original.iterdir() if not path.name.startswith("armwise-")}
    with serving(HubServer({**files, "README.md": b"---\nlicense: other\n---\n"}, REPOSITORY)) as running:
        yield running


def run(*arguments, given=None, **environ):
    """Exit status, standard output and standard error of `armwise classifier ...`."""
    clean = {"HF_TOKEN": "", "HF_ENDPOINT": "", "HF_HUB_OFFLINE": "", "ARMWISE_CLASSIFIER_WEIGHTS": ""}
    done = CliRunner().invoke(main, list(map(str, arguments)), input=given, env={**clean, **environ})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def fetch(server, folder, *arguments, **environ):
    return run("classifier", "fetch", "--to", folder, "--endpoint", server.url, *arguments, **environ)


def test_fetched_weights_answer_prompts(server, tmp_path):
    folder = tmp_path / "fetched"
    status, _, told = fetch(server, folder, "--accept-licence")
    assert status == 0, told
    assert "NVIDIA Open Model License Agreement" in told
    assert "armwise classifier check" in told
    assert read_fetched(folder).repository == REPOSITORY
    status, out, _ = run("classify", "--classifier", "nvidia", "--weights", folder, given=b'{"prompt": "x"}\n')
    assert status == 0
    assert len(json.loads(out)["result"]) == 11


def test_without_a_terminal_and_without_acceptance_nothing_is_fetched(server, tmp_path):
    folder = tmp_path / "fetched"
    status, _, told = fetch(server, folder)
    assert status == 1
    assert "june-2024.pdf" in told
    assert "--accept-licence" in told
    assert not folder.exists()
    assert server.requests("store", "GET") == []


def test_a_licence_once_accepted_is_not_asked_again(server, tmp_path):
    folder = tmp_path / "fetched"
    assert fetch(server, folder, "--accept-licence")[0] == 0
    recorded = json.loads((folder / ACCEPTED).read_text())
    assert recorded["how"] == "--accept-licence"
    server.push("later")
    server.files["README.md"] += b"more"
    status, _, told = fetch(server, folder)
    assert status == 0, told
    assert "License" not in told
    assert (folder / "README.md").read_bytes().endswith(b"more")
    assert "Every file was there." in fetch(server, folder)[2]


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are a thing of Unix")
@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1), ("", 1)])
def test_on_a_terminal_it_asks(server, tmp_path, answer, status):
    folder = tmp_path / "fetched"
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "service", "classifier", "fetch", "--to", folder, "--endpoint", server.url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "HF_TOKEN": ""},
    ) as running:  # fmt: skip
        os.write(ours, f"{answer}\n".encode())
        _, told = running.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert running.returncode == status, told
    assert b"Do you accept these terms? [y/N]" in told
    assert (folder / "model.safetensors").exists() == (answer == "y")
    if answer == "y":
        assert json.loads((folder / ACCEPTED).read_text())["how"] == "terminal"


def test_endpoint_token_and_folder_come_from_the_environment(server, tmp_path):
    server.token = "hf_secret"
    folder = tmp_path / "named"
    named = {"HF_ENDPOINT": server.url, "ARMWISE_CLASSIFIER_WEIGHTS": str(folder)}
    status, _, told = run("classifier", "fetch", "--accept-licence", **named)
    assert status == 1
    assert "HF_TOKEN" in told
    status, out, told = run("classifier", "fetch", "--accept-licence", **named, HF_TOKEN="hf_secret")
    assert status == 0, told
    assert (folder / "model.safetensors").exists()
    assert "hf_secret" not in out + told
    assert not any("hf_secret" in path.read_text(errors="replace") for path in folder.iterdir())


def test_offline_is_respected(server, tmp_path):
    status, _, told = fetch(server, tmp_path / "fetched", "--accept-licence", HF_HUB_OFFLINE="1")
    assert status == 1
    assert "HF_HUB_OFFLINE" in told
    assert server.seen == []


def test_a_whole_download_of_something_else_is_refused(server, tmp_path):
    server.files["model.safetensors"] = b"version https://git-lfs.github.com/spec/v1\n"
    status, _, told = fetch(server, tmp_path / "fetched", "--accept-licence")
    assert status == 1
    assert "model.safetensors" in told


def test_another_repository_goes_to_a_folder_of_its_name(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.repository = "someone/tuned"
    asked = ("classifier", "fetch", "--repository", "someone/tuned", "--endpoint", server.url, "--accept-licence")
    status, _, told = run(*asked)
    assert status == 0, told
    assert "someone/tuned is published under: other" in told
    status, out, _ = run("classify", "--weights", "someone/tuned", given=b'{"prompt": "x"}\n')
    assert status == 0
    assert json.loads(out)["result"]


def test_export_writes_each_precision_once(weights):
    status, out, told = run("classifier", "export", "--weights", weights)
    assert status == 0, told
    assert [line.split(":")[0] for line in out.splitlines()] == ["fp32", "int8"]
    made = sorted(path.name for path in weights.glob("armwise-*"))
    assert len(made) == 2
    _, again, _ = run("classifier", "export", "--weights", weights, "--precision", "fp32")
    assert again.rstrip().endswith("was there)")
    assert sorted(path.name for path in weights.glob("armwise-*")) == made


def test_export_and_check_refuse_damaged_weights(weights):
    (weights / "config.json").write_text("{}")
    for command in ("export", "check"):
        status, _, told = run("classifier", command, "--weights", weights)
        assert status == 1
        assert "config.json" in told


def test_check_tells_what_it_found_and_records_the_verdicts(weights):
    status, out, told = run("classifier", "check", "--weights", weights)
    assert status == 0, told
    assert "self-test  passed" in out
    assert "not asked: this is a model of another size" in out
    assert f"{len(packaged_prompts())} packaged prompts" in out
    assert len(list(weights.glob("*.gate.json"))) == 2
    served = out.splitlines()[-1]
    assert f"{load_nvidia(weights).precision} with onnx" in served
    assert f"{load_nvidia(weights, backend='torch').precision} with torch" in served


def test_check_as_json_with_prompts_of_the_owner(weights, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "What is {number} and why?"}}\n' for number in range(120)))
    status, out, told = run("classifier", "check", "--weights", weights, "--prompts", prompts, "--json")
    assert status == 0, told
    report = json.loads(out)
    assert (report["self_test"], report["card"]) == ("passed", "not asked")
    (int8, bf16) = report["gates"]
    assert (int8["backend"], int8["precision"]) == ("onnx", "int8")
    assert (bf16["backend"], bf16["precision"]) == ("torch", "bf16")
    for gate in (int8, bf16):
        assert [verdict["prompts"] for verdict in gate["verdicts"]] == [len(packaged_prompts()), 120]
        assert gate["passed"] == all(verdict["passed"] for verdict in gate["verdicts"])
        assert report["serves"][gate["backend"]] == (gate["precision"] if gate["passed"] else "fp32")


def test_check_wants_enough_prompts_and_only_prompts(weights, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "the same"}\n' * 300)
    status, _, told = run("classifier", "check", "--weights", weights, "--prompts", prompts)
    assert status == 1
    assert "1 different prompts" in told
    prompts.write_text('{"prompt": "one"}\n{"text": "two"}\n')
    status, _, told = run("classifier", "check", "--weights", weights, "--prompts", prompts)
    assert status == 1
    assert "id 2" in told
    assert '"prompt" is missing' in told


def test_a_fetched_folder_that_was_changed_is_no_longer_called_fetched(server, tmp_path):
    folder = tmp_path / "fetched"
    fetch(server, folder, "--accept-licence")
    _, out, _ = run("classifier", "check", "--weights", folder, "--json")
    assert json.loads(out)["source"] == f"{REPOSITORY} at {server.commit}"
    build(folder, "tiny", seed=1)
    _, out, _ = run("classifier", "check", "--weights", folder, "--json")
    assert json.loads(out)["source"] == ""
