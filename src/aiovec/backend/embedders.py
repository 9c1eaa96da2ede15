"""The sections ``[retrieval.embedders.<name>]`` of the TOML file."""

from __future__ import annotations

from .._model.schema import MAX_DIM
from .settings import Section, key

_KIND = (
    r"^(openai|fastembed|onnx|sentence-transformers|local|demo|[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)$"
)
_KINDS = (
    "'openai', 'local', 'fastembed', 'onnx', 'sentence-transformers', 'demo' or "
    "'package.module:callable'"
)

OWN_URL = "https://api.openai.com/v1"
"""The default service of the kind "openai"."""

ADDRESS = "an address that begins with http:// or https://"


class EmbedderSettings(Section):
    """An embedder, which makes the vectors of the tables whose schema names it."""

    kind: str = key("openai", pattern=_KIND, accepted=_KINDS)
    """The kind of embedder: "openai", "local", "fastembed", "onnx", "sentence-transformers", "demo"
    or "package.module:callable".

    "openai": every service with OpenAI's API, such as Ollama, vLLM or LM Studio.

    "local": a small static model for English that pip installs, or a folder that model2vec saved.

    "fastembed": a transformer that runs on this machine without PyTorch; its 67 MB are downloaded
    once.

    "onnx": such a transformer from a folder of yours, without a download.

    "sentence-transformers": a model on this machine.

    "demo": a small model that needs no key and no download, but does not understand meaning.

    "package.module:callable": an embedder of the app."""

    model: str = ""
    """The model's name. "local", "fastembed" and "demo" have a default, and a callable may set it
    as an attribute. For "local" it may be the path of a folder, as for "onnx", which also takes a
    folder in an installed package: "package:NAME" or "package:NAME/FOLDER"."""

    dim: int = key(0, at_least=0, at_most=MAX_DIM)
    """Length of the model's vectors. It is needed wherever model is given, except for "local",
    "onnx" and callables with an attribute dim."""

    pooling: str = key(
        "", pattern=r"^(mean|cls|lasttoken)?$", accepted="'mean', 'cls', 'lasttoken' or ''"
    )
    """For "onnx": how the vectors of the tokens become one: "mean", "cls" or "lasttoken". Empty: as
    the model's folder says."""

    max_tokens: int = key(0, at_least=0, at_most=1_000_000)
    """For "onnx": how many tokens of a text the model reads; the rest is cut off. 0: as the model's
    folder says."""

    base_url: str = key(OWN_URL, pattern=r"^https?://.+", accepted=ADDRESS)
    """For "openai": the address of the service, without /embeddings."""

    api_key_env: str = key(
        "", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$", accepted="the name of a variable"
    )
    """For "openai": the environment variable that holds the key. Empty: OPENAI_API_KEY for
    api.openai.com, and no key for other services."""

    request_dim: bool = False
    """For "openai": ask the service to shorten the vectors to dim."""

    query_prefix: str = ""
    """Text before each query, for models that expect an instruction. "onnx" finds it in the model's
    folder if the folder has it."""

    document_prefix: str = ""
    """Text before each document, as for queries."""

    batch_size: int = key(64, at_least=1, at_most=2048)
    """Maximum number of texts per request."""

    concurrency: int = key(4, at_least=1, at_most=64)
    """Maximum number of concurrent requests. A local model runs one at a time."""

    timeout: float = key(30.0, above=0, at_most=3600)
    """Seconds that one request may take. There is no limit for models on this machine."""

    total_timeout: float = key(120.0, above=0, at_most=86_400)
    """Seconds that a request may take with all its retries."""

    retries: int = key(4, at_least=0, at_most=100)
    """Maximum number of retries of a request after status 429 or 5xx, a broken connection or a
    timeout, with increasing delays.

    The service's Retry-After header is obeyed."""

    cache_mb: int = key(16, at_least=0, at_most=65_536)
    """MiB of memory for the cache of texts and their vectors. 0 turns the cache off."""
