"""Pictures in S3 or a folder: CPU-bound work, done by name. Start with app.py; README.md tells why it is as it is."""
