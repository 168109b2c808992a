"""How each real server of the tests is had, one module a server."""
