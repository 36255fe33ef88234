"""Chat completions and messages, as the SDKs of OpenAI and Anthropic see them."""

import anthropic
import openai
import pytest

from gateway.simulator import Options, Simulator

from .senders import JSON, send

MESSAGES = [{"role": "user", "content": "the moon is bright"}]


def client(simulator: Simulator, base: str, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=base, api_key=key or simulator.credentials["api_key"], max_retries=0)


def bases(simulator: Simulator) -> dict[str, str]:
    maas = simulator.urls["maas"]
    return {
        "maas v1": f"{maas}/v1",
        "maas v2": f"{maas}/v2",
        "maas openai": f"{maas}/openai/v1",
        "openai": simulator.urls["openai"],
        "v2": simulator.urls["v2_api_key"] + "/v1",
    }


@pytest.mark.parametrize("base", ["maas v1", "maas v2", "maas openai", "openai", "v2"])
async def test_openai_sdk(simulator: Simulator, base: str) -> None:
    """The SDK gets whole answers, streams and the list of models from every base URL."""
    async with client(simulator, bases(simulator)[base]) as sdk:
        whole = await sdk.chat.completions.create(model="any", messages=MESSAGES)
        stream = await sdk.chat.completions.create(
            model="any", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        names = [model.id async for model in await sdk.models.list()]

    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert whole.choices[0].message.content == "You said: the moon is bright"
    assert "".join(words) == "You said: the moon is bright"
    assert len(words) == 6
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 10
    assert names == ["simulated-model"]


async def test_anthropic_sdk(simulator: Simulator) -> None:
    """Anthropic's SDK gets whole messages and streams from the address under /anthropic, with the same key."""
    base, key = simulator.urls["maas"] + "/anthropic", simulator.credentials["api_key"]
    async with anthropic.AsyncAnthropic(base_url=base, auth_token=key, max_retries=0) as sdk:
        whole = await sdk.messages.create(model="any", max_tokens=9, messages=MESSAGES)  # type: ignore[arg-type]
        async with sdk.messages.stream(model="any", max_tokens=9, messages=MESSAGES) as stream:  # type: ignore[arg-type]
            words = [text async for text in stream.text_stream]
            last = await stream.get_final_message()

    assert [part.text for part in whole.content if part.type == "text"] == ["You said: the moon is bright"]
    assert "".join(words) == "You said: the moon is bright"
    assert len(words) == 6
    assert (last.stop_reason, last.usage.input_tokens, last.usage.output_tokens) == ("end_turn", 4, 6)


async def test_events_on_the_wire(simulator: Simulator) -> None:
    """Each word is an event of its own, and the stream ends in [DONE]."""
    body = b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "stream": true}'

    reply = await send(simulator.urls["v2_open"] + "/v1/chat/completions", "POST", [("Content-Type", JSON)], body)

    assert reply.fields["content-type"] == "text/event-stream;charset=UTF-8"
    assert reply.body.count(b"data: {") == 5  # the role, three words, the end
    assert b"data: [DONE]\n\n" in reply.body


async def test_errors_reach_the_sdk(simulator: Simulator) -> None:
    """A wrong key raises the SDK's own exception, with MaaS's code."""
    async with client(simulator, simulator.urls["openai"], "another") as sdk:
        with pytest.raises(openai.AuthenticationError) as caught:
            await sdk.chat.completions.create(model="any", messages=MESSAGES)

    assert caught.value.code == "ModelArts.81003"


@pytest.mark.parametrize("options", [Options(models=("known",), word_seconds=0)])
async def test_known_models_alone(simulator: Simulator) -> None:
    """Where model names are set, another one is not found."""
    async with client(simulator, simulator.urls["openai"]) as sdk:
        await sdk.chat.completions.create(model="known", messages=MESSAGES)
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.chat.completions.create(model="another", messages=MESSAGES)

    assert caught.value.code == "ModelArts.81009"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"messages": []}', b'{"messages": "hi"}'])
async def test_no_chat_request(simulator: Simulator, body: bytes) -> None:
    """What is no chat request is refused."""
    reply = await send(simulator.urls["v2_open"] + "/v1/chat/completions", "POST", [("Content-Type", JSON)], body)

    assert (reply.status, reply.json()["error_code"]) == (400, "ModelArts.81001")
