"""Reads the operations of a batch from its lines or rows, and validates them. Front ends and consumers share this."""
