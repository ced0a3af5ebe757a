"""armwise.toml as frozen structs: every setting, its default and its meaning.

Unknown keys are refused. Secrets are named here and read from the environment, once, at start. Reading and checking a
file is `service.configuration`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from bandit.breakers import Tolerance
from bandit.catalogue import AnyPolicy
from bandit.history import Memory
from bandit.policies import Random, Rules, StaticTier
from bandit.pooled import PooledThompson
from bandit.thompson import Thompson
from bandit.vocabulary import Ability, Arm, ModelTier, TaskType

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z",
        description="a name: a letter or digit, then at most 127 letters, digits or any of ._:/@+-",
    ),
]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
Count = Annotated[int, Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the settings file."""


class Server(Section, frozen=True, kw_only=True):
    """Where and how we listen."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8402
    workers: Count = 1
    max_body_bytes: Count = 20_000_000
    drain_s: NotNegative = 30.0  # at shutdown, how long requests in flight may take to end


class Database(Section, frozen=True, kw_only=True):
    """Where decisions, rewards and posteriors live."""

    url: str = "sqlite:///data/armwise.db"  # or postgresql://user@host/name; a password by url_env
    url_env: str = ""  # name of an environment variable that holds the URL; wins over `url`
    group_rows: Count = 256  # a commit takes at most as many rows
    group_ms: NotNegative = 5.0  # a busy writer waits at most as long for more rows
    timeout_s: Positive = 2.0  # a reply waits at most as long for its commit; then it is served without learning
    refresh_s: Positive = 1.0  # how often what other replicas learned is read
    pool_size: Count = 4  # connections for reading


class ModelSection(Section, frozen=True, kw_only=True, tag_field="provider"):
    """What every model has, whatever its provider."""

    name: Name
    model: str = ""  # the name the provider knows it by; empty: `name`
    tier: ModelTier = "medium"
    price_in: NotNegative = 0.0  # USD per million prompt tokens
    price_out: NotNegative = 0.0  # USD per million completion tokens
    price_cached_in: NotNegative | None = None  # USD per million cached prompt tokens; left out: price_in
    window: Count = 128_000  # tokens, prompt and completion together
    local: bool = False  # runs on your own machines: sensitive prompts may go there
    abilities: frozenset[Ability] = frozenset({"tools", "vision", "json"})
    timeout_s: Positive = 120.0  # for the whole reply; in a stream, between two chunks
    first_token_timeout_s: Positive = 60.0  # for the first token of a stream
    connect_timeout_s: Positive = 5.0
    enabled: bool = True

    @property
    def upstream_model(self) -> str:
        """The name sent to the provider."""
        return self.model or self.name

    def arm(self) -> Arm:
        """The model as the learning core sees it."""
        return Arm(
            name=self.name,
            tier=self.tier,
            price_in=self.price_in,
            price_out=self.price_out,
            price_cached_in=self.price_cached_in,
            window=self.window,
            local=self.local,
            abilities=self.abilities,
        )


class OpenAICompatibleModel(ModelSection, frozen=True, kw_only=True, tag="openai_compatible"):
    """OpenAI itself, vLLM, Ollama, llama.cpp, or any server that speaks its chat protocol."""

    base_url: str = "https://api.openai.com/v1"
    api_key_env: str = ""  # name of the environment variable that holds the key; empty: no key is sent
    headers: dict[str, str] = {}  # sent with every call; a value like "$NAME" is read from the environment
    stream_usage: bool = True  # ask for usage in streams; false for servers that refuse `stream_options`


class TranslatedModel(ModelSection, frozen=True, kw_only=True, tag="translated"):
    """Any other vendor, through LiteLLM: `model` is LiteLLM's name, such as "anthropic/claude-sonnet-4-5"."""

    base_url: str = ""  # empty: the vendor's own
    api_key_env: str = ""  # empty: LiteLLM's usual variable for that vendor


class SimulatedModel(ModelSection, frozen=True, kw_only=True, tag="simulated"):
    """A model in process, for trying things out: its quality, tokens and latency come from a table of facts."""

    profile: str = ""  # row of the table of facts; empty: the model's tier
    quality: dict[TaskType, Share] = {}  # on these task types, instead of the table's
    latency_scale: NotNegative = 0.0  # 1: as slow as the real one; 0: at once
    error_rate: Share = 0.0  # share of calls that fail
    error: Literal["connection", "timeout", "rate_limited", "server_error", "malformed", "cut"] = "server_error"


AnyModel = OpenAICompatibleModel | TranslatedModel | SimulatedModel


class Routing(Section, frozen=True, kw_only=True):
    """Which policy decides when the caller does not say."""

    policy: str = ""  # empty: the first one
    fallbacks: Annotated[int, Meta(ge=0)] = 2  # how many other models may be tried when one fails
    shadow: str = ""  # a policy that decides beside the one that serves, without serving; empty: none


class Cues(Section, frozen=True, kw_only=True):
    """Keyword lists that the `rules` policy looks for in the last user message, without regard to case."""

    hard_code: tuple[str, ...] = (
        "distributed", "compiler", "concurrency", "performance", "architecture",
        "分布式", "编译器", "并发", "性能优化", "架构设计",
    )  # fmt: skip
    reasoning: tuple[str, ...] = (
        "analyse", "analyze", "compare", "evaluate", "why", "argue", "分析", "比较", "评估", "为什么", "论证",
    )  # fmt: skip
    simple: tuple[str, ...] = (
        "translate", "format", "extract", "classify", "what is", "翻译", "格式化", "提取", "分类", "是什么",
    )  # fmt: skip


class ClassifierSettings(Section, frozen=True, kw_only=True):
    """What names the task type and the prior tier of a prompt, and what it reads of a conversation."""

    kind: Literal["auto", "nvidia", "embedded", "rules"] = "auto"  # nvidia when its weights are there, else embedded
    embedded: Literal["text", "embedding"] = "text"  # embedding: a sentence embedding, slower and better
    embedded_weights: str = ""  # file of your own, by `armwise classifier distil`; empty: the packaged ones
    reads: Literal["last_user", "system_and_last_user", "conversation"] = "last_user"
    max_characters: Count = 2_000  # of what is read by `embedded` and `rules`; the head and the tail are kept
    weights: str = "data/nvidia-classifier"  # folder of NVIDIA's model; ARMWISE_CLASSIFIER_WEIGHTS wins over it
    backend: Literal["onnx", "torch"] = "onnx"  # what runs NVIDIA's model
    precision: Literal["auto", "fp32", "int8", "bf16"] = "auto"  # auto: the fastest that agreed with fp32, else fp32
    device: Literal["cpu", "cuda", "mps"] = "cpu"  # where it runs; others than cpu need the torch backend
    workers: Annotated[int, Meta(ge=1, le=64)] = 2  # threads that run it, in each process of the service
    queue: Count = 64  # prompts that may wait for it; with more, `embedded` answers
    deadline_s: Positive = 0.5  # a prompt waits at most as long for it; then `embedded` answers
    cache_entries: Annotated[int, Meta(ge=0)] = 4_096  # its answers that are kept, by the text's digest
    token_budget: Annotated[int, Meta(ge=0, le=512)] = 0  # of head and tail it reads; 0: the first 512, as NVIDIA does
    simple_below: NotNegative | None = None  # complexity under this: "simple"; left out: the classifier's own
    medium_below: NotNegative | None = None  # under this: "medium", else "complex"; both or none
    cues: Cues = Cues()


class HeuristicSetting(Section, frozen=True, kw_only=True):
    """One quality heuristic. Soft ones are weak evidence of that weight; hard ones count as a label."""

    enabled: bool = True
    weight: Share | None = None  # of one label, as evidence against the reply when it fires; left out: its own


class Quality(Section, frozen=True, kw_only=True):
    """Automatic quality heuristics on every reply."""

    enabled: bool = True
    clean_weight: Share = 0.05  # of one label, as evidence for a reply on which no heuristic fires
    repeat_window_s: NotNegative = 180.0  # the same user asking the same again within this counts against the reply
    heuristics: dict[str, HeuristicSetting] = {}  # by name; unnamed ones keep their own default


class Metric(Section, frozen=True, kw_only=True):
    """A kind of feedback that teaches."""

    name: Name
    weight: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0  # of one label


class Rewards(Section, frozen=True, kw_only=True):
    """What feedback is taken, and how it teaches."""

    metrics: tuple[Metric, ...] = (Metric(name="quality"),)  # the first is the one meant when none is named
    window_days: Positive = 7.0  # feedback for an older decision is refused
    user_labels_per_day: NotNegative = 5.0  # labels one named user's word on one model weighs a day; 0: no limit
    outlier_weight: Share = 0.1  # of the labels of users that others' labels cannot explain; 1: off
    ask_share: Share = 0.0  # of replies, drawn at random, for which your application is to ask its user


class Budgets(Section, frozen=True, kw_only=True):
    """What may be spent. A policy's own budget stands with the policy."""

    usd_per_key_day: dict[str, NotNegative] = {}  # by the API key's name; unnamed keys have no limit


class Learning(Section, frozen=True, kw_only=True):
    """How long measurements count, and how often policies whose cells inform each other look at all of them again."""

    label_half_life_days: Positive = 30.0
    reading_half_life_days: Positive = 7.0  # of what the heuristics say
    most_labels: Positive = 2_000.0  # of one model on one task type: more would make it deaf to change
    fit_every_s: Positive = 5.0  # when anything changed
    fit_labels: Count = 200  # at once, when so many came

    @property
    def memory(self) -> Memory:
        """How long measurements count."""
        return Memory(
            label_half_life_days=self.label_half_life_days,
            reading_half_life_days=self.reading_half_life_days,
            most_labels=self.most_labels,
        )


class Ceiling(Section, frozen=True, kw_only=True):
    """How far some requests may be used to explore."""

    max_explore: Share = 1.0  # probability that all models but the likeliest may have together


class Safety(Section, frozen=True, kw_only=True):
    """What serves when learning may not, and how far requests may be used to explore: the smallest ceiling holds."""

    baseline: str = ""  # name of a model; empty: the static tiers
    max_explore: Share = 1.0  # of all requests
    task_types: dict[str, Ceiling] = {}
    tags: dict[str, Ceiling] = {}  # by "name=value"
    keys: dict[str, Ceiling] = {}  # by the API key's name

    def ceiling(self, task_type: str, tags: Mapping[str, str], key: str) -> float:
        """Probability that all models but the likeliest may have together, for one request."""
        if not (self.task_types or self.tags or self.keys):
            return self.max_explore
        named = [self.task_types.get(task_type), self.keys.get(key)]
        named += [self.tags.get(f"{name}={value}") for name, value in tags.items()]
        return min([self.max_explore, *(one.max_explore for one in named if one is not None)])


class Holdout(Section, frozen=True, kw_only=True):
    """Users that one model always serves, so that what routing is worth can be told."""

    share: Annotated[float, Meta(ge=0.0, le=0.05)] = 0.0  # of users, or of sessions without a user
    model: str = ""  # name of a model: the best that serves alone


class Experiments(Section, frozen=True, kw_only=True):
    """Looking at experiments between policies."""

    look_every_s: Positive = 60.0  # how often their intervals are drawn, and harm is looked for


Level = Literal["debug", "info", "warning", "error"]


class Logging(Section, frozen=True, kw_only=True):
    """What we write down."""

    level: Level = "info"
    format: Literal["text", "json"] = "text"
    levels: dict[str, Level] = {}  # of single modules, by the name that stands in their lines


class Tracing(Section, frozen=True, kw_only=True):
    """Traces and metrics of chat requests, sent to an OpenTelemetry collector."""

    endpoint: str = ""  # of OTLP over HTTP, without /v1/traces; empty: OTEL_EXPORTER_OTLP_ENDPOINT, else off
    sample: Share = 1.0  # of traces, where the caller has not decided already
    metrics: bool = True  # send durations and tokens of calls to providers too
    capture_prompts: bool = False  # send the prompts of requests that are not sensitive


class Retention(Section, frozen=True, kw_only=True):
    """What is kept, and how long. What was learned is never dropped."""

    decisions_days: Positive = 90.0
    prompts: bool = False  # keep what was classified of each prompt that is not sensitive
    prompts_days: Positive = 30.0


class Canary(Section, frozen=True, kw_only=True):
    """A question with a known answer, asked of every enabled model from time to time."""

    name: Name
    prompt: Annotated[str, Meta(min_length=1)]
    expects: Annotated[str, Meta(min_length=1)]  # a regular expression that a right answer matches somewhere
    every_s: Positive = 3_600.0  # each model is asked at most once in this time, over all replicas
    max_tokens: Annotated[int, Meta(ge=0)] = 64  # of the answer; 0: no limit is sent


class Drift(Section, frozen=True, kw_only=True):
    """Noticing models that changed."""

    enabled: bool = True
    look_every_s: Positive = 5.0  # how often what was learned is looked at
    webhook_url_env: str = ""  # name of an environment variable that holds the address told of changes; empty: nobody
    calls_per_false_alarm: Annotated[float, Meta(ge=100.0)] = 20_000.0  # of each stream, over all models, at least
    canaries: tuple[Canary, ...] = ()


class Judge(Section, frozen=True, kw_only=True):
    """A model that marks replies of the others."""

    model: str = ""  # name of a configured model; empty: nothing is judged
    share: Share = 0.0  # of all replies, drawn at random
    suspected_share: Share = 0.2  # of replies of models that may have changed
    weight: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5  # of one label
    prompt: str = ""  # a template with {question} and {answer}; empty: Armwise's own
    max_tokens: Annotated[int, Meta(ge=0)] = 16  # of the verdict; 0: no limit is sent
    at_once: Count = 4  # verdicts under way in one process; what would be more is not judged


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    server: Server = Server()
    database: Database = Database()
    models: tuple[AnyModel, ...] = field(default_factory=lambda: SIMULATED_MODELS)
    policies: tuple[AnyPolicy, ...] = field(default_factory=lambda: DEFAULT_POLICIES)
    routing: Routing = Routing()
    classifier: ClassifierSettings = ClassifierSettings()
    quality: Quality = Quality()
    rewards: Rewards = Rewards()
    learning: Learning = Learning()
    breakers: Tolerance = Tolerance()
    budgets: Budgets = Budgets()
    safety: Safety = Safety()
    holdout: Holdout = Holdout()
    experiments: Experiments = Experiments()
    logging: Logging = Logging()
    tracing: Tracing = Tracing()
    retention: Retention = Retention()
    drift: Drift = Drift()
    judge: Judge = Judge()

    @property
    def default_policy(self) -> str:
        """Name of the policy that decides when the caller does not say."""
        return self.routing.policy or self.policies[0].name

    @property
    def simulated_only(self) -> bool:
        """True when no real model is configured."""
        return all(isinstance(model, SimulatedModel) for model in self.models)


DEFAULT_POLICIES: tuple[AnyPolicy, ...] = (
    PooledThompson(name="pooled_thompson"),
    Thompson(name="thompson"),
    Random(name="random"),
    StaticTier(name="static_tier"),
    Rules(name="rules"),
)

# Served when nothing is configured, so that everything can be tried without a key. Prices: of the models behind the
# table of facts.
SIMULATED_MODELS: tuple[AnyModel, ...] = (
    SimulatedModel(name="small", tier="small", price_in=0.02, price_out=0.05, local=True),
    SimulatedModel(name="medium", tier="medium", price_in=0.5, price_out=1.5),
    SimulatedModel(name="large", tier="large", price_in=1.25, price_out=10.0, window=1_000_000),
)

__all__ = [
    "DEFAULT_POLICIES", "SIMULATED_MODELS", "AnyModel", "AnyPolicy", "Budgets", "Canary", "ClassifierSettings", "Cues",
    "Database", "Drift", "HeuristicSetting", "Judge", "Learning", "Logging", "Metric", "ModelSection",
    "OpenAICompatibleModel", "Quality", "Retention", "Rewards", "Routing", "Server", "Settings", "SimulatedModel",
    "TaskType", "Tracing", "TranslatedModel",
]  # fmt: skip
