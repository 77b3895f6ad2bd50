"""An MCP server for the official conformance suite: the product's own, with the fixtures that the suite calls by name.

`python -m tests.conformance_server --port N` serves it at `http://127.0.0.1:N/mcp`. Server, middleware, extensions and
HTTP stack are the product's, over a store of its own in a temporary directory; only the fixtures are added here.
"""
