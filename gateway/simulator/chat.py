"""A chat model that repeats what it was told, word by word: by OpenAI's interface and by Anthropic's."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

from gateway.simulator.answers import Answer, Refused, json_answer
from gateway.simulator.options import Options

# The words of a v1 streaming service (ModelArts user guide, "Accessing a Real-Time Service Using SSE").
STREAM_TYPE = "text/event-stream;charset=UTF-8"
_DEFAULT_MODEL = "simulated-model"
_ENDED = {"stop_reason": "end_turn", "stop_sequence": None}


class Chat:
    """Completions, messages and the list of models."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def models(self) -> Answer:
        """``GET /v1/models``."""
        names = self._options.models or (_DEFAULT_MODEL,)
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names]
        return json_answer(200, {"object": "list", "data": listed})

    def complete(self, method: str, content: bytes, request_id: str) -> Answer:
        """``POST /v1/chat/completions``, whole or as server-sent events when ``stream`` is true.

        Raises:
            Refused: 400 for a body that is no chat request, 404 for a model that ``Options.models`` does not name.
        """
        ask, model, words = self._asked(method, content)
        prompt_tokens = sum(len(_text(message).split()) for message in ask["messages"])
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(words),
            "total_tokens": prompt_tokens + len(words),
        }
        head = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": model}
        if ask.get("stream"):
            options = ask.get("stream_options")
            wanted = usage if isinstance(options, dict) and options.get("include_usage") else None
            return Answer(200, self._events(head, words, wanted), STREAM_TYPE, (("Cache-Control", "no-cache"),))
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return json_answer(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def message(self, method: str, content: bytes, request_id: str) -> Answer:
        """``POST /anthropic/v1/messages``, whole or as server-sent events when ``stream`` is true.

        Source: Anthropic API reference, "Messages" and "Streaming messages".

        Raises:
            Refused: as ``complete``.
        """
        ask, model, words = self._asked(method, content)
        head = {"id": f"msg_{request_id}", "type": "message", "role": "assistant", "model": model}
        read = {"input_tokens": sum(len(_text(message).split()) for message in ask["messages"])}
        if ask.get("stream"):
            return Answer(200, self._steps(head, words, read), STREAM_TYPE, (("Cache-Control", "no-cache"),))
        said = [{"type": "text", "text": " ".join(words)}]
        usage = {**read, "output_tokens": len(words)}
        return json_answer(200, {**head, "content": said, **_ENDED, "usage": usage})

    def _asked(self, method: str, content: bytes) -> tuple[dict[str, Any], str, list[str]]:  # Any: JSON
        """The request, its model, and the words to answer."""
        if method != "POST":
            raise Refused(405, "ModelArts.81001", "Method Not Allowed")
        ask = _request(content)
        model = ask.get("model") or _DEFAULT_MODEL
        if self._options.models and model not in self._options.models:
            raise Refused(404, "ModelArts.81009", f"The model {model} does not exist.")
        return ask, model, ["You", "said:", *_last_words(ask)]

    async def _steps(
        self, head: dict[str, Any], words: list[str], read: dict[str, int]
    ) -> AsyncGenerator[bytes, None]:  # Any: JSON
        def step(kind: str, **fields: object) -> bytes:
            return f"event: {kind}\n".encode() + _event({"type": kind, **fields})

        begun = {**head, "content": [], **dict.fromkeys(_ENDED), "usage": {**read, "output_tokens": 0}}
        yield step("message_start", message=begun)
        yield step("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for position, word in enumerate(words):
            await asyncio.sleep(self._options.word_seconds)
            delta = {"type": "text_delta", "text": word if position == 0 else f" {word}"}
            yield step("content_block_delta", index=0, delta=delta)
        yield step("content_block_stop", index=0)
        yield step("message_delta", delta=_ENDED, usage={"output_tokens": len(words)})
        yield step("message_stop")

    async def _events(
        self, head: dict[str, Any], words: list[str], usage: dict[str, int] | None
    ) -> AsyncGenerator[bytes, None]:  # Any: JSON
        def event(delta: dict[str, str], finish: str | None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return _event({**head, "object": "chat.completion.chunk", "choices": [choice]})

        yield event({"role": "assistant", "content": ""}, None)
        for position, word in enumerate(words):
            await asyncio.sleep(self._options.word_seconds)
            yield event({"content": word if position == 0 else f" {word}"}, None)
        yield event({}, "stop")
        if usage is not None:
            yield _event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:  # Any: JSON
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _request(content: bytes) -> dict[str, Any]:  # Any: JSON
    try:
        ask = json.loads(content)
    except ValueError as error:
        raise Refused(400, "ModelArts.81001", "The request body is not JSON.") from error
    messages = ask.get("messages") if isinstance(ask, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise Refused(400, "ModelArts.81001", "messages is not an array of objects, or it is empty.")
    return dict(ask)


def _last_words(ask: dict[str, Any]) -> list[str]:  # Any: JSON
    return _text(ask["messages"][-1]).split()


def _text(message: dict[str, Any]) -> str:  # Any: JSON
    """The text of a message, whose content is a string or an array of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
