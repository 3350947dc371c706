"""An MCP server with two notes, for tests: `python -m tests.envs.adapters.mcp_server`, over standard streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def score(task: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], answer: str | None) -> float:
    """Give half for the right note, and 1 for the right answer."""
    if answer is not None:
        return float(answer == task["wanted"])
    return 0.5 if any(call["tool"] == "read" and task["wanted"] in call["result"] for call in calls) else 0.0


if __name__ == "__main__":
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("notes")
    notes = {"red": "the key lies under the mat", "blue": "nothing"}

    @server.tool()
    def read(colour: str) -> str:
        """Read a note."""
        return notes.get(colour, "There is no such note.")

    @server.tool()
    def write(colour: str, text: str) -> str:
        """Write a note."""
        notes[colour] = text
        return f"{len(notes)} notes."

    server.run()
