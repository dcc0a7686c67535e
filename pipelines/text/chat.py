"""A large language model behind an HTTP endpoint, asked with a prompt; answers are kept.

The endpoint speaks the chat interface that vLLM, llama.cpp, Ollama and most hosted services share
(POST .../v1/chat/completions). Answers are kept in a folder by the hash of model and prompt, so a
run that is resumed, or done again with other steps behind, pays for nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

from pydantic import Field, field_validator

from pipelines.operators import Modifier
from pipelines.retries import Patience, passes, patiently

BYTES_A_TOKEN = 4  # of English under the tokenizers of the day: where a server counts none
WAIT_SECONDS = 1.0  # before the second try, about; it doubles before each further one


class Answer(NamedTuple):
    """What a model said, and the tokens that it read and wrote where the server counts them."""

    text: str
    tokens_read: int | None = None
    tokens_written: int | None = None


class Chat(Modifier):
    """The parameters of an endpoint, and what asking it costs.

    The key of a service is read from the environment variable that `key_variable` names.
    """

    url: str = Field(description="the endpoint, as http://localhost:8000/v1/chat/completions")
    model: str = Field(description="the model's name there")
    prompt: str = Field(description="what is asked; {text} is the text")
    cache: str = Field(description="folder that keeps the answers; all workers must see it")
    max_characters: int = Field(4000, ge=1, description="only so much of a text is asked about")
    max_tokens: int = Field(16, ge=1, description="longest answer")
    tries: int = Field(4, ge=1, description="of a request before the run stops")
    timeout_seconds: float = Field(120, gt=0, description="for one answer")
    at_once: int = Field(8, ge=1, description="requests of one worker that wait for answers")
    dollars_in: float = Field(0, ge=0, description="price of a million tokens that it reads")
    dollars_out: float = Field(0, ge=0, description="price of a million tokens that it writes")
    key_variable: str | None = Field(None, description="environment variable with the key")

    @field_validator("prompt")
    @classmethod
    def _asks_about_the_text(cls, prompt: str) -> str:
        if "{text}" not in prompt:
            raise ValueError("the prompt does not hold {text}: nothing of the document is asked")
        return prompt

    def asked(self, texts: Sequence[str]) -> list[str]:
        """The prompts of texts."""
        return [self.prompt.replace("{text}", text[: self.max_characters]) for text in texts]

    def answers(self, prompts: Sequence[str]) -> list[Answer]:
        """The answers in order, several asked for at a time."""
        with ThreadPoolExecutor(self.at_once) as threads:
            return list(threads.map(self._answer, prompts))

    def cost(self, prompts: Sequence[str], answers: Sequence[Answer]) -> dict[str, int]:
        """Requests, tokens and money, cached answers included: what the run costs somebody else.

        Tokens are the server's counts, else a token for every four bytes.
        """
        read = written = 0
        for prompt, answer in zip(prompts, answers, strict=True):
            read += _tokens(prompt) if answer.tokens_read is None else answer.tokens_read
            own = answer.tokens_written
            written += _tokens(answer.text) if own is None else own
        return self.counts(len(prompts), read, written)

    def counts(self, requests: int, read: int, written: int) -> dict[str, int]:
        """What is counted in the run."""
        return {
            "requests": requests,
            "tokens_read": read,
            "tokens_written": written,
            "micro_dollars": round(read * self.dollars_in + written * self.dollars_out),
        }

    def _answer(self, prompt: str) -> Answer:
        """The answer to a prompt, from the cache when it was asked before."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }
        data = json.dumps(body, sort_keys=True).encode()
        key = hashlib.sha256(data).hexdigest()
        file = Path(self.cache) / key[:2] / f"{key}.json"
        if file.is_file():
            kept = json.loads(file.read_text(encoding="utf-8"))
            return Answer(str(kept["answer"]), kept.get("tokens_read"), kept.get("tokens_written"))
        answer = self._request(data)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.{id(prompt)}.part")
        content = {"answer": answer.text}
        content |= {k: v for k, v in answer._asdict().items() if k != "text" and v is not None}
        part.write_text(json.dumps(content), encoding="utf-8")
        os.replace(part, file)
        return answer

    def _request(self, data: bytes) -> Answer:
        """Ask the endpoint; busy and broken servers are asked again. OSError when none answers."""
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ.get(self.key_variable, '')}"
        request = urllib.request.Request(self.url, data=data, headers=headers)

        def ask() -> Answer:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                return _content(json.load(response))

        try:
            return patiently(
                ask,
                what=self.url,
                may_pass=_may_pass,
                patience=lambda: Patience(tries=self.tries, first_pause_seconds=WAIT_SECONDS),
            )
        except (OSError, ValueError) as error:
            problem = f"{error.code} {error.reason}" if isinstance(error, HTTPError) else error
            raise OSError(
                f"{self.url} did not answer ({problem}); is the server running, and is "
                f"{self.model!r} a model of it? Answers so far are kept, run again to resume"
            ) from None


def _may_pass(error: Exception) -> bool:
    """Busy and broken servers, broken connections, and answers that are no completion."""
    if isinstance(error, HTTPError):
        return passes(error.code)
    return isinstance(error, OSError | ValueError)


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // BYTES_A_TOKEN)


def _content(answer: Any) -> Answer:
    """The text of an answer. ValueError for another form."""
    try:
        text = str(answer["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"an answer without choices: {str(answer)[:200]}") from None
    usage = answer.get("usage")
    counts = [
        value if isinstance(value := (usage or {}).get(key), int) else None
        for key in ("prompt_tokens", "completion_tokens")
    ]
    return Answer(text, *counts)
