"""A1 for MCP clients: `create_server(agent)` gives a tool that reasons, and a resource with what calls did."""

from a1agent_mcp.server import Limits, Reasoned, create_server

__all__ = ["Limits", "Reasoned", "create_server"]
