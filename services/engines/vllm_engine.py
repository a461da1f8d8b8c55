"""The vLLM engine: the one file that touches vllm.

It speaks to `AsyncLLM`, whose requests come and go one by one, rather than to `LLM`, whose calls are batches.
"""

import copy
import dataclasses
import difflib
import itertools
import math
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import torch
import vllm
from pydantic import ValidationError
from ray.util import metrics as ray_metrics
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.renderers.params import ChatParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError
from vllm.v1.engine.exceptions import EngineGenerateError
from vllm.v1.metrics import ray_wrappers
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p

from schemas.errors import EngineError
from schemas.rows import RowError
from schemas.text import shorten
from services.engines.control_tokens import control_tokens, without_control
from services.engines.cpu_settings import CPU_DEFAULTS, cpu_environment, prepare_cpu
from services.engines.engine import EngineDeadError, EngineInfo, EngineSpec, Generation
from services.engines.nucleus import keep_nucleus

_LEAST_BATCHED_TOKENS = 2048
# How vLLM says that a request is not to its taste: too long, say.
_REFUSED = (VLLMClientError, ValueError, TypeError)
# vLLM tells how much memory would do; but also all of the 300 architectures that it knows.
_LONGEST_CAUSE = 600

# Where packages of Ray Serve's are missing, none of which is needed, vLLM 0.32 takes Ray's metrics for missing too.
ray_wrappers.ray_metrics = ray_metrics

# vLLM's words where a process of the engine ended while it started.
_CORE_ENDED = "Engine core initialization failed"
# What tells in a log why an engine died: its worker's exit code, or the last line of a Python traceback (with or
# without the prefix that vLLM puts before its processes' lines).
_ERROR_LINE = re.compile(
    r"(Worker proc .+ died unexpectedly \(exit code: -?\d+\)|\b[A-Za-z_.]*(?:Error|Exception): .+$)"
)


class VllmEngine:
    """One `AsyncLLM` and its processes. Made by `start`."""

    def __init__(self, llm: AsyncLLM, info: EngineInfo, log: "_Log", kv_cache: "_KvCache") -> None:
        self.info = info
        self._kv_cache = kv_cache
        self._log = log
        self._llm = llm
        self._has_chat_template = info.settings["chat_template"]
        self._chat_params = ChatParams(chat_template_kwargs={"add_generation_prompt": True})
        self._control_tokens = control_tokens(llm.get_tokenizer())
        self._ids = itertools.count()

    @classmethod
    async def start(cls, spec: EngineSpec, path: str, revision: str) -> "VllmEngine":
        """Loads the model; 40 to 60 s on a CPU.

        Args:
            path: the model, as `services.models.checkpoints.locate` found it, with its `revision`.

        Raises:
            EngineError: vLLM refuses the model or the settings.
            EngineDeadError: its core ended without a word.
        """
        prepare_environment(spec)
        log = _Log()
        try:
            arguments = engine_args(spec, path)
            selects = current_platform.device_type == "cpu" and not arguments.worker_extension_cls
            if selects:
                arguments.worker_extension_cls = WORKER_EXTENSION
            kv_cache = _KvCache()
            # vLLM's own series, for Ray's metrics port, where Ray's and vLLM's dashboards look for them.
            loggers = [] if arguments.disable_log_stats else [_RaySeries, lambda *_: kv_cache]
            # As `vllm.LLM` does: without it a GPU gets sizes that are made for no use at all.
            llm = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS, stat_loggers=loggers)
            if "generate" not in await llm.get_supported_tasks():
                llm.shutdown()
                raise EngineError("model.id", spec.model.id, "this model does not write text", "name one that does")
            if selects:
                await llm.collective_rpc("select_nucleus", args=(True,))
        except EngineError:
            raise
        except Exception as error:
            told = log.first_error()
            if not told and _CORE_ENDED in str(error):
                # Killed, by the machine for want of memory, say: the next one may live.
                raise EngineDeadError(f"{_one_line(error)}; its core said nothing of why") from None
            cause = shorten(told or _one_line(error), _LONGEST_CAUSE)
            raise EngineError(
                "engine", None, f"vLLM could not start with {spec.model.id}: {cause}",
                f"correct `model` or `engine` in the job file; the engine's log is {log}",
            ) from None  # fmt: skip
        return cls(llm, _info(llm, spec, revision, selects), _Log(), kv_cache)

    async def prepare(self, messages: list[dict[str, str]]) -> Any:
        """See `Engine.prepare`."""
        renderer = self._llm.renderer
        messages = [{**each, "content": without_control(each["content"], self._control_tokens)} for each in messages]
        try:
            if self._has_chat_template:
                _, (prompt,) = await renderer.render_chat_async([messages], self._chat_params)
                return prompt
            text = "\n\n".join(message["content"] for message in messages)
            (prompt,) = await renderer.render_cmpl_async([{"prompt": text}], renderer.default_cmpl_tok_params)
            return prompt
        except _REFUSED as error:
            raise RowError(f"vLLM refused this request: {error}") from None

    async def generate(self, prompt: Any, sampling: dict[str, Any], seed: int) -> Generation:
        """See `Engine.generate`."""
        started_at, began = datetime.now(UTC), monotonic()
        try:
            params = _sampling_params(sampling, seed)
            async for output in self._llm.generate(prompt, params, str(next(self._ids))):
                final = output
        except VllmDeadError as error:
            raise EngineDeadError(self._log.first_error() or str(error)) from None
        except EngineGenerateError as error:
            raise RowError(f"vLLM failed on this request: {error.__cause__!r}") from None
        except _REFUSED as error:
            raise RowError(f"vLLM refused this request: {error}") from None
        completion = final.outputs[0]
        return Generation(
            text=completion.text,
            finish_reason=completion.finish_reason or "stop",
            prompt_tokens=len(final.prompt_token_ids),
            cached_prompt_tokens=final.num_cached_tokens or 0,
            output_tokens=len(completion.token_ids),
            started_at=started_at,
            duration_seconds=monotonic() - began,
        )

    def kv_cache_usage(self) -> float:
        """See `Engine.kv_cache_usage`."""
        return self._kv_cache.usage

    async def reset_prefix_cache(self) -> bool:
        """See `Engine.reset_prefix_cache`."""
        return await self._llm.reset_prefix_cache()

    async def stop(self) -> None:
        """See `Engine.stop`."""
        self._llm.shutdown()


def _sampling_params(sampling: dict[str, Any], seed: int) -> SamplingParams:
    if structured := sampling.get("structured_outputs"):
        sampling = {**sampling, "structured_outputs": StructuredOutputsParams(**structured)}
    # Only the finished text is of use; a message a token would cost the replica's only Python thread.
    return SamplingParams(**sampling, seed=seed, output_kind=RequestOutputKind.FINAL_ONLY)


class _RaySeries(ray_wrappers.RayPrometheusStatLogger):
    """vLLM's own series on Ray's metrics port, without the one that is told for every token: the time from the one
    before. The others are told once a step or a request, by the process that hands rows to the engine.
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


class _KvCache(StatLoggerBase):
    """Keeps what vLLM said last of its KV cache."""

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

    def select_nucleus(self, on: bool) -> None:
        """From now on finds the tokens that `top_p` leaves by selection, or again as vLLM does.

        Either way the same noise picks among them, drawn from the request's own seed.
        """
        sampler = self.model_runner.sampler
        kind = _SelectingSampler if on else TopKTopPSampler
        sampler.topk_topp_sampler = kind(sampler.logprobs_mode, sampler.use_fp64_gumbel)


WORKER_EXTENSION = f"{WorkerExtension.__module__}.{WorkerExtension.__name__}"


class _SelectingSampler(TopKTopPSampler):
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


def prepare_environment(spec: EngineSpec) -> None:
    """Sets what vLLM and its processes take from the environment; to be called before the engine is started."""
    # A service sends nothing home unless its owner asks for it.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")
    # vLLM renders in one thread, and counts the time that a prompt waits for it; in 30 s a good row may have waited.
    os.environ.setdefault("VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT", "600")
    if not spec.gpus:
        prepare_cpu(spec)


def engine_args(spec: EngineSpec, path: str) -> AsyncEngineArgs:
    """vLLM's arguments for an engine on this machine.

    Raises:
        EngineError: a key of `engine` is none of vLLM's, or belongs elsewhere.
    """
    known = [f.name for f in dataclasses.fields(AsyncEngineArgs)]
    owned = {
        "model",
        "tokenizer",
        "revision",
        "tokenizer_revision",
        "dtype",
        "quantization",
        "trust_remote_code",
        "seed",
    }
    for key, value in spec.engine.items():
        if key in owned:
            raise EngineError(f"engine.{key}", value, "this key does not belong here", f"set it under `model` ({key})")
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
        # By default vLLM falls back to pickles, which can run code, where a repository has no safetensors.
        "load_format": "safetensors",
        # In a Ray actor vLLM would ask Ray for its workers; a replica's GPUs are all on one node.
        "distributed_executor_backend": "mp",
        **spec.engine,
    }
    if current_platform.device_type == "cpu":
        settings = {**CPU_DEFAULTS, **settings}
        _keep_prompts_whole(settings)
    return AsyncEngineArgs(**settings)


def _keep_prompts_whole(settings: dict[str, Any]) -> None:
    """Turns chunked prefill off on a CPU, where splitting a seeded prompt kills the engine.

    Seen in 0.32: `CPU Generator does not use offset`, then EngineDeadError. So a batch must have room for the longest
    prompt.
    """
    if settings.get("enable_chunked_prefill"):
        raise EngineError(
            "engine.enable_chunked_prefill", True, "vLLM's CPU engine dies when it splits a prompt that has a seed",
            "leave this key out on a CPU",
        )  # fmt: skip
    settings["enable_chunked_prefill"] = False
    longest = AsyncEngineArgs(**settings).create_model_config().max_model_len
    given = settings.setdefault("max_num_batched_tokens", max(longest, _LEAST_BATCHED_TOKENS))
    if given < longest:
        raise EngineError(
            "engine.max_num_batched_tokens", given, f"on a CPU a batch must hold the longest prompt, {longest} tokens",
            "raise it, or lower engine.max_model_len",
        )  # fmt: skip


def _info(llm: AsyncLLM, spec: EngineSpec, revision: str, selects: bool) -> EngineInfo:
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
        "top_p": "selection" if selects else "vLLM's own",
        "environment": cpu_environment() if current_platform.device_type == "cpu" else {},
        # A base model such as GPT-2 has none. Mistral's own tokenizers lack the attribute, and render chats themselves.
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
        # Not its own class of string: unpickling that would make every driver import torch, which takes 2 s.
        versions={"vllm": vllm.__version__, "torch": str(torch.__version__)},
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Log:
    """This process's log under Ray, from here on: the engine's own processes write there why they died."""

    def __init__(self) -> None:
        # vLLM logs to standard output; what kills a process natively speaks on standard error.
        self._files = [Path(os.readlink(f"/proc/self/fd/{number}")) for number in (1, 2)]
        self._starts = [file.stat().st_size if file.is_file() else 0 for file in self._files]

    def __str__(self) -> str:
        return str(self._files[0])

    def first_error(self) -> str:
        """The first line that tells why the engine died: what follows it is its consequence. Maybe ""."""
        for path, start in zip(self._files, self._starts, strict=True):
            if not path.is_file():
                continue
            with path.open("rb") as file:
                file.seek(start)
                lines = file.read().decode(errors="replace").splitlines()
            if found := next((match[1] for line in lines if (match := _ERROR_LINE.search(line))), ""):
                return found
        return ""
