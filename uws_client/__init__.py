"""A small client for any UWS 1.1 server, and the command `uws-job` on top of it.

`uws_client.protocol` speaks to the server, `uws_client.documents` reads what it answers. Nothing
heavy is imported here: the command shows its help before the libraries for HTTP and XML are needed.
"""
