"""The endpoints for operators, load balancers and monitoring: dead letters, health and metrics."""
