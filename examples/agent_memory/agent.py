"""Call the tools of `aiovec mcp` as an agent does, step by step and without a model.

With a model, the model chooses the tools and their arguments.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

SERVER = StdioServerParameters(
    command=sys.executable,
    args=["-m", "aiovec", "mcp", "--config", "aiovec.toml", "--allow-writes"],
    cwd=Path(__file__).parent,
)


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    text = result.content[0].text
    return text if result.is_error else json.loads(text)


async def first_conversation() -> None:
    async with Client(SERVER) as client:
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        for text, facts in (
            ("Ana prefers short answers.", {"user": "ana"}),
            ("The deploy of order service 4711 failed on Friday.", {"topic": "deploy"}),
            ("Ben is on holiday until March.", {"user": "ben"}),
        ):
            await call(client, "remember", text=text, facts=facts)


async def second_conversation() -> None:
    async with Client(SERVER) as client:
        answer = await call(client, "recall", query="which deploy failed?", limit=1)
        print("recalled:", answer["memories"][0]["text"])
        answer = await call(client, "recall", query="answers", where="payload.user = 'ana'")
        print("of Ana:", [memory["text"] for memory in answer["memories"]])
        print("an error:", await call(client, "recall", query="x", where="payload.user ="))
        print("forgotten:", await call(client, "forget", where="payload.user = 'ben'"))


if __name__ == "__main__":
    asyncio.run(first_conversation())
    asyncio.run(second_conversation())
