"""The sandbox over HTTP: protocol, server, client."""
