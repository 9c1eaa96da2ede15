"""Agent frameworks that speak the Model Context Protocol, each with its own client.

`nox -s agents` installs one at a time, because they need different versions of the same packages.
The tested code is from examples/agent_memory/README.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="needs aiovec[mcp]")

TOOLS = {"recall", "search", "get", "list", "remember", "forget"}
ARGS = ["mcp", "-s", "memory.db", "--allow-writes", "--embedder", "demo"]


@pytest.fixture(autouse=True)
def the_command_is_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", folder, prepend=os.pathsep)


async def test_the_openai_agents_sdk_remembers_and_recalls() -> None:
    mcp = pytest.importorskip("agents.mcp", reason="needs openai-agents")
    async with mcp.MCPServerStdio({"command": "aiovec", "args": ARGS}) as server:
        assert {tool.name for tool in await server.list_tools()} == TOOLS
        await server.call_tool("remember", {"text": "Ana likes tea."})
        result = await server.call_tool("recall", {"query": "tea"})
        assert [memory["text"] for memory in result.structured_content["memories"]] == [
            "Ana likes tea."
        ]


async def test_googles_adk_lists_the_tools() -> None:
    adk = pytest.importorskip("google.adk.tools.mcp_tool", reason="needs google-adk")
    from mcp import StdioServerParameters

    server = StdioServerParameters(command="aiovec", args=ARGS)
    toolset = adk.McpToolset(connection_params=adk.StdioConnectionParams(server_params=server))
    assert {tool.name for tool in await toolset.get_tools()} == TOOLS
    await toolset.close()


async def test_agno_remembers_and_recalls() -> None:
    agno = pytest.importorskip("agno.tools.mcp", reason="needs agno and fastmcp")
    async with agno.MCPTools(f"aiovec {' '.join(ARGS)}") as tools:
        assert set(tools.functions) == TOOLS
        await tools.functions["remember"].entrypoint(text="Ana likes tea.")
        assert "Ana likes tea." in str(await tools.functions["recall"].entrypoint(query="tea"))


async def test_microsofts_agent_framework_remembers_and_recalls() -> None:
    framework = pytest.importorskip("agent_framework", reason="needs agent-framework-core")
    tool = framework.MCPStdioTool(name="memory", command="aiovec", args=ARGS)
    async with tool as memory:
        assert {function.name for function in memory.functions} == TOOLS
        await memory.call_tool("remember", text="Ana likes tea.")
        (result,) = await memory.call_tool("recall", query="tea")
        assert "Ana likes tea." in result.text


def test_strands_remembers_and_recalls() -> None:
    strands = pytest.importorskip("strands.tools.mcp", reason="needs strands-agents")
    from mcp import StdioServerParameters, stdio_client

    server = StdioServerParameters(command="aiovec", args=ARGS)
    with strands.MCPClient(lambda: stdio_client(server)) as client:
        assert {tool.tool_name for tool in client.list_tools_sync()} == TOOLS
        client.call_tool_sync("1", "remember", {"text": "Ana likes tea."})
        result = client.call_tool_sync("2", "recall", {"query": "tea"})
        assert "Ana likes tea." in result["content"][0]["text"]
