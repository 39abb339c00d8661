"""How long a sweep would take."""
