"""Transformers in ONNX format, which onnxruntime runs from a folder or an installed package.

The folder is as sentence-transformers saves it, with ``model.onnx`` and ``tokenizer.json``. Its
other files say how a vector is made of the vectors of the tokens; settings replace what they say.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..backend.memory import usable_cores
from ..errors import ConfigError
from .protocol import Purpose

if TYPE_CHECKING:
    from ..backend.embedders import EmbedderSettings

PACKAGE = re.compile(r"package:(\w+)((?:/\w[\w.-]*)*)\Z")
"""A model in an installed package, such as "package:minilm" or "package:minilm/model"."""

# The inputs of models, and the attributes of encoded texts that have their values.
_INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_MODULES = {"Transformer", "Pooling", "Normalize"}
# The tokens whose vectors' mean is the vector of the text, by sentence-transformers' names.
_POOLED = {"mean": slice(None), "cls": slice(1), "lasttoken": slice(-1, None)}
_USUAL_TOKENS = 512  # of BERT and most models that descend from it


class OnnxModel:
    """A model that is loaded at its first use, and may be called in several threads at once.

    It computes one text at a time: a batch pads its short texts, which costs more than it saves
    (``python -m bench embed``), and takes the memory of all its texts.
    """

    def __init__(self, name: str, settings: EmbedderSettings) -> None:
        self._key = f"retrieval.embedders.{name}.model"
        self._source = settings.model
        self._folder = self._located()
        self._file = self._found()
        self._tokens = self._folder / "tokenizer.json"
        self._lock = threading.Lock()  # held while the model loads
        self._session: Any = None
        try:
            facts = self._facts(settings)
            # The weights of a large model are in a second file, such as model.onnx_data.
            weights = sorted(self._file.parent.glob(f"{self._file.name}?*"))
            digests = [_digest(file) for file in (self._file, self._tokens, *weights)]
        except Exception as exc:  # a damaged file can be any JSON
            raise self._unusable(exc) from exc
        whole = json.dumps([facts, *digests], sort_keys=True).encode()
        self.model = f"onnx-{hashlib.sha256(whole).hexdigest()[:16]}"
        self.dim: int | None = settings.dim or facts["dim"]
        self._pooling, self._normalize = facts["pooling"], facts["normalize"]
        self._max_tokens = facts["max_tokens"]
        # The batcher adds the prefixes of the settings, which replace those of the folder.
        query, document = facts["query"], facts["document"]
        self._prompts: dict[Purpose, str] = {
            "query": "" if settings.query_prefix else query,
            "document": "" if settings.document_prefix else document,
        }

    def prepare(self) -> None:
        """Load the model and its tokenizer."""
        with self._lock:
            if self._session is None:
                try:
                    self._load()
                except Exception as exc:  # both packages raise many classes
                    raise self._unusable(exc) from exc

    def tokenizer(self) -> tuple[Any, int]:
        """Return the model's tokenizer without truncation, and the model's token limit."""
        self.prepare()
        tokenizer = copy.deepcopy(self._tokenizer)
        tokenizer.no_truncation()
        return tokenizer, self._max_tokens

    def __call__(self, texts: list[str], *, kind: Purpose = "document") -> npt.NDArray[np.float32]:
        """Return one row for each text, in order."""
        self.prepare()
        return np.stack([self._vector(self._prompts[kind] + text) for text in texts])

    def _vector(self, text: str) -> npt.NDArray[np.float32]:
        tokens = self._tokenizer.encode(text)
        values = {name: getattr(tokens, _INPUTS[name]) for name in self._inputs}
        inputs = {name: np.array([value], dtype=np.int64) for name, value in values.items()}
        (output,) = self._session.run([self._output], inputs)
        if output.ndim == 3 and output.shape[:2] == (1, len(tokens.ids)) and self._pooling:
            output = output[:, _POOLED[self._pooling]].mean(axis=1, dtype=np.float32)
        if output.ndim != 2 or len(output) != 1:
            raise self._unusable(
                f"the output {self._output!r} has the shape {output.shape} for a text of "
                f"{len(tokens.ids)} tokens, not that of a vector, or of one for each token with "
                f"pooling set to one of {', '.join(_POOLED)}"
            )
        vector = np.asarray(output[0], dtype=np.float32)
        length = np.linalg.norm(vector)
        return np.divide(vector, length) if self._normalize and length else vector

    def _load(self) -> None:
        from onnxruntime import InferenceSession, SessionOptions
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._tokens))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self._max_tokens)
        options = SessionOptions()
        # Half of the cores, without threads that spin, leave time for an app's other work.
        options.intra_op_num_threads = max(1, usable_cores() // 2)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # no warnings on stderr
        session = InferenceSession(str(self._file), options, providers=["CPUExecutionProvider"])
        self._inputs = [each.name for each in session.get_inputs()]
        if unknown := {*self._inputs} - {*_INPUTS}:
            raise ValueError(f"it has the inputs {unknown}; known are {', '.join(_INPUTS)}")
        outputs = [each.name for each in session.get_outputs()]
        # Some models return the vector of the text beside those of the tokens.
        self._output = "sentence_embedding" if "sentence_embedding" in outputs else outputs[0]
        self._tokenizer, self._session = tokenizer, session

    def _facts(self, settings: EmbedderSettings) -> dict[str, Any]:
        """Return all that decides the vectors besides the model and its tokenizer."""
        paths = {each["type"].rpartition(".")[2]: each["path"] for each in self._json("modules")}
        if unknown := paths.keys() - _MODULES:
            raise ValueError(f"modules.json has {unknown}; known are {_MODULES}")
        pooling = self._json(f"{paths.get('Pooling', '1_Pooling')}/config")
        keys = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
        modes = [re.sub("pooling_mode_|_tokens?$", "", key) for key in keys]
        mode = settings.pooling or pooling.get("pooling_mode") or "+".join(modes)
        if mode not in ("", *_POOLED) or not pooling.get("include_prompt", True):
            raise ValueError(f"its pooling is {pooling}; known are {', '.join(_POOLED)}")
        model, bert = self._json("config"), self._json("sentence_bert_config")
        most = bert.get("max_seq_length") or self._json("tokenizer_config").get("model_max_length")
        if not most or most > 10**6:  # a tokenizer without a limit has 10**30
            most = min(_USUAL_TOKENS, model.get("max_position_embeddings", _USUAL_TOKENS))
        dim = pooling.get("word_embedding_dimension") or pooling.get("embedding_dimension")
        prompts = self._json("config_sentence_transformers").get("prompts") or {}
        return {
            "pooling": mode,
            "normalize": not paths or "Normalize" in paths,
            "dim": dim or model.get("hidden_size"),
            "max_tokens": settings.max_tokens or most,
            "query": prompts.get("query", ""),
            "document": prompts.get("document") or prompts.get("passage", ""),
        }

    def _found(self) -> Path:
        """Return the folder's model.onnx, or its only ONNX file, which hubs have in ``onnx``."""
        files = [*self._folder.glob("*.onnx"), *self._folder.glob("onnx/*.onnx")]
        usual = [file for file in files if file.name == "model.onnx"]
        if not usual and len(files) > 1:
            raise self._unusable("it has several ONNX files, and none is model.onnx")
        return [*usual, *files, self._folder / "model.onnx"][0]

    def _json(self, name: str) -> Any:
        """Return the content of one of the folder's JSON files; an empty mapping without it."""
        file = self._folder / f"{name}.json"
        return json.loads(file.read_text("utf-8")) if file.exists() else {}

    def _located(self) -> Path:
        """Return the folder; that of a package is found without importing the package."""
        packaged = PACKAGE.match(self._source)
        if packaged is None:
            return Path(self._source)
        spec = find_spec(packaged[1])
        if spec is None or spec.origin is None:
            raise self._unusable(f"the package {packaged[1]} is not installed")
        return Path(spec.origin).parent / packaged[2].lstrip("/")

    def _unusable(self, why: object) -> ConfigError:
        return ConfigError(
            f"no ONNX model can be read in {self._source}: {why}; expected a folder, or "
            "package:NAME, with model.onnx and tokenizer.json",
            key=self._key,
        )


def _digest(file: Path) -> str:
    state = file.stat()
    return _digest_of(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_of(file: Path, _size: int, _changed: int) -> str:
    """Return a file's digest, which takes 0.1 s for 130 MB."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
