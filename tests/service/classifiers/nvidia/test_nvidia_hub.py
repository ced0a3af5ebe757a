"""Fetching a model: verified, resumed, all files of one commit or none, and never without its licence accepted."""

import json

import pytest

from service.classifiers.nvidia import licence as terms
from service.classifiers.nvidia.fetch import FETCHED, REPOSITORY, fetch, folder_for, locate, plan_fetch, read_fetched
from service.classifiers.nvidia.hub import Hub
from service.errors import DownloadFailed, UnusableWeights
from tests.service.classifiers.nvidia.hub_server import REPOSITORY as OTHER
from tests.service.classifiers.nvidia.hub_server import HubServer, git_id, serving, sha256

WEIGHTS = bytes(range(256)) * 12_000  # 3 MB
FILES = {
    "config.json": b'{"a": 1}\n',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}" * 500,
    "spm.model": b"\x00\x01" * 900,
    "README.md": b"---\nlicense: other\nlicense_name: some-terms\nlicense_link: https://example.org/a\n---\n# Card\n",
    "image.png": b"not needed",
}


@pytest.fixture
def server():
    with serving(HubServer(FILES)) as running:
        yield running


@pytest.fixture
def hub(server):
    with Hub(server.url, pauses=(0.0, 0.0)) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "weights"


class Bar:
    """Counts what it is told, as a progress bar does."""

    def __init__(self):
        self.done = 0

    def __call__(self, count):
        self.done += count
        assert self.done >= 0


def fetch_all(hub, folder):
    return fetch(hub, plan_fetch(hub, folder, OTHER), Bar())


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_the_needed_files_arrive_and_nothing_else(hub, server, folder):
    fetched = fetch_all(hub, folder)
    assert names_in(folder) == {*FILES, FETCHED} - {"image.png"}
    for name in names_in(folder) - {FETCHED}:
        assert (folder / name).read_bytes() == FILES[name]
    assert fetched.commit == server.commit
    assert fetched.files["model.safetensors"] == sha256(WEIGHTS)
    assert fetched.files["config.json"] == git_id(FILES["config.json"])
    assert read_fetched(folder) == fetched


def test_progress_ends_at_the_planned_bytes(hub, server, folder):
    plan = plan_fetch(hub, folder, OTHER)
    assert (
        plan.bytes_missing
        == plan.bytes_left
        == sum(len(content) for name, content in FILES.items() if name != "image.png")
    )
    server.faults["model.safetensors"].extend([("cut", 1_000_000), ("status", 503)])
    bar = Bar()
    fetch(hub, plan, bar)
    assert bar.done == plan.bytes_missing


def test_a_second_fetch_downloads_nothing(hub, server, folder):
    fetch_all(hub, folder)
    server.seen.clear()
    plan = plan_fetch(hub, folder, OTHER)
    assert plan.missing == ()
    fetch(hub, plan, Bar())
    assert server.requests("store", "GET") == []
    assert server.requests("hub", "GET") == []


def test_a_cut_connection_is_continued_where_it_broke(hub, server, folder):
    server.faults["model.safetensors"].extend([("cut", 1_000_000), ("cut", 500_000)])
    fetch_all(hub, folder)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [
        headers.get("range") for path, headers in server.requests("store", "GET") if path.startswith("/model.safe")
    ]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_fetch_that_gave_up_is_continued_by_the_next_one(hub, server, folder):
    server.faults["model.safetensors"].extend([("cut", 2_000_000), *[("status", 503)] * 3])
    with pytest.raises(DownloadFailed, match=r"answered 503.*Attempts: 3.*is kept"):
        fetch_all(hub, folder)
    assert not (folder / "model.safetensors").exists()
    assert not (folder / "config.json").exists(), "a set of files is put in place whole"
    plan = plan_fetch(hub, folder, OTHER)
    assert plan.bytes_left < len(WEIGHTS)
    server.seen.clear()
    fetch(hub, plan, Bar())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [headers.get("range") for path, headers in server.requests("store", "GET") if "model.safe" in path]
    assert ranges == ["bytes=2000000-"]
    assert not [name for name in names_in(folder) if name.endswith(".partial")]


def test_a_hub_without_ranges_sends_all_again(hub, server, folder):
    server.ranges = False
    server.faults["model.safetensors"].append(("cut", 1_000_000))
    bar = Bar()
    plan = plan_fetch(hub, folder, OTHER)
    fetch(hub, plan, bar)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert bar.done == plan.bytes_missing


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize(
    "other", [lambda content: content[:-1] + b"!", lambda content: content + b"!"], ids=["changed", "longer"]
)
def test_a_wrong_checksum_is_thrown_away(hub, server, folder, name, other):
    server.faults[name].append(("send", other(FILES[name])))
    with pytest.raises(DownloadFailed, match=rf"{name}.*wrong checksum"):
        fetch_all(hub, folder)
    assert name not in names_in(folder)
    assert not list(folder.glob(f".{name}*"))
    fetch_all(hub, folder)
    assert (folder / name).read_bytes() == FILES[name]


def test_what_was_left_of_a_damaged_download_is_fetched_anew(hub, server, folder):
    server.faults["model.safetensors"].extend([("cut", 2_000_000), *[("status", 503)] * 3])
    with pytest.raises(DownloadFailed):
        fetch_all(hub, folder)
    (partial,) = folder.glob(".model.safetensors.*.partial")
    with partial.open("r+b") as file:
        file.write(b"damaged")
    bar = Bar()
    plan = plan_fetch(hub, folder, OTHER)
    fetch(hub, plan, bar)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert bar.done == plan.bytes_missing


def test_a_file_that_changed_is_replaced_and_its_old_part_not_continued(hub, server, folder):
    fetch_all(hub, folder)
    server.files["model.safetensors"] = WEIGHTS[::-1]
    server.push("second")
    server.faults["model.safetensors"].extend([("cut", 1_000_000), *[("status", 500)] * 3])
    with pytest.raises(DownloadFailed):
        fetch_all(hub, folder)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS, "the old file serves until the new one is whole"
    server.files["model.safetensors"] = WEIGHTS[1:]
    server.push("third")
    fetched = fetch_all(hub, folder)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[1:]
    assert fetched.commit == server.commit
    assert not [name for name in names_in(folder) if name.endswith(".partial")]


def test_a_push_in_the_middle_does_not_mix_two_versions(hub, server, folder):
    plan = plan_fetch(hub, folder, OTHER)
    server.push("second")
    with pytest.raises(DownloadFailed, match="no revision"):
        fetch(hub, plan, Bar())
    assert not (folder / "config.json").exists()


def test_a_local_file_that_was_touched_is_fetched_again(hub, folder):
    fetch_all(hub, folder)
    (folder / "tokenizer.json").write_bytes(b"[]" * 500)
    assert [file.name for file in plan_fetch(hub, folder, OTHER).missing] == ["tokenizer.json"]
    fetch_all(hub, folder)
    assert (folder / "tokenizer.json").read_bytes() == FILES["tokenizer.json"]


def test_redirects_within_the_hub_are_followed(hub, server, folder):
    server.relative_redirects = True
    fetch_all(hub, folder)
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_the_token_goes_to_the_hub_alone(server, folder):
    server.token = "hf_secret"
    with Hub(server.url, token="hf_secret", pauses=()) as hub:
        fetch_all(hub, folder)
    stored = server.requests("store", "GET")
    assert stored
    assert not any("authorization" in {name.lower() for name in headers} for _, headers in stored)
    assert "hf_secret" not in (folder / FETCHED).read_text()


def test_the_token_is_not_sent_in_the_clear():
    with pytest.raises(DownloadFailed, match="not encrypted"):
        Hub("http://hub.example.org", token="hf_secret")
    with pytest.raises(DownloadFailed, match="expected one like"):
        Hub("ftp://hub.example.org")


def test_refusals_say_what_to_do(hub, server, folder):
    with pytest.raises(DownloadFailed, match=r"no repository some/other.*HF_TOKEN"):
        plan_fetch(hub, folder, "some/other")
    with pytest.raises(DownloadFailed, match="no revision v9"):
        plan_fetch(hub, folder, OTHER, "v9")
    with pytest.raises(DownloadFailed, match="not a repository's name"):
        plan_fetch(hub, folder, "../../etc")
    server.token = "hf_secret"
    with pytest.raises(DownloadFailed, match=r"401.*needs a token"):
        plan_fetch(hub, folder, OTHER)
    with Hub(server.url, token="hf_old", pauses=()) as other, pytest.raises(DownloadFailed, match="no longer valid"):
        plan_fetch(other, folder, OTHER)
    server.token, server.gated = "", True
    with pytest.raises(DownloadFailed, match=r"403.*Accept its conditions"):
        plan_fetch(hub, folder, OTHER)
    server.gated = False
    del server.files["model.safetensors"]
    with pytest.raises(DownloadFailed, match=r"no file model\.safetensors"):
        plan_fetch(hub, folder, OTHER)


def test_a_busy_hub_is_asked_again_and_a_dead_one_given_up(hub, server, folder):
    server.head_faults.extend([503, 429])
    assert plan_fetch(hub, folder, OTHER).commit == server.commit
    server.head_faults.extend([503] * 3)
    with pytest.raises(DownloadFailed, match=r"answered 503\. Attempts: 3"):
        plan_fetch(hub, folder, OTHER)
    with Hub("http://127.0.0.1:9", pauses=()) as dead, pytest.raises(DownloadFailed, match="cannot be read"):
        plan_fetch(dead, folder, OTHER)


def test_a_server_that_is_no_hub_is_refused(hub, server, folder):
    server.commit = "no commit"
    with pytest.raises(DownloadFailed, match="not a Hugging Face hub"):
        plan_fetch(hub, folder, OTHER)


def test_two_fetches_do_not_write_into_one_folder(hub, server, folder):
    plan = plan_fetch(hub, folder, OTHER)
    refused = []

    def again(_):
        if not refused:
            with Hub(server.url) as second, pytest.raises(DownloadFailed, match="Another fetch") as error:
                fetch(second, plan, Bar())
            refused.append(error.value)

    fetch(hub, plan, again)
    assert refused
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_nvidias_licence_is_known_and_another_read_from_its_card(server, folder):
    server.repository = REPOSITORY
    with Hub(server.url) as hub:
        known = terms.licence_of(hub, plan_fetch(hub, folder))
        assert known == terms.NVIDIA
        assert "NVIDIA Open Model License Agreement" in terms.terms(known)
        server.repository = OTHER
        found = terms.licence_of(hub, plan_fetch(hub, folder, OTHER))
    assert (found.name, found.link) == ("some-terms", "https://example.org/a")


def test_a_licence_is_accepted_once_for_the_terms_that_were_shown(folder):
    assert not terms.accepted(folder, terms.NVIDIA)
    terms.accept(folder, terms.NVIDIA, "terminal")
    assert terms.accepted(folder, terms.NVIDIA)
    stored = json.loads((folder / terms.ACCEPTED).read_text())
    assert stored["licence"]["link"].endswith("june-2024.pdf")
    later = terms.Licence(repository=REPOSITORY, name="another agreement", link=terms.NVIDIA.link)
    assert not terms.accepted(folder, later)


def test_a_folder_that_cannot_be_written_is_a_sentence(hub, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadFailed, match="cannot be written"):
        fetch_all(hub, tmp_path / "file" / "weights")


def test_weights_are_a_folder_or_the_name_of_something_fetched(hub, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableWeights, match=r"no folder \./nowhere; .*fetch --to \./nowhere"):
        locate("./nowhere")
    cache = {"HF_HUB_CACHE": str(tmp_path / "cache")}
    with pytest.raises(UnusableWeights, match=f"fetch --repository {OTHER}"):
        locate(OTHER, cache)
    fetch_all(hub, folder)
    assert locate(str(folder), cache) == folder
    snapshot = tmp_path / "cache" / "models--someone--classifier" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert locate(OTHER, cache) == snapshot
    fetch(hub, plan_fetch(hub, folder_for(OTHER), OTHER), Bar())
    assert locate(OTHER, cache) == folder_for(OTHER)
