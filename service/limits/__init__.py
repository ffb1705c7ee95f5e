"""How much a caller may submit: quotas of operations, charged in the table and told in every answer."""
