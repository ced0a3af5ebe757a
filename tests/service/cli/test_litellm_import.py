"""A LiteLLM configuration as ours: what is taken along, what is told, and that no secret is."""

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from service.cli.litellm import NotLiteLLM, imported
from service.cli.main import main
from service.configuration import settings_from_toml

CONFIG = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: os.environ/OPENAI_API_KEY
      rpm: 60
      tpm: 10000
      input_cost_per_token: 0.00000015
      output_cost_per_token: 0.0000006
  - model_name: claude
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_key: sk-ant-geheim, timeout: 30}
    model_info:
      input_cost_per_token: 0.000003
      output_cost_per_token: 0.000015
      max_input_tokens: 200000
      adaptive_router_preferences: {quality_tier: 3}
  - model_name: local llama
    litellm_params: {model: hosted_vllm/llama, api_base: "http://me:geheim@127.0.0.1:8000/v1?key=geheim"}
  - model_name: gpt-4o-mini
    litellm_params: {model: azure/mini, api_base: os.environ/AZURE_BASE, api_key: os.environ/AZURE_KEY}
  - {model_name: embed, litellm_params: {model: openai/embed}, model_info: {mode: embedding}}
  - {model_name: "*", litellm_params: {model: "openai/*"}}
  - {model_name: broken}
router_settings:
  routing_strategy: simple-shuffle
  model_group_alias: {fast: gpt-4o-mini}
  fallbacks: [{claude: [gpt-4o-mini, local llama, x]}]
  redis_password: geheim
litellm_settings: {num_retries: 2, success_callback: [langfuse]}
general_settings: {master_key: sk-geheim}
environment_variables: {SOME_SECRET: geheim}
"""


def test_models_prices_keys_and_fallbacks_are_taken_along():
    found = imported(yaml.safe_load(CONFIG))
    environ = {"OPENAI_API_KEY": "x", "AZURE_KEY": "x"}
    settings = settings_from_toml(found.toml, environ)
    mini, claude, llama, azure = settings.models
    assert (mini.name, mini.model, mini.api_key_env) == ("gpt-4o-mini", "gpt-4o-mini", "OPENAI_API_KEY")
    assert (mini.price_in, mini.price_out) == (0.15, 0.6)
    assert (claude.model, claude.tier, claude.window) == ("anthropic/claude-sonnet-4-5", "large", 200_000)
    assert (claude.price_in, claude.price_out, claude.timeout_s, claude.api_key_env) == (3.0, 15.0, 30.0, "")
    assert (llama.name, llama.model, llama.base_url) == ("local-llama", "llama", "http://127.0.0.1:8000/v1")
    assert (azure.name, azure.model, azure.api_key_env) == ("gpt-4o-mini-2", "azure/mini", "AZURE_KEY")
    assert settings.routing.fallbacks == 3


def test_what_is_left_out_is_told_line_by_line_and_no_secret_is():
    found = imported(yaml.safe_load(CONFIG))
    told = "\n".join(found.remarks)
    assert "geheim" not in told + found.toml
    for part in (
        "model_list[0].litellm_params.rpm: limits",
        "model_list[0].litellm_params.tpm: limits",
        "model_list[1].litellm_params.api_key: is written out and was not copied",
        "model_list[2].litellm_params.api_base: what may be a secret",
        "model_list[3]: `gpt-4o-mini` comes again",
        "model_list[4]: `embed` is for embedding",
        "model_list[5]: `*` is a pattern",
        "model_list[6]: has no `litellm_params.model`",
        "router_settings.fallbacks: which model follows",
        "router_settings.redis_password: secrets are not copied",
        "alias `fast`",
        "general_settings.master_key: make keys with `armwise key create`",
        "environment_variables.SOME_SECRET: secrets are not copied",
        "litellm_settings.num_retries",
    ):
        assert part in told


@pytest.mark.parametrize("config", [None, [], {}, {"model_list": []}, {"model_list": [{"model_name": "a"}]}])
def test_what_is_no_configuration_is_said(config):
    with pytest.raises(NotLiteLLM, match="model_list"):
        imported(config)


words = st.text(max_size=12)
names = st.text(min_size=1, max_size=12).filter(lambda text: "*" not in text)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
params = st.fixed_dictionaries(
    {"model": names},
    optional={"api_base": words, "timeout": anything, "input_cost_per_token": anything, "rpm": anything},
)
entries = st.fixed_dictionaries({"model_name": names, "litellm_params": params}, optional={"model_info": anything})


@given(st.lists(entries, min_size=1, max_size=4), anything)
def test_whatever_stands_there_the_result_is_toml_with_names_of_their_own(models, router):
    import tomllib

    try:
        found = imported({"model_list": models, "router_settings": router})
    except NotLiteLLM:
        return
    taken = [model["name"] for model in tomllib.loads(found.toml)["models"]]
    assert len(set(taken)) == len(taken)


def test_the_command_writes_a_file_that_check_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("AZURE_KEY", "x")
    (tmp_path / "config.yaml").write_text(CONFIG)
    run = CliRunner().invoke
    done = run(main, ["import", "litellm", "config.yaml"])
    assert done.exit_code == 0, done.output
    assert "[[models]]" in done.stdout
    assert run(main, ["import", "litellm", "config.yaml", "--out", "armwise.toml"]).exit_code == 0
    assert (tmp_path / "armwise.toml").read_text() == done.stdout
    checked = run(main, ["check"])
    assert checked.exit_code == 0, checked.output
    assert "claude" in checked.output
    again = run(main, ["import", "litellm", "config.yaml", "--out", "armwise.toml"])
    assert (again.exit_code, "--force" in again.stderr) == (1, True)


def test_broken_yaml_is_a_line_without_what_stood_there(tmp_path):
    (tmp_path / "config.yaml").write_text("a: b: geheim\n")
    done = CliRunner().invoke(main, ["import", "litellm", str(tmp_path / "config.yaml")])
    assert done.exit_code == 1
    assert "line 1: is no YAML" in done.stderr
    assert "geheim" not in done.stderr
