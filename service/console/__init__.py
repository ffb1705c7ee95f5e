"""The console: pages for the operator at night, and for the customer who has sent a file.

Every page is HTML that the server renders (`rendering.py`, `templates/`). It works without scripts, except for the file
page. With scripts (`static/console.js`, htmx) an open page refreshes itself. The pages call the same functions as the
API, never the API over HTTP.
"""
