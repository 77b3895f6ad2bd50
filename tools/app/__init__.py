"""The view of a run that a host with MCP Apps shows beside the conversation."""
