"""Read a trusted proxy's data about its client: trusted peers, the PROXY protocol, forwarding headers."""
