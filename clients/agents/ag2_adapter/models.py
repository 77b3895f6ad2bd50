"""From the declaration of a model to AG2's configuration of it. Retries are the engine's, so clients make none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from omium.clients.agents.adapter import AgentContext
from omium.clients.agents.spec import SCRIPTED, ModelSpec
from omium.orchestration.errors import OmiumError

if TYPE_CHECKING:
    from ag2.config import ModelConfig

# Provider -> (class in ag2.config, AG2's extra, where the key is looked for unless the declaration says).
PROVIDERS: Final[Mapping[str, tuple[str, str, str | None]]] = {
    "openai": ("OpenAIConfig", "openai", "OPENAI_API_KEY"),
    "openai-responses": ("OpenAIResponsesConfig", "openai", "OPENAI_API_KEY"),
    "anthropic": ("AnthropicConfig", "anthropic", "ANTHROPIC_API_KEY"),
    "gemini": ("GeminiConfig", "gemini", "GEMINI_API_KEY"),
    "mistral": ("MistralConfig", "mistral", "MISTRAL_API_KEY"),
    "ollama": ("OllamaConfig", "ollama", None),
    "xai": ("XAIConfig", "xai", "XAI_API_KEY"),
    "dashscope": ("DashScopeConfig", "dashscope", "DASHSCOPE_API_KEY"),
    "zai": ("ZAIConfig", "zai", "ZAI_API_KEY"),
}
_OWN: Final = frozenset({"model", "api_key", "base_url", "max_retries", "http_client", "timeout", "streaming"})
_NO_KEY: Final = "none"  # a server of one's own asks for no key; the client wants one all the same


@asynccontextmanager
async def configured(ctx: AgentContext) -> AsyncIterator[ModelConfig]:
    """AG2's configuration of the agent's model; its connections are closed with the block.

    Raises `unauthenticated` (no key), `unsupported` (AG2's extra is not installed), `invalid_definition` (options)."""
    model = ctx.agent.model
    if model is None:
        raise OmiumError("invalid_definition", f"the agent {ctx.agent.name} has no model.")
    if model.provider == SCRIPTED:
        from omium.clients.agents.ag2_adapter.scripted import ScriptedConfig
        from omium.clients.agents.script import read_script

        assert model.script is not None, "checked when the agent was registered"
        yield ScriptedConfig(read_script(model.script), model.name or SCRIPTED, stream=model.stream)
        return
    kind = _config_class(model)
    known = {one.name for one in fields(kind)}
    unknown = sorted(set(model.options) - (known - _OWN))
    if unknown:
        raise OmiumError(
            "invalid_definition",
            f"the model of the agent {ctx.agent.name} has the option {unknown[0]!r}, which {model.provider} has not.",
            f"Options: {', '.join(sorted(known - _OWN))}.",
        )
    given = {"model": model.name, **model.options, **_settings(model, ctx, known)}
    if "http_client" not in known:
        yield kind(**given)
        return
    import httpx2

    async with httpx2.AsyncClient(timeout=model.timeout_s, follow_redirects=False) as client:
        yield kind(**given, http_client=client)


def _settings(model: ModelSpec, ctx: AgentContext, known: set[str]) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "base_url": model.base_url,
        "max_tokens": model.max_tokens,
        "timeout": model.timeout_s,
        "max_retries": 0,
        "streaming": model.stream,
        "api_key": _key(model, ctx) if "api_key" in known else None,
    }
    return {name: value for name, value in wanted.items() if name in known and value is not None}


def _key(model: ModelSpec, ctx: AgentContext) -> str | None:
    """The key of the provider. That of the provider's own service is never sent to another address by default."""
    variable = model.api_key_env
    if variable is None and model.base_url is None:
        variable = PROVIDERS[model.provider][2]
    if variable is None:
        return _NO_KEY
    value = ctx.secret(variable)
    if value is None:
        raise OmiumError(
            "unauthenticated",
            f"the agent {ctx.agent.name} needs a key for {model.provider}, and {variable} is not set.",
            f"Set {variable} where the worker runs, or name another variable as model.api_key_env.",
        )
    return value


def _config_class(model: ModelSpec) -> type[Any]:
    import ag2.config

    name, extra, _ = PROVIDERS[model.provider]
    found: Any = getattr(ag2.config, name)
    if not hasattr(found, "__dataclass_fields__"):  # AG2 puts a stand-in where a package is missing
        raise OmiumError(
            "unsupported",
            f"models of {model.provider} need a package that is not installed.",
            f"pip install 'ag2[{extra}]'",
        )
    return found  # type: ignore[no-any-return]
