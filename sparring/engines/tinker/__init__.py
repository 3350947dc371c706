"""Agents that are adapters on a server which speaks the Tinker API: it trains them, and draws their actions."""
