"""Container, compose file, make and pins: what can be shown without running them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_image_is_built_apart_and_runs_as_nobody_special():
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
    assert [name for _, name in stages] == ["builder", "weights", ""]
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert "COPY --from=builder" in final
    assert "pip install" not in final
    user = re.findall(r"^USER (\S+)$", final, re.MULTILINE)
    assert user == ["armwise"]
    assert final.index("USER armwise") < final.index("ENTRYPOINT")
    assert re.search(r"^HEALTHCHECK .*\\\n.*CMD \[.*/health", final, re.MULTILINE)
    assert re.search(r"^EXPOSE 8402$", final, re.MULTILINE)
    assert re.search(r"^VOLUME /srv/armwise/data$", final, re.MULTILINE)
    assert json.loads(re.search(r"^ENTRYPOINT (.*)$", final, re.MULTILINE)[1]) == [
        "armwise", "serve", "--host", "0.0.0.0"  # noqa: S104 - the container's own network
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("licence", "status", "calls"),
    [
        ("", 0, []),
        ("accepted", 0, ["classifier fetch --accept-licence --to {folder}", "classifier export --weights {folder}"]),
        ("yes", 1, []),
    ],
)
def test_weights_are_baked_in_only_when_their_licence_is_accepted(tmp_path, licence, status, calls):
    stage = DOCKERFILE[DOCKERFILE.index(" AS weights") : DOCKERFILE.rindex("\nFROM ")]
    command = re.search(r"^RUN (?:--mount=\S+ )?\\\n((?:.*\\\n)*.*)$", stage, re.MULTILINE)[1]
    folder, program, log = tmp_path / "weights", tmp_path / "armwise", tmp_path / "log"
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    program.chmod(0o755)
    script = command.replace("/opt/nvidia-classifier", str(folder)).replace("/venv/bin/armwise", str(program))
    ran = subprocess.run(["sh", "-c", script], env={**os.environ, "NVIDIA_LICENCE": licence}, check=False)
    assert ran.returncode == status
    assert folder.is_dir(), "what the last stage copies must exist"
    called = log.read_text().splitlines() if log.exists() else []
    assert called == [call.format(folder=folder) for call in calls]


def test_the_image_finds_baked_weights_and_keeps_verdicts_in_the_volume():
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert "COPY --from=weights /opt/nvidia-classifier /opt/nvidia-classifier" in final
    assert "ARMWISE_CLASSIFIER_WEIGHTS=${NVIDIA_LICENCE:+/opt/nvidia-classifier}" in final
    assert final.index("ARG NVIDIA_LICENCE=") < final.index("ARMWISE_CLASSIFIER_WEIGHTS=")
    assert re.search(r"ARMWISE_CACHE=/srv/armwise/data/", final)
    assert "armwise:/srv/armwise/data" in COMPOSE["services"]["armwise"]["volumes"]
    assert set(COMPOSE["services"]["armwise"]["build"]["args"]) <= set(
        re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)
    )


def test_what_the_image_copies_exists_and_is_let_through():
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed
    for name in copied:
        assert (ROOT / name).exists(), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert needed <= set(copied)


def test_every_service_has_a_health_check_and_starts_again():
    assert set(COMPOSE["services"]) == {"armwise", "postgres", "prometheus", "grafana"}
    for name, service in COMPOSE["services"].items():
        assert service["restart"] == "unless-stopped", name
        if name != "armwise":  # has it in its image
            assert "healthcheck" in service, name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the world"


def test_secrets_are_required_and_stand_in_no_file():
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for name in ("POSTGRES_PASSWORD", "GRAFANA_PASSWORD"):
        uses = re.findall(rf"\$\{{{name}[^}}]*\}}", text)
        assert uses, name
        assert all(use.startswith(f"${{{name}:?") for use in uses), (
            "a missing password must stop the start with a sentence"
        )
    for service in COMPOSE["services"].values():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|SECRET", variable):
                assert value.startswith("${"), variable


def test_mounted_files_exist():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]


def test_the_settings_of_the_compose_file_are_valid():
    text = (DEPLOY / "armwise.compose.toml").read_text(encoding="utf-8")
    settings = msgspec.toml.decode(text, type=Settings)
    assert settings.database.url_env in COMPOSE["services"]["armwise"]["environment"]
    # The model shown as a comment must be right too: it is there to be uncommented.
    _, _, example = text.partition("# [[models]]")
    uncommented = text + "\n[[models]]" + re.sub(r"^# ?", "", example, flags=re.MULTILINE)
    assert len(msgspec.toml.decode(uncommented, type=Settings).models) == 1


def test_the_stop_is_given_time_for_requests_in_flight():
    seconds = int(COMPOSE["services"]["armwise"]["stop_grace_period"].removesuffix("s"))
    assert seconds > Settings().server.drain_s


def test_constraints_are_plain_pins_that_hold_here():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]*==(\d+!)?[\w.]+", line), line
    names = [line.partition("==")[0].lower().replace("-", "_") for line in pins]
    assert len(names) == len(set(names))
    assert "torch" not in names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["postgres"],
        *project["optional-dependencies"]["dev"],
    ]
    for requirement in asked:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("-", "_")
        assert name in {*names, "armwise"}, f"{name} is not pinned; see the head of constraints.txt"


def test_make_lists_every_target():
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    listed = subprocess.run([make, "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {"help", "run", "demo", "test", "check", "format", "docs", "bench", "migrate", "clean"}
    assert set(re.findall(r"make (\w+)", listed)) == wanted


def test_make_says_which_python_is_needed(tmp_path):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    ran = subprocess.run(
        [make, "run", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode != 0
    assert "Armwise needs Python 3.11 or newer; found: Python 3.9.1." in ran.stderr
    assert not (tmp_path / ".venv").exists()


def test_readme_runner_runs_marked_blocks_and_stops_at_the_first_failure(tmp_path):
    readme = tmp_path / "README.md"
    block = "<!-- ci: run -->\n```{}\n{}\n```\n"
    readme.write_text(
        "```bash\nexit 9\n```\n" + block.format("bash", "echo one; true") + block.format("python", "print('two')")
    )
    runner = [sys.executable, ROOT / ".ci/readme_requests", readme]
    ran = subprocess.run(runner, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "\none\n" in ran.stdout
    assert "\ntwo\n" in ran.stdout
    readme.write_text(block.format("bash", "false | true") + block.format("bash", "echo never"))
    ran = subprocess.run(runner, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "\nnever\n" not in ran.stdout
    readme.write_text("<!-- ci: run -->\n\nno block\n")
    assert subprocess.run(runner, capture_output=True, check=False).returncode == 1


def test_hooks_only_format_and_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert [hook["id"] for hook in hooks[0]["hooks"]] == ["ruff-format", "ruff-check"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}


def test_the_changelog_opens_with_what_is_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", heading) for heading in headings[1:])


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
