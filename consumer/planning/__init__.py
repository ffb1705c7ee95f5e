"""Plans batches that are uploaded files: validates the file, cuts it into chunks, and sends them."""
