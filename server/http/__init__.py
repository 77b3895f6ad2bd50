"""Serving over HTTP: MCP (Streamable HTTP at `/mcp`, SSE at `/sse`), REST at `/api/v1`, and `/healthz`.

A request passes these in turn: `guard` (is it meant for us, and how large is it), `access` (who asks, how often),
`bodies` (all of it, in time), then `protocol` (MCP) or `rest` and `events`. `app` puts them together, `patience` bounds
what a connection may hold up, and `serving` begins and ends it.
"""
