"""The job file of `kindling augment`: input rows go through a recipe and a model into shards."""

from typing import Literal

from pydantic import Field, model_validator

from schemas.generations import Generation, check_generations, check_sampling
from schemas.job import Classifier, Cluster, EngineArguments, Input, Metrics, Model, Sampling, Section, Seeds, Url
from schemas.quality import Quality
from schemas.sweep import Sweep, Variant, make_variants


class AugmentOutput(Section):
    """Run folder, and the size of its shards."""

    short_key = "path"

    path: Url
    """run folder: local, or a URL of any fsspec file system"""
    rows_per_shard: int = Field(512, gt=0)
    """number of input rows in one shard; their outputs, of all samples and variants, lie in it together"""


class Budget(Section):
    """Limits of a run, over all its starts. The job stops before one is passed (exit code 75), finished rows are kept,
    and with a higher limit the same command goes on. No limit is part of the run's identity."""

    tokens: int | None = Field(None, gt=0)
    """largest number of output tokens, those of rejected and failed rows included. Rows in flight count with their
    `max_tokens`, so the limit is never passed"""
    hours: float | None = Field(None, gt=0)
    """largest number of replica-hours, the start of engines included: two replicas use it up twice as fast"""
    cost: float | None = Field(None, gt=0)
    """largest cost, by `cluster.price_per_replica_hour`, in the same currency"""

    @property
    def is_empty(self) -> bool:
        """True where there is no limit."""
        return self == Budget()


class AugmentJob(Section):
    """Job of `kindling augment`: input rows go through a recipe and a model into shards."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """name of the run in logs, in metrics (label `run`) and on the dataset card: letters, digits, `.`, `_` and `-`"""
    input: Input
    """input rows"""
    recipe: Literal["babylm_story", "alpaca_rewrite", "evaluation_prompts", "template", "messages"]
    """recipe that turns an input row into a prompt, and the response into a text"""
    prompt: str | None = None
    """name of a shipped prompt (`p1`, `p2`, `p3`; `v1`, `v2`, `v3`; `tasks`), or the path of a Jinja file; by default
    the recipe's own"""
    classifier: Classifier | None = Field(None, exclude_if=lambda classifier: classifier is None)
    """classifier that picks the positive emotion which fits a row's `output` best; for the recipe `alpaca_rewrite`
    alone"""
    samples: int = Field(1, gt=0)
    """number of outputs for each input row and variant"""
    target_accepted: int | None = Field(None, gt=0, exclude_if=lambda target: target is None)
    """number of accepted rows at which the job ends: at the end of the shard by which it is reached, in input order.
    Rows behind it are not read. With a higher target the same command goes on"""
    model: Model = Model()
    """model that writes the outputs"""
    sampling: Sampling = Sampling()
    """choice of each next token"""
    sweep: Sweep | None = Field(None, exclude_if=lambda sweep: sweep is None)
    """several prompts and sampling settings for the same rows: a list of values for `prompt` or for any key of
    `sampling`, of which every combination is a variant; or a list of the variants themselves"""
    generations: list[Generation] = Field([], exclude_if=lambda generations: not generations)
    """generations of each row, in their order; by default one, by the job's recipe and prompt"""
    keep: str | list[str] = Field([], exclude_if=lambda keep: not keep)
    """name of the generation whose text is the row's; or several names, of which the first that was not left out is
    taken. By default the last generation that writes a text"""
    quality: Quality = Field(Quality(), exclude_if=lambda quality: quality == Quality())
    """rules that reject texts, whatever the recipe"""
    budget: Budget = Field(Budget(), exclude_if=lambda budget: budget.is_empty)
    """limits of the run: tokens, replica-hours, cost"""
    engine: EngineArguments = Field(default={})
    """engine arguments under vLLM's names, passed to vLLM unchanged. `reasoning_parser` also keeps a model's thoughts
    apart from its answer, in the column `reasoning`"""
    cluster: Cluster = Cluster()
    """Ray cluster, and the replicas of this job in it"""
    output: AugmentOutput
    """run folder, and the size of its shards"""
    metrics: Metrics = Metrics()
    """Prometheus endpoint of this job"""
    seed: int = 0
    """seed of the run, from which the seed of each output is derived"""
    seeds: Seeds = Field("row", exclude_if=lambda seeds: seeds == "row")
    """random numbers that sampling uses: `row`, each generation has its own seed, whatever runs beside it; `run`, each
    engine has one, and a text depends on the order of all requests; `none`, they are new at each start of an engine.
    vLLM has faster samplers on a GPU for requests without a seed. Draws for prompts always follow `seed`"""

    @model_validator(mode="after")
    def _check_sweep(self) -> "AugmentJob":
        self.variants()
        return self

    @model_validator(mode="after")
    def _check_generations(self) -> "AugmentJob":
        if self.keep and not self.generations:
            raise ValueError("keep has no use without generations")
        if self.generations:
            check_generations(self.generations, self.kept)
            check_sampling(self.generations, self.sampling)
            if all(each.prompt for each in self.generations) and (self.recipe != "template" or self.prompt):
                raise ValueError("a generation without `prompt` must use the job's recipe and prompt")
        if self.quality.retry_prompts and self.generations and all(each.prompt for each in self.generations):
            raise ValueError("quality.retry_prompts: no generation uses the job's own prompt")
        return self

    @model_validator(mode="after")
    def _check_reasoning(self) -> "AugmentJob":
        samplings = [*(variant.sampling.model_dump() for variant in self.variants())]
        samplings += [each.sampling for each in self.generations]
        if not self.has_reasoning and any(each.get("thinking_token_budget") is not None for each in samplings):
            raise ValueError(
                "sampling.thinking_token_budget limits the thoughts of a reasoning model: give engine.reasoning_parser"
            )
        return self

    @model_validator(mode="after")
    def _check_budget(self) -> "AugmentJob":
        longest = self.max_row_tokens
        if self.budget.tokens is not None and self.budget.tokens < longest:
            raise ValueError(f"budget.tokens = {self.budget.tokens} is below max_tokens = {longest}: no row fits in")
        if self.budget.cost is not None and self.cluster.price_per_replica_hour is None:
            raise ValueError("budget.cost needs a price: give cluster.price_per_replica_hour")
        return self

    @property
    def kept(self) -> list[str]:
        """Names of the generations of which the first that was not left out is the row's text."""
        return [self.keep] if isinstance(self.keep, str) else self.keep or [self._last_text()]

    def _last_text(self) -> str:
        texts = [each.name for each in self.generations if each.kind == "text"]
        return texts[-1] if texts else self.generations[-1].name

    @property
    def has_programs(self) -> bool:
        """True where a row may take several generations or tries, or has scores."""
        return bool(self.generations) or self.quality.max_tries > 1 or self.quality.has_scored_checks

    @property
    def has_reasoning(self) -> bool:
        """True where the model's thoughts are kept apart from its answer."""
        return bool(self.engine.get("reasoning_parser"))

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of one generation, of all variants."""
        return max(self._generation_tokens())

    @property
    def max_row_tokens(self) -> int:
        """Largest number of output tokens of one row: of all its generations, in all its tries."""
        return sum(self._generation_tokens()) * self.quality.max_tries

    def _generation_tokens(self) -> list[int]:
        own = max(int(variant.sampling.model_dump()["max_tokens"]) for variant in self.variants())
        return [
            2 if each.kind == "judge" else int(each.sampling.get("max_tokens", own)) for each in self.generations
        ] or [own]

    def variants(self) -> list[Variant]:
        """Returns the variants of each row: the combinations of the sweep, or the job's own prompt and sampling
        alone."""
        return make_variants(self.sweep, self.prompt, self.sampling)
