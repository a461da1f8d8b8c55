"""The vLLM engine: the only file that imports vllm.

It uses `AsyncLLM`, which takes and finishes requests one by one, and not `LLM`, which works in whole batches.
"""

import copy
import dataclasses
import difflib
import itertools
import math
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import psutil
import torch
import vllm
from jinja2 import TemplateSyntaxError
from pydantic import ValidationError
from ray.util import metrics as ray_metrics
from vllm import SamplingParams
from vllm.config.reasoning import ReasoningConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager
from vllm.renderers.params import ChatParams
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError
from vllm.v1.engine.exceptions import EngineGenerateError
from vllm.v1.metrics import ray_wrappers
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p
from vllm.v1.serial_utils import MsgpackEncoder

from schemas.errors import EngineError, JobError
from schemas.job import Seeds
from schemas.outcomes import CUT_OFF, EARLY_STOP, REPETITION, UNFINISHED_REASONING
from schemas.rows import RowError
from schemas.text import shorten
from services.engines.choices import CHOICES, choice_probabilities, choice_tokens
from services.engines.control_tokens import break_control_tokens, find_control_tokens
from services.engines.cpu_settings import CPU_DEFAULTS, cpu_environment, set_cpu_environment
from services.engines.engine import STREAM_TOKENS, EngineDeadError, EngineInfo, EngineSpec, Generation, ShouldStop
from services.engines.engine_log import EngineLog
from services.engines.nucleus import keep_nucleus
from services.engines.reasoning import ReasoningSplitter
from services.models.chat_templates import ChatTemplateError, bound_chat_templates

_MIN_BATCHED_TOKENS = 2048
# Exceptions by which vLLM refuses a request (the prompt is too long, say).
_REQUEST_ERRORS = (VLLMClientError, ValueError, TypeError)
# The others are `abort` and `error` (a token that the grammar of `structured_outputs` does not allow, say).
_FINISH_REASONS = ("stop", CUT_OFF, REPETITION, EARLY_STOP)
_FIRST_CHAT: Any = [{"role": "user", "content": "Hello"}]
# Prompt of the request that is made, and not sent, to check a job's sampling.
_ONE_TOKEN: Any = {"type": "token", "prompt_token_ids": [0]}
# Long enough for vLLM's advice on memory, too short for its list of the 300 architectures that it knows.
_MAX_CAUSE_CHARACTERS = 600

# vLLM 0.32 treats Ray's metrics as missing where packages of Ray Serve are. None of those packages is needed here.
ray_wrappers.ray_metrics = ray_metrics

# Engine arguments that have keys of their own in a job: `seed`, and those of `model`.
_JOB_KEYS = (
    "model", "tokenizer", "revision", "tokenizer_revision", "dtype", "quantization", "trust_remote_code", "seed",
)  # fmt: skip
# vLLM's message where a process of the engine ended while it started.
_CORE_ENDED = "Engine core initialization failed"


class VllmEngine:
    """An `Engine` around one `AsyncLLM` and its processes; created by `start`."""

    def __init__(
        self,
        llm: AsyncLLM,
        info: EngineInfo,
        log: EngineLog,
        kv_cache: "_KvCacheUsage",
        reasoning: ReasoningSplitter | None = None,
        seeds: Seeds = "row",
    ) -> None:
        self.info = info
        self._kv_cache = kv_cache
        self._log = log
        self._llm = llm
        self._reasoning = reasoning
        self._seeds = seeds
        self._has_chat_template = info.settings["chat_template"]
        self._chat_params = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        self._control_tokens = find_control_tokens(llm.get_tokenizer())
        self._ids = itertools.count()
        self._tokens_of_choices: dict[tuple[str, ...], list[set[int]]] = {}

    @classmethod
    async def start(cls, spec: EngineSpec, path: str, revision: str) -> "VllmEngine":
        """Loads the model and starts the engine; takes 40 to 60 s on a CPU.

        Args:
            spec: model and engine arguments.
            path: folder of the model, from `services.models.checkpoints.locate`.
            revision: commit or content hash of the model, from the same.

        Raises:
            EngineError: vLLM refuses the model or the settings.
            EngineDeadError: a process of the engine ended and left no error in its log.
        """
        set_vllm_environment(spec)
        bound_chat_templates()
        log = EngineLog()
        try:
            arguments = vllm_arguments(spec, path)
            reasoning = reasoning_splitter(arguments)
            selects_nucleus = current_platform.device_type == "cpu" and not arguments.worker_extension_cls
            if selects_nucleus:
                arguments.worker_extension_cls = WORKER_EXTENSION
            kv_cache = _KvCacheUsage()
            # vLLM's own metrics go to Ray's metrics port, where Ray's and vLLM's dashboards expect them.
            loggers = [] if arguments.disable_log_stats else [_RayMetrics, lambda *_: kv_cache]
            # vLLM's default batch sizes on a GPU depend on the context. `vllm.LLM` sets the same one.
            llm = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS, stat_loggers=loggers)
            if "generate" not in await llm.get_supported_tasks():
                llm.shutdown()
                raise EngineError("model.id", spec.model.id, "this model does not write text", "name one that does")
            if selects_nucleus:
                await llm.collective_rpc("select_nucleus", args=(True,))
        except EngineError:
            raise
        except Exception as error:
            logged = log.first_error()
            if not logged and _CORE_ENDED in str(error):
                # The process was killed (out of memory, say): another start may succeed.
                raise EngineDeadError(f"{_error_line(error)}; its log gives no cause") from None
            cause = shorten(logged or _error_line(error), _MAX_CAUSE_CHARACTERS)
            raise EngineError(
                "engine", None, f"vLLM could not start with {spec.model.id}: {cause}",
                f"correct `model` or `engine` in the job file; the engine's log is {log}",
            ) from None  # fmt: skip
        info = _engine_info(llm, spec, revision, selects_nucleus)
        engine = cls(llm, info, EngineLog(), kv_cache, reasoning, spec.seeds)
        await engine._check_chat_template(spec.model.id)
        return engine

    async def _check_chat_template(self, model_id: str) -> None:
        """Renders a first chat.

        Raises:
            EngineError: the chat template is not valid Jinja, or does too much work.
        """
        if not self._has_chat_template:
            return
        try:
            await self._llm.renderer.render_chat_async([_FIRST_CHAT], self._chat_params)
        except (VLLMClientError, TemplateSyntaxError) as error:
            # A template may refuse this chat and take others. Only faults that every chat would have are looked for.
            cause = error.__cause__ or error
            if isinstance(cause, ChatTemplateError | TemplateSyntaxError):
                self._llm.shutdown()
                raise EngineError(
                    "model.id", model_id, f"its chat template cannot be used: {shorten(str(cause))}",
                    "correct chat_template in the files of the model's tokenizer",
                ) from None  # fmt: skip

    async def check(self, sampling: dict[str, Any]) -> None:
        """Checks the sampling of a job as vLLM checks it with each request. See `Engine.check`."""
        try:
            params, tasks = self._params(sampling, seed=0), await self._llm.get_supported_tasks()
            request = await self._llm.input_processor.process_inputs_async("check", _ONE_TOKEN, params, tasks)
            MsgpackEncoder().encode(request)  # a number of more than 64 bits cannot be sent to the engine's process
        except (*_REQUEST_ERRORS, OverflowError) as error:
            parameter = getattr(error, "parameter", None) or ""
            key = f"sampling.{parameter}" if parameter in sampling else "sampling"
            raise JobError(
                key, sampling.get(parameter), f"vLLM refuses it for every row: {shorten(_message_of(error))}",
                "correct the value in the job file; nothing was generated",
            ) from None  # fmt: skip

    async def prepare(self, messages: list[dict[str, str]]) -> Any:
        """Applies the chat template and tokenizes the prompt. See `Engine.prepare`."""
        renderer = self._llm.renderer
        messages = [
            {**message, "content": break_control_tokens(message["content"], self._control_tokens)}
            for message in messages
        ]
        try:
            if self._has_chat_template:
                _, (prompt,) = await renderer.render_chat_async([messages], self._chat_params)
                return prompt
            text = "\n\n".join(message["content"] for message in messages)
            (prompt,) = await renderer.render_cmpl_async([{"prompt": text}], renderer.default_cmpl_tok_params)
            return prompt
        except _REQUEST_ERRORS as error:
            raise RowError(f"vLLM refused this request: {error}") from None

    async def generate(
        self, prompt: Any, sampling: dict[str, Any], seed: int, should_stop: ShouldStop | None = None
    ) -> Generation:
        """Generates one response. See `Engine.generate`."""
        started_at, start = datetime.now(UTC), monotonic()
        try:
            params = self._params(sampling, seed)
            if should_stop is not None:
                # vLLM heeds the interval (0.32) only where it hands out what is new in a text.
                params.output_kind, params.stream_interval = RequestOutputKind.DELTA, STREAM_TOKENS
            request_id, rejected_by, text, tokens = str(next(self._ids)), "", "", 0
            async for final in self._llm.generate(prompt, params, request_id):
                text, tokens = text + final.outputs[0].text, tokens + len(final.outputs[0].token_ids)
                if should_stop is not None and not final.finished:
                    _, answer = self._split(text, final.prompt_token_ids, sampling)
                    rejected_by = should_stop(answer, sampling["max_tokens"] - tokens) if answer is not None else ""
                    if rejected_by:
                        await self._llm.abort(request_id)
                        break
        except VllmDeadError as error:
            raise EngineDeadError(self._log.first_error() or str(error)) from None
        except EngineGenerateError as error:
            raise RowError(f"vLLM failed on this request: {error.__cause__!r}") from None
        except _REQUEST_ERRORS as error:
            raise RowError(f"vLLM refused this request: {error}") from None
        completion = final.outputs[0]
        probabilities: tuple[float, ...] = ()
        if choices := sampling.get(CHOICES):
            logprobs = {token: each.logprob for token, each in (completion.logprobs or [{}])[0].items()}
            probabilities = choice_probabilities(choices, self._choice_tokens(choices), logprobs)
        finish_reason = EARLY_STOP if rejected_by else completion.finish_reason or "stop"
        if finish_reason not in _FINISH_REASONS:  # its text is what there was when the request failed
            raise RowError(f"vLLM ended this request with the finish reason {finish_reason!r}")
        reasoning, answer = self._split(text, final.prompt_token_ids, sampling)
        if answer is None and finish_reason != REPETITION:
            rejected_by = UNFINISHED_REASONING
        return Generation(
            text=answer or "",
            finish_reason=finish_reason,
            prompt_tokens=len(final.prompt_token_ids),
            cached_prompt_tokens=final.num_cached_tokens or 0,
            output_tokens=tokens,
            started_at=started_at,
            duration_seconds=monotonic() - start,
            probabilities=probabilities,
            rejected_by=rejected_by,
            reasoning=reasoning,
        )

    def _split(self, text: str, prompt: Sequence[int], sampling: dict[str, Any]) -> tuple[str, str | None]:
        """Returns thoughts and answer; a judge's answer, and that of a model without a parser, is the whole text."""
        if self._reasoning is None or sampling.get(CHOICES):
            return "", text
        return self._reasoning.split(text, prompt)

    def _params(self, sampling: dict[str, Any], seed: int) -> SamplingParams:
        request_seed = seed if self._seeds == "row" else None
        if not (choices := sampling.get(CHOICES)):
            params = _sampling_params(sampling, request_seed)
            if self._reasoning is not None:
                params.skip_special_tokens = self._reasoning.skips_special_tokens
            return params
        return SamplingParams(
            temperature=0, max_tokens=1, seed=request_seed, output_kind=RequestOutputKind.FINAL_ONLY,
            logprob_token_ids=sorted(set().union(*self._choice_tokens(choices))),
        )  # fmt: skip

    def _choice_tokens(self, choices: Sequence[str]) -> list[set[int]]:
        known = tuple(choices)
        if known not in self._tokens_of_choices:
            self._tokens_of_choices[known] = choice_tokens(self._llm.get_tokenizer(), known)
        return self._tokens_of_choices[known]

    def kv_cache_usage(self) -> float:
        """Returns the usage after the engine's last step. See `Engine.kv_cache_usage`."""
        return self._kv_cache.usage

    async def reset_prefix_cache(self) -> bool:
        """Empties the prefix cache. See `Engine.reset_prefix_cache`."""
        return await self._llm.reset_prefix_cache()

    async def stop(self) -> None:
        """Ends the engine's processes."""
        self._llm.shutdown()


def _message_of(error: Exception) -> str:
    # vLLM adds parameter and value to the text; the job's error names them itself.
    return str(error.args[0]) if isinstance(error, VLLMClientError) and error.args else _error_line(error)


def _sampling_params(sampling: dict[str, Any], seed: int | None) -> SamplingParams:
    sections = {"structured_outputs": StructuredOutputsParams, "repetition_detection": RepetitionDetectionParams}
    given = {key: section(**sampling[key]) for key, section in sections.items() if sampling.get(key)}
    sampling = {**sampling, **given}
    # Only the finished text is needed. A message for every token would take time of the replica's only Python thread.
    return SamplingParams(**sampling, seed=seed, output_kind=RequestOutputKind.FINAL_ONLY)


class _RayMetrics(ray_wrappers.RayPrometheusStatLogger):
    """vLLM's own metrics on Ray's metrics port, without the latency between two tokens.

    That metric alone is observed for every token; the others are once per step or request. All of it happens in the
    process that hands rows to the engine, whose time is scarce.
    """

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        if iteration_stats is not None:
            iteration_stats = copy.copy(iteration_stats)
            iteration_stats.inter_token_latencies_iter = []
        super().record(scheduler_stats, iteration_stats, mm_cache_stats, engine_idx)


class _KvCacheUsage(StatLoggerBase):
    """Keeps the latest usage of the KV cache that vLLM reported."""

    def __init__(self) -> None:
        self.usage = math.nan

    def record(
        self, scheduler_stats: SchedulerStats | None, iteration_stats: IterationStats | None, **_: object
    ) -> None:
        if scheduler_stats is not None:
            self.usage = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        pass


class WorkerExtension:
    """Methods that vLLM adds to its workers (`worker_extension_cls`)."""

    model_runner: Any
    """attribute of vLLM's worker"""

    def select_nucleus(self, enabled: bool) -> None:
        """Finds the nucleus of `top_p` by selection from now on; or by sorting, as vLLM does, where not `enabled`.

        Both draw the token with the same noise, from the request's own seed.
        """
        sampler = self.model_runner.sampler
        sampler_class = _SelectingSampler if enabled else TopKTopPSampler
        sampler.topk_topp_sampler = sampler_class(sampler.logprobs_mode, sampler.use_fp64_gumbel)


WORKER_EXTENSION = f"{WorkerExtension.__module__}.{WorkerExtension.__name__}"


class _SelectingSampler(TopKTopPSampler):
    """vLLM's sampler, with `keep_nucleus` in place of sorting."""

    def forward_cpu(
        self,
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if p is not None:
            logits = keep_nucleus(apply_top_k_top_p(logits, k, None), p)
            k = p = None
        return super().forward_cpu(logits, generators, k, p)


def set_vllm_environment(spec: EngineSpec) -> None:
    """Sets the environment variables of vLLM and its processes; to be called before the engine is started."""
    # No usage statistics are sent unless the owner of the machine turns them on.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
    # vLLM renders prompts in one thread, and its timeout (30 s by default) includes the wait for that thread. A good
    # row may wait longer.
    os.environ.setdefault("VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT", "600")
    if not spec.gpus:
        set_cpu_environment(spec)


def vllm_arguments(spec: EngineSpec, path: str) -> AsyncEngineArgs:
    """Returns vLLM's arguments for an engine on this machine.

    Args:
        spec: model and engine arguments.
        path: folder of the model.

    Raises:
        EngineError: a key of `engine` is unknown to vLLM, is set elsewhere in a job, or cannot work on a CPU.
    """
    known = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    for key, value in spec.engine.items():
        if key in _JOB_KEYS:
            remedy = "set the job's own `seed`" if key == "seed" else f"set it under `model` ({key})"
            raise EngineError(f"engine.{key}", value, "this key does not belong here", remedy)
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            remedy = f"did you mean `engine.{close[0]}`?" if close else "see vLLM's engine arguments"
            raise EngineError(f"engine.{key}", value, "vLLM has no such engine argument", remedy)
    settings = {
        "model": path,
        "revision": spec.model.revision,
        "tokenizer_revision": spec.model.revision,
        "dtype": spec.model.dtype,
        "quantization": spec.model.quantization,
        "trust_remote_code": spec.model.trust_remote_code,
        # By default vLLM falls back to pickles, which can run code, where a model has no safetensors.
        "load_format": "safetensors",
        # In a Ray actor vLLM would request its workers from Ray. A replica's GPUs are all on one node, so that plain
        # processes do.
        "distributed_executor_backend": "mp",
        **spec.engine,
    }
    if isinstance(config := settings.get("reasoning_config"), dict):
        settings["reasoning_config"] = ReasoningConfig(**config)
    if spec.seeds != "row":
        settings["seed"] = spec.own_seed()
    if current_platform.device_type == "cpu":
        settings = {**CPU_DEFAULTS, **settings}
        _disable_chunked_prefill(settings, spec.seeds)
    return AsyncEngineArgs(**settings)


def reasoning_splitter(arguments: AsyncEngineArgs) -> ReasoningSplitter | None:
    """Returns the splitter for the thoughts of a reasoning model; None without `engine.reasoning_parser`.

    Raises:
        EngineError: vLLM has no such parser, it does not fit the model, or it names no mark behind the thoughts.
    """
    if not (name := arguments.reasoning_parser):
        return None
    key, known = "engine.reasoning_parser", ReasoningParserManager.list_registered()
    if name not in known:
        raise EngineError(key, name, "vLLM has no such reasoning parser", f"its parsers are {', '.join(known)}")
    tokenizer = cached_tokenizer_from_config(arguments.create_model_config())
    try:
        parser = ReasoningParserManager.get_reasoning_parser(name)(tokenizer)
        request = parser.adjust_request(ChatCompletionRequest(model="", messages=[]))
        parser.extract_reasoning("", request)
    except Exception as error:  # each parser raises its own, and all of them are faults of this choice
        cause = f"it cannot be used with this model: {shorten(str(error))}"
        raise EngineError(key, name, cause, "name the parser of the model, or leave the key out") from None
    if not parser.reasoning_end_str:
        cause = "it does not name the mark at which thoughts end, so unfinished thoughts would pass for an answer"
        raise EngineError(key, name, cause, "name another parser, or leave the key out")
    return ReasoningSplitter(parser, request, tokenizer.decode)


def _disable_chunked_prefill(settings: dict[str, Any], seeds: Seeds) -> None:
    """Turns chunked prefill off on a CPU, where splitting the prompt of a seeded request kills the engine.

    Seen in vLLM 0.32: `CPU Generator does not use offset`, then EngineDeadError. Without chunks a batch must be large
    enough for the longest prompt. A job whose requests have no seeds may turn it on.

    Raises:
        EngineError: the job turns chunked prefill on for seeded requests, or its batches are too small for the longest
            prompt.
    """
    if settings.get("enable_chunked_prefill"):
        if seeds != "row":
            return
        raise EngineError(
            "engine.enable_chunked_prefill", True, "vLLM's CPU engine dies when it splits a prompt that has a seed",
            "leave this key out on a CPU, or set `seeds` to run or none",
        )  # fmt: skip
    settings["enable_chunked_prefill"] = False
    longest = AsyncEngineArgs(**settings).create_model_config().max_model_len
    batched_tokens = settings.setdefault("max_num_batched_tokens", max(longest, _MIN_BATCHED_TOKENS))
    if batched_tokens < longest:
        raise EngineError(
            "engine.max_num_batched_tokens", batched_tokens,
            f"on a CPU a batch must hold the longest prompt, {longest} tokens",
            "raise it, or lower engine.max_model_len"
            + ("" if seeds == "row" else ", or set engine.enable_chunked_prefill: true, which splits prompts"),
        )  # fmt: skip


def _engine_info(llm: AsyncLLM, spec: EngineSpec, revision: str, selects_nucleus: bool) -> EngineInfo:
    config = llm.vllm_config
    block_size, blocks = config.cache_config.block_size, config.cache_config.num_gpu_blocks
    settings = {
        "device": current_platform.get_device_name(),
        "cores": list(spec.cores),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "quantization": config.model_config.quantization,
        "max_model_len": config.model_config.max_model_len,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "enable_chunked_prefill": config.scheduler_config.enable_chunked_prefill,
        "enable_prefix_caching": config.cache_config.enable_prefix_caching,
        "enforce_eager": config.model_config.enforce_eager,
        "block_size": block_size,
        "top_p": "selection" if selects_nucleus else "vLLM's own",
        "environment": cpu_environment() if current_platform.device_type == "cpu" else {},
        # A base model such as GPT-2 has no template. Mistral's own tokenizers lack the attribute, but render chats.
        "chat_template": getattr(llm.get_tokenizer(), "chat_template", "") is not None,
        "kv_cache_tokens": block_size * blocks if blocks else None,
    }
    children = psutil.Process().children(recursive=True)
    return EngineInfo(
        max_num_seqs=config.scheduler_config.max_num_seqs,
        max_model_len=config.model_config.max_model_len,
        model_revision=revision,
        settings=settings,
        pids=(os.getpid(), *(child.pid for child in children)),
        # As a plain string: torch's own class would make every driver import torch, which takes 2 s, to unpickle it.
        versions={"vllm": vllm.__version__, "torch": str(torch.__version__)},
    )


def _error_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
