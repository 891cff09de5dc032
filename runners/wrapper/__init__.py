"""The wrapper: our program that is process 1 of the user's container (`wrapper.c`, linked statically).

The agent's image has it as ``/usr/local/bin/uws-wrapper``; its agent copies it to where the user's
container finds it.
"""
