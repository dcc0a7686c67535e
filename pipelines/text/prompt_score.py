"""Scores by a large language model behind an HTTP endpoint, asked with a prompt.

The endpoint speaks the chat interface that vLLM, llama.cpp, Ollama and most hosted services share
(POST .../v1/chat/completions). Answers are kept in a folder by the hash of model and prompt, so a
run that is resumed, or done again at another threshold, pays for nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator

from pipelines.batch import Batch
from pipelines.operators import Counted, Modifier

BYTES_A_TOKEN = 4  # of English under the tokenizers of the day: for the estimate of a cost
WAIT_SECONDS = 1.0  # before the second try; twice that before each further one


class PromptScore(Modifier, name="prompt_score"):
    """Add the number that a language model answers about a text, asked over HTTP.

    An answer in which `pattern` finds no number is no score (null). The counts of the run hold the
    requests, about how many tokens they read and write at most, and what that costs at the prices
    given (`micro_dollars`), cached answers included: what the same run costs somebody else. The key
    of a service is read from the environment variable that `key_variable` names.
    """

    url: str = Field(description="the endpoint, as http://localhost:8000/v1/chat/completions")
    model: str = Field(description="the model's name there")
    prompt: str = Field(description="what is asked; {text} is the text")
    cache: str = Field(description="folder that keeps the answers; all workers must see it")
    column: str = Field("score", description="column to write")
    pattern: str = Field(r"(-?\d+(?:\.\d+)?)", description="the number in an answer, in a group")
    max_characters: int = Field(4000, ge=1, description="only so much of a text is asked about")
    max_tokens: int = Field(16, ge=1, description="longest answer")
    tries: int = Field(4, ge=1, description="of a request before the run stops")
    timeout_seconds: float = Field(120, gt=0, description="for one answer")
    at_once: int = Field(8, ge=1, description="requests of one worker that wait for answers")
    dollars_in: float = Field(0, ge=0, description="price of a million tokens that it reads")
    dollars_out: float = Field(0, ge=0, description="price of a million tokens that it writes")
    key_variable: str | None = Field(None, description="environment variable with the key")
    reasons: ClassVar[tuple[str, ...]] = ()

    @field_validator("prompt")
    @classmethod
    def _asks_about_the_text(cls, prompt: str) -> str:
        if "{text}" not in prompt:
            raise ValueError("the prompt does not hold {text}: nothing of the document is asked")
        return prompt

    @field_validator("pattern")
    @classmethod
    def _has_a_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups < 1:
            raise ValueError("the pattern has no group (...) around the number")
        return pattern

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def modify(self, batch: Batch) -> Counted:
        asked = [
            self.prompt.replace("{text}", text[: self.max_characters])
            for text in batch.text.to_pylist()
        ]
        with ThreadPoolExecutor(self.at_once) as threads:
            answers = list(threads.map(self._answer, asked))
        read = sum(-(-len(prompt.encode()) // BYTES_A_TOKEN) for prompt in asked)
        written = self.max_tokens * len(asked)
        counts = {
            "requests": len(asked),
            "tokens_read": read,
            "tokens_written": written,
            "micro_dollars": round(read * self.dollars_in + written * self.dollars_out),
        }
        scores = [self._number(answer) for answer in answers]
        return Counted({self.column: pa.array(scores, pa.float64())}, counts)

    def _number(self, answer: str) -> float | None:
        match = re.search(self.pattern, answer)
        try:
            return None if match is None else float(match.group(1))
        except ValueError:
            return None

    def _answer(self, prompt: str) -> str:
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
            return str(json.loads(file.read_text(encoding="utf-8"))["answer"])
        answer = self._request(data)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.{id(prompt)}.part")
        part.write_text(json.dumps({"answer": answer}), encoding="utf-8")
        os.replace(part, file)
        return answer

    def _request(self, data: bytes) -> str:
        """Ask the endpoint; busy and broken servers are asked again. OSError when none answers."""
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ.get(self.key_variable, '')}"
        problem = ""
        for number in range(self.tries):
            if number:
                time.sleep(WAIT_SECONDS * 2 ** (number - 1))
            request = urllib.request.Request(self.url, data=data, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                    return _content(json.load(response))
            except urllib.error.HTTPError as error:
                problem = f"{error.code} {error.reason}"
                if error.code not in (408, 429) and error.code < 500:
                    break
            except (OSError, ValueError) as error:
                problem = str(error)
        raise OSError(
            f"{self.url} did not answer ({problem}); is the server running, and is {self.model!r} "
            "a model of it? Answers so far are kept, run again to resume"
        )


def _content(answer: Any) -> str:
    """The text of an answer. ValueError for another form."""
    try:
        return str(answer["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"an answer without choices: {str(answer)[:200]}") from None
