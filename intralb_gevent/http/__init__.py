"""The HTTP server: connections read in the hub, their requests, responses, and the server's life cycle."""
