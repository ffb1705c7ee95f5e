"""The endpoints for one batch that was accepted: its status, its results, its cancellation and its retry."""
