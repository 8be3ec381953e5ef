"""The way out: an HTTP proxy that lets a step reach the hosts of a list, and nothing else

The step has a network namespace of its own with a loopback and nothing more.  The socket that
the proxy listens on was made in there and handed out, so what a script connects to on its
loopback is accepted by a process outside: no program of ours runs beside the script, and no path
leads out.  See docs/decisions/0010-egress-proxy.md.  The rooms:

- ``gate``: the daemon's side of a step's proxy; what a step may reach, what it did
- ``network``: the namespace and the socket
- ``worker``: the proxy's process, of a uid that owns nothing
- ``proxy``: connections: accept, judge, refuse or carry
- ``message``: HTTP messages, read strictly, written anew (h11)
- ``tunnel``: bytes to and fro
- ``upstream``: from a listed host to a connection, to the checked address and no other
- ``credentials``: placeholders in, values out; values in answers, masked
- ``authority``: certificates for the hosts whose requests get a credential
"""
