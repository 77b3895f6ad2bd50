"""The dashboard: pages for people, at `/` of the HTTP server."""
