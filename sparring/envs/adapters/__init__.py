"""Worlds that were written for other libraries, played as they are: gymnasium, TextArena, OpenEnv, verifiers, MCP."""
