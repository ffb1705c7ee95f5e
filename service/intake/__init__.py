"""Handles POST /batch: a batch is read and validated, and then run immediately or accepted for the background."""
