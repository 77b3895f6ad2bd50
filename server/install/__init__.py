"""Telling MCP clients of this server: one entry in a client's configuration, and nothing else of it touched."""
