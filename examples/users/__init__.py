"""Users in a real database: the example to copy. Start with app.py; README.md tells why it is as it is."""
