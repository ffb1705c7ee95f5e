"""GET /batch/{id}/events: a stream of server-sent events that tells how a batch goes on."""
