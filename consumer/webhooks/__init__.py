"""Delivers the events of batches to the receivers that tenants have chosen."""
