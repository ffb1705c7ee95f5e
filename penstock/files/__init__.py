"""Files of rows: what they contain, and which operation each row is. The front end and the command line share this."""
