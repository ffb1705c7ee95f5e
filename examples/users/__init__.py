"""The example to copy: users in a real database. Start with app.py; README.md explains the design."""
