"""What a script finds of the network where it reaches the hosts of a list: variables, and words.

Programs are told of the proxy by the variables that they look at, each in its own spelling.
What the script itself serves on its loopback stays a direct connection.  Pure.
"""

from __future__ import annotations

from goexfsd.hosts import PROXY, Hosts, join, parse_host, parse_service
from goexfsd.sandbox.policy import Policy

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_DIRECT = ("localhost", "127.0.0.1", "::1")
_BUNDLES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
)


def variables(policy: Policy, has_authority: bool, authority: str) -> dict[str, str]:
    """The environment of a script behind the proxy; ``authority``: where its certificates lie."""
    found = dict.fromkeys(_PROXIES, "http://{}:{}".format(*PROXY))
    direct = ",".join(host for host in _DIRECT if not _listed(policy, host))
    if direct:
        found |= {"no_proxy": direct, "NO_PROXY": direct}
    found["NODE_USE_ENV_PROXY"] = "1"
    if has_authority:
        found |= dict.fromkeys(_BUNDLES, authority)
    # Placeholders take their places when there are some.
    for each in policy.credentials:
        if each.env is not None:
            found[each.env] = "{placeholder}"
    return found


def _listed(policy: Policy, host: str) -> bool:
    """Whether the list has this host at any port: then it means the machine's own."""
    parsed = parse_host(f"[{host}]" if ":" in host else host)
    rules = Hosts(policy.allow).rules
    return any(Hosts([rule.text]).lists(parsed, port) for rule in rules for port in rule.ports)


def intercepts(policy: Policy) -> bool:
    """Whether there will be certificates of the proxy's own."""
    return any(parse_service(each.host)[2] for each in policy.credentials)


def words(policy: Policy) -> tuple[str, ...]:
    """What is reached, for a person."""
    if policy.network == "none":
        return ("nothing but its own loopback",)
    if policy.network == "host":
        return ("everything that this machine reaches, its own services too",)
    by = "through a proxy, at {}:{} in the sandbox".format(*PROXY)
    hosts = ", ".join(policy.allow) or "no host: the list is empty"
    return (f"{hosts} ({by})", *(_credential_words(policy)))


def _credential_words(policy: Policy) -> list[str]:
    found = []
    for each in policy.credentials:
        host, port, tls = parse_service(each.host)
        way = "https, which the proxy opens" if tls else "http"
        found.append(f"secret {each.secret}: {each.header} of {join(host, port)} ({way})")
    return found
