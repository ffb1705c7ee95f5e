"""An example of CPU-bound work: pictures in S3 or in a folder. Start with app.py; README.md explains the design."""
