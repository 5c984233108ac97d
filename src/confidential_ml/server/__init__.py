"""The HTTP server (docs/http.md)."""
