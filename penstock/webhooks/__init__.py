"""Webhooks as pure decisions: events, endpoints, deliveries, signatures, the schedule, and which URLs are allowed."""
