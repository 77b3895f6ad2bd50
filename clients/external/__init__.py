"""External MCP servers: what the operator declared, connected to, pinned, and called under policy.

`tools.ExternalTools` is what executors call; `executor.ToolExecutor` runs nodes of kind `tool`.
"""
