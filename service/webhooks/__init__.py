"""What a tenant can do with webhooks: make endpoints, and see what was delivered to them."""
